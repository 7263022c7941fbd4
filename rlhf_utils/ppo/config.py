"""TODO: purpose."""

import math
from dataclasses import dataclass, fields

from ..errors import SettingError
from ..run.stage import convert


@dataclass
class PPOConfig:
    """Every number of the loop. Raises SettingError for values that cannot work, sizes that do not divide among them."""

    total_episodes: int = 1664  # responses sampled in all
    batch_size: int = 128  # episodes of one update
    num_mini_batches: int = 2  # optimizer steps of one pass over the batch
    per_device_train_batch_size: int = (
        16  # episodes of one pass, forward or backward; only memory and time depend on it
    )
    num_ppo_epochs: int = 4  # passes over each batch
    learning_rate: float = 6e-4  # of Adam; falls linearly to 0
    response_length: int = 48  # most tokens of a response
    temperature: float = 0.7  # of sampling, and of every log-probability
    kl_coef: float = 0.05  # β, reward points for each nat away from π_SFT
    kl_estimator: str = "k1"  # k1 (log-ratio) or k3 (always positive), Schulman 2020
    kl_target: float = (
        0.0  # nats a response that the adaptive controller steers to; 0 keeps β fixed
    )
    kl_horizon: int = 2000  # episodes over which the controller corrects
    cliprange: float = 0.2  # of the probability ratio
    cliprange_value: float = 0.2  # of the value
    vf_coef: float = 0.1  # weight of the value loss
    gamma: float = 1.0  # discount of a token
    lam: float = 1.0  # λ of GAE; 1: the first token, which decides whether to decline, gets all of what follows
    whiten_rewards: bool = False  # scale rewards to variance 1 within the batch
    score_clip: float = 0.0  # scores are cut to ± this many points; 0: never
    missing_eos_penalty: float = 1.0  # taken off the score of a response that does not end
    max_grad_norm: float = 1.0  # gradients are clipped to it
    target_kl: float = (
        0.1  # approximate KL of one update at which its remaining passes are left out; 0: never
    )
    ratio_threshold: float = 10.0  # mean ratio of a minibatch at which the update stops; 0: never
    max_kl: float = (
        100.0  # nats a response at which training stops, because the policy has run away; 0: never
    )

    def __post_init__(self):
        for field in fields(self):
            if field.type in (int, float) and not 0 <= getattr(self, field.name) < math.inf:
                raise SettingError(
                    f"{field.name}={getattr(self, field.name)} must be a finite number and not negative."
                )
        for name in (
            "total_episodes",
            "batch_size",
            "num_mini_batches",
            "per_device_train_batch_size",
            "num_ppo_epochs",
            "response_length",
            "temperature",
            "kl_horizon",
            "max_grad_norm",
        ):
            if getattr(self, name) == 0:
                raise SettingError(f"{name}=0 must be above 0.")
        for whole, part in (
            ("total_episodes", "batch_size"),
            ("batch_size", "num_mini_batches"),
            ("mini_batch_size", "per_device_train_batch_size"),
        ):
            if getattr(self, whole) % getattr(self, part):
                raise SettingError(
                    f"{whole}={getattr(self, whole)} is not a multiple of {part}={getattr(self, part)}: choose sizes that divide."
                )
        for name in ("gamma", "lam"):
            if getattr(self, name) > 1:
                raise SettingError(f"{name}={getattr(self, name)} must be at most 1.")
        if self.kl_estimator not in ("k1", "k3"):
            raise SettingError(f"kl_estimator={self.kl_estimator!r} must be 'k1' or 'k3'.")

    @classmethod
    def of(cls, parameters: dict, more: str = "") -> "PPOConfig":
        """The settings among a notebook's parameters, and those that `more` names: "gamma: 0.99, whiten_rewards=true"."""
        kinds = {field.name: field.type.__name__ for field in fields(cls)}
        values = {name: value for name, value in parameters.items() if name in kinds}
        for name, _, value in (
            part.replace(":", "=").partition("=") for part in more.split(",") if part.strip()
        ):
            if (name := name.strip()) not in kinds or name in values:
                raise SettingError(
                    f"more={more!r} may set {', '.join(kind for kind in kinds if kind not in parameters)}, each once, but not {name!r}."
                )
            values[name] = convert(name, value.strip(), kinds[name])
        return cls(**values)

    @property
    def mini_batch_size(self) -> int:
        return self.batch_size // self.num_mini_batches

    @property
    def num_updates(self) -> int:
        return self.total_episodes // self.batch_size
