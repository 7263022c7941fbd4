"""The settings of PPO, under TRL's names."""

import math
from dataclasses import dataclass

from ..errors import SettingError

ABOVE_ZERO = (
    "total_episodes",
    "batch_size",
    "response_length",
    "temperature",
    "num_ppo_epochs",
    "num_mini_batches",
    "per_device_train_batch_size",
    "learning_rate",
    "max_grad_norm",
    "kl_horizon",
    "save_every",
)


@dataclass
class PPOConfig:
    """Every number of the loop.

    Raises SettingError for a value out of range, and for sizes that do not divide.
    """

    # How much is sampled
    total_episodes: int = 1664  # answers sampled in all
    batch_size: int = 128  # answers of one update
    response_length: int = 48  # most tokens of an answer
    temperature: float = 0.7  # of sampling, and of every log-probability

    # How each batch is learned from
    num_ppo_epochs: int = 4  # passes over each batch
    num_mini_batches: int = 2  # optimizer steps of one pass
    per_device_train_batch_size: int = 16  # answers read at once; changes memory and time only
    learning_rate: float = 1e-3  # of Adam; falls linearly to 0
    max_grad_norm: float = 1.0  # gradients are clipped to this norm

    # Reward
    score_clip: float = 0.0  # scores are cut to ± this many points; 0: never
    missing_eos_penalty: float = 1.0  # points taken off an answer that does not end
    whiten_rewards: bool = False  # scale rewards to variance 1 within the batch
    kl_coef: float = 0.05  # β: reward points per nat away from π_SFT
    kl_estimator: str = "k1"  # k1 (log-ratio) or k3 (always positive)
    kl_target: float = 0.0  # nats per answer that β is steered to; 0: β stays fixed
    kl_horizon: int = 2000  # episodes over which β is corrected

    # Advantages and losses
    gamma: float = 1.0  # γ: discount of a token
    lam: float = 1.0  # λ of GAE; 1: the whole reward reaches the first token
    cliprange: float = 0.2  # how far the probability ratio may move from 1
    cliprange_value: float = 0.2  # how far a value may move from the old one
    vf_coef: float = 0.1  # weight of the value loss

    # When to stop
    target_kl: float = 0.1  # approximate KL at which an update ends after this pass; 0: never
    ratio_threshold: float = 10.0  # mean ratio of a minibatch at which an update ends; 0: never
    max_kl: float = 100.0  # nats per answer at which training stops; 0: never
    save_every: int = 4  # updates between checkpoints, and between the watched answers

    def __post_init__(self):
        for name, value in vars(self).items():
            if name != "kl_estimator":
                self._check_range(name, value)
        if self.kl_estimator not in ("k1", "k3"):
            raise SettingError(f"kl_estimator={self.kl_estimator!r} must be 'k1' or 'k3'.")
        self._check_divides("total_episodes", "batch_size")
        self._check_divides("batch_size", "num_mini_batches")
        self._check_divides("mini_batch_size", "per_device_train_batch_size")

    def _check_range(self, name: str, value: float):
        if not 0 <= value < math.inf:
            raise SettingError(f"{name}={value} must be finite and not negative.")
        if name in ABOVE_ZERO and value == 0:
            raise SettingError(f"{name}=0 must be above 0.")
        if name in ("gamma", "lam") and value > 1:
            raise SettingError(f"{name}={value} must be at most 1.")

    def _check_divides(self, whole: str, part: str):
        if getattr(self, whole) % getattr(self, part):
            raise SettingError(
                f"{whole}={getattr(self, whole)} is not a multiple of "
                f"{part}={getattr(self, part)}: choose sizes that divide."
            )

    @property
    def mini_batch_size(self) -> int:
        return self.batch_size // self.num_mini_batches

    @property
    def num_updates(self) -> int:
        return self.total_episodes // self.batch_size
