"""PPO for language models: reward shaping, advantages, losses and one update.

Sources: PPO (Schulman 2017, arXiv 1707.06347); GAE (Schulman 2015, arXiv 1506.02438); KL-penalised rewards and the adaptive
controller (Ziegler 2019, arXiv 1909.08593); implementation details (Huang 2024, arXiv 2403.17031). Names follow TRL.
Left out: a separate value network, several GPUs.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import nn

from . import models
from .errors import PPOError, SettingError
from .policy import Policy, load_policy, make_policy  # noqa: F401  04 takes them from here
from .rewards import as_scores, score_samples
from .runs import convert
from .sampling import Samples, sample, score_tokens, token_logprobs, upper_hidden
from .trunk import Trunk


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


@dataclass
class Rollout:
    """One batch of B episodes of T response tokens. All (B, T) tensors are float32 and 0 where `samples.response_mask` is False."""

    samples: Samples
    logprobs: torch.Tensor  # (B, T) log π_old of the sampled tokens
    ref_logprobs: torch.Tensor  # (B, T) log π_SFT of the same tokens
    values: torch.Tensor  # (B, T) value estimates before the update
    entropy: torch.Tensor  # (B, T) entropy of π_old at each position
    kl_full: torch.Tensor  # (B, T) exact KL of each position's whole distribution
    scores: torch.Tensor  # (B,) reward of the finished response, penalty for a missing end included
    rewards: torch.Tensor  # (B, T) per-token rewards: −β·KL, and the score on the last token
    advantages: torch.Tensor  # (B, T) whitened
    returns: torch.Tensor  # (B, T) advantages before whitening + values

    @property
    def mask(self) -> torch.Tensor:
        return self.samples.response_mask


def kl_estimate(
    logprobs: torch.Tensor, ref_logprobs: torch.Tensor, kind: str = "k1"
) -> torch.Tensor:
    """Per-token estimates of KL(π‖π_ref) from tokens sampled by π; unbiased, so k1 may be negative and is not clamped.

    k1 = log π − log π_ref; k3 = (ratio − 1) − log ratio with ratio = π_ref/π (Schulman 2020, "Approximating KL Divergence").
    """
    log_ratio = logprobs - ref_logprobs
    return log_ratio if kind == "k1" else torch.expm1(-log_ratio) + log_ratio


def shape_rewards(
    scores: torch.Tensor, kl: torch.Tensor, mask: torch.Tensor, kl_coef: float
) -> torch.Tensor:
    """(B, T) rewards: −kl_coef·kl at every real token, plus the (B,) score at the last real one; rows of padding stay 0."""
    rewards = (-kl_coef * kl).masked_fill(~mask, 0.0)
    rows = mask.any(1)
    rewards[rows, mask[rows].sum(1) - 1] += scores[rows]
    return rewards


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(advantages, returns), both (B, T): A_t = Σ_l (γλ)^l δ_{t+l}, δ_t = r_t + γ V_{t+1} − V_t, with V = 0 after the last real token."""
    advantages = torch.zeros_like(rewards)
    following, next_value = torch.zeros_like(rewards[:, 0]), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        real = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = torch.where(real, delta + gamma * lam * following, 0.0)
        next_value = torch.where(real, values[:, t], 0.0)
        advantages[:, t] = following
    return advantages, (advantages + values).masked_fill(~mask, 0.0)


def masked_mean(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean over real tokens; 0 where there are none."""
    return (x * mask).sum() / mask.sum().clamp(min=1)


def whiten(x: torch.Tensor, mask: torch.Tensor, shift_mean: bool = True) -> torch.Tensor:
    """x scaled to variance 1, and shifted to mean 0 unless shift_mean is off, by the statistics of real tokens; padding gets 0."""
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean) ** 2, mask)
    whitened = (x - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened if shift_mean else whitened + mean).masked_fill(~mask, 0.0)


def policy_loss(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, cliprange: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-token (loss, ratio): loss = max(−A·ratio, −A·clip(ratio, 1 ± cliprange)), the pessimistic side for either sign of A."""
    ratio = (logprobs - old_logprobs).exp()
    return torch.maximum(
        -advantages * ratio, -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)
    ), ratio


def value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, cliprange_value: float
) -> torch.Tensor:
    """Per-token ½ max((V − R)², (V_clipped − R)²), where V_clipped stays within cliprange_value of the old value."""
    clipped = old_values + (values - old_values).clamp(-cliprange_value, cliprange_value)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


class KLController:
    """β. Fixed, or with a target steered by β ← β(1 + clip(KL/target − 1, ±0.2)·n/horizon) (Ziegler 2019, section 2.2)."""

    def __init__(self, kl_coef: float, target: float = 0.0, horizon: int = 2000):
        self.value, self.target, self.horizon = kl_coef, target, horizon

    def update(self, kl: float, episodes: int) -> None:
        if self.target:
            self.value *= 1 + max(-0.2, min(0.2, kl / self.target - 1)) * episodes / self.horizon


def collect(
    policy: Policy,
    tokenizer,
    prompts: list[dict],
    reward,
    config: PPOConfig,
    kl_coef: float,
    generator: torch.Generator,
) -> Rollout:
    """Samples one response to each prompt row and scores it with `reward(prompts=…, completions=…, **columns) → scores`."""
    texts = [row["prompt"] for row in prompts]
    models.release_freed_memory()  # the holes that training left are too small for the keys and values of a batch
    with Trunk(policy.model).mixed():
        samples = sample(
            policy.model, tokenizer, texts, config.response_length, config.temperature, generator
        )
    mask = samples.response_mask
    tokens = score_tokens(
        policy.model,
        samples,
        config.temperature,
        policy.reference,
        config.per_device_train_batch_size,
    )
    with torch.no_grad():
        values = policy.value_head(tokens["hidden"])[..., 0].masked_fill(~mask, 0.0)
    columns = {
        key: [row.get(key) for row in prompts]
        for key in dict.fromkeys(k for row in prompts for k in row)
        if key != "prompt"
    }
    scores = as_scores(score_samples(reward, samples, **columns), len(texts)).to(mask.device)
    scores = scores.clamp(-config.score_clip, config.score_clip) if config.score_clip else scores
    scores = scores - config.missing_eos_penalty * (~samples.ended).float()
    rewards = shape_rewards(
        scores,
        kl_estimate(tokens["logprobs"], tokens["ref_logprobs"], config.kl_estimator),
        mask,
        kl_coef,
    )
    if config.whiten_rewards:
        rewards = whiten(rewards, mask, shift_mean=False)
    advantages, returns = gae(rewards, values, mask, config.gamma, config.lam)
    return Rollout(
        samples,
        tokens["logprobs"],
        tokens["ref_logprobs"],
        values,
        tokens["entropy"],
        tokens["kl"],
        scores,
        rewards,
        whiten(advantages, mask),
        returns,
    )


def evaluate_tokens(
    policy: Policy, rollout: Rollout, rows: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, ...]:
    """(logprobs, values, entropy) of the real response tokens of some episodes, flat (n,), in row order; the first two with gradients."""
    hidden = upper_hidden(Trunk(policy.model), rollout.samples, rows)
    logprobs, entropy = token_logprobs(
        policy.model, hidden, rollout.samples.response_ids[rows][rollout.mask[rows]], temperature
    )
    return logprobs, policy.value_head(hidden)[:, 0], entropy


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    config: PPOConfig,
    generator: torch.Generator,
) -> dict[str, float]:
    """num_ppo_epochs passes over the rollout in fresh random order; returns metrics under TRL's names, averaged over the optimizer steps.

    Clip fractions count every ratio, and change of value, outside the range, and `val/ratio_var` is over tokens; TRL counts those where the clipped
    loss is the larger, and takes the variance over minibatches.

    Raises PPOError at a KL above max_kl, and at a loss or gradient that is not finite. A ratio above the threshold, or an approximate KL above target_kl,
    ends the update early, which `val/early_stop` records.
    """
    steps, stop, kl = [], False, rollout.kl_full.sum(1).mean().item()
    if config.max_kl and not kl <= config.max_kl:
        raise PPOError(
            f"The policy has run away: objective/kl_full is {kl:.4g} nats a response, above max_kl={config.max_kl:g}. "
            "Lower learning_rate, or raise kl_coef.",
            {"objective/kl_full": kl},
        )
    for _ in range(config.num_ppo_epochs):
        order = torch.randperm(config.batch_size, generator=generator, device=generator.device)
        for rows in order.to(rollout.mask.device).split(config.mini_batch_size):
            step = _optimizer_step(policy, optimizer, rollout, rows, config)
            steps.append(step)
            stop = 0 < config.ratio_threshold < step["val/ratio"]
            if stop:
                break
        stop = stop or (config.target_kl and step["policy/approxkl_avg"] > config.target_kl)
        if stop:
            break
    metrics = {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}
    return metrics | {"val/early_stop": float(bool(stop)), "val/ratio_first": steps[0]["val/ratio"]}


def _optimizer_step(
    policy, optimizer, rollout: Rollout, rows: torch.Tensor, config: PPOConfig
) -> dict[str, float]:
    optimizer.zero_grad()  # of what a step that was interrupted or broken left
    models.release_freed_memory()  # passes of different lengths leave holes, more from update to update
    count = rollout.mask[rows].sum()
    sums: dict[str, torch.Tensor] = {}
    for part in rollout.samples.parts(rows, config.per_device_train_batch_size):
        mask = rollout.mask[part]
        old, advantages = rollout.logprobs[part][mask], rollout.advantages[part][mask]
        logprobs, values, entropy = evaluate_tokens(policy, rollout, part, config.temperature)
        losses, ratio = policy_loss(logprobs, old, advantages, config.cliprange)
        value_losses = value_loss(
            values, rollout.values[part][mask], rollout.returns[part][mask], config.cliprange_value
        )
        # Sums over the part, divided by the minibatch's tokens: accumulated gradients equal those of one big pass.
        loss = (losses.sum() + config.vf_coef * value_losses.sum()) / count
        loss.backward()
        with torch.no_grad():
            found = {
                "policy/approxkl_avg": 0.5 * ((logprobs - old) ** 2).sum(),
                "policy/clipfrac_avg": ((ratio - 1).abs() > config.cliprange).float().sum(),
                "policy/entropy_avg": entropy.sum(),
                "loss/policy_avg": losses.sum(),
                "loss/value_avg": value_losses.sum(),
                "val/clipfrac_avg": (
                    (values - rollout.values[part][mask]).abs() > config.cliprange_value
                )
                .float()
                .sum(),
                "val/ratio": ratio.sum(),
                "val/ratio_square": (ratio**2).sum(),
            }
        sums = {name: sums.get(name, 0.0) + value / count for name, value in found.items()}
    norm = nn.utils.clip_grad_norm_(
        [p for g in optimizer.param_groups for p in g["params"]], config.max_grad_norm
    )
    metrics = {name: float(value) for name, value in sums.items()} | {
        "policy/grad_norm": float(norm)
    }
    broken = [name for name, value in metrics.items() if not math.isfinite(value)]
    if broken:
        raise PPOError(f"{', '.join(broken)} is not finite. Lower learning_rate.", metrics)
    optimizer.step()
    optimizer.zero_grad()  # frees their memory for sampling
    metrics["val/ratio_var"] = max(metrics.pop("val/ratio_square") - metrics["val/ratio"] ** 2, 0.0)
    return metrics


def rollout_metrics(rollout: Rollout, config: PPOConfig, kl_coef: float) -> dict[str, float]:
    """What the batch says before the update, a response each: KL in nats, summed over its tokens, and mean scores."""
    penalty = (
        kl_estimate(rollout.logprobs, rollout.ref_logprobs, config.kl_estimator)
        .masked_fill(~rollout.mask, 0.0)
        .sum(1)
    )
    return {
        "objective/kl": (rollout.logprobs - rollout.ref_logprobs).sum(1).mean().item(),
        "objective/kl_full": rollout.kl_full.sum(1).mean().item(),
        "objective/entropy": rollout.entropy.sum(1).mean().item(),
        "objective/scores": rollout.scores.mean().item(),
        "objective/scores_std": rollout.scores.std(correction=0).item(),
        "objective/non_score_reward": -kl_coef * penalty.mean().item(),
        "objective/rlhf_reward": rollout.scores.mean().item() - kl_coef * penalty.mean().item(),
        "objective/kl_coef": kl_coef,
        "val/num_eos_tokens": rollout.samples.ended.sum().item(),
        "val/length": rollout.mask.sum(1).float().mean().item(),
    }


def learning_rate_at(config: PPOConfig, update_index: int) -> float:
    """Linear decay: the whole learning_rate at update 0, towards 0 after the last."""
    return config.learning_rate * (1 - update_index / config.num_updates)


def look(
    policy: Policy, tokenizer, prompts: list[dict], reward, config: PPOConfig, seed: int
) -> list[dict]:
    """One answer to each fixed prompt with its score and KL, from a generator of its own, so that looking changes no training."""
    generator = torch.Generator(device=policy.model.device).manual_seed(seed)
    rollout = collect(policy, tokenizer, prompts, reward, config, 0.0, generator)
    return [
        {"prompt": prompt, "answer": answer, "score": score, "kl": kl}
        for prompt, answer, score, kl in zip(
            rollout.samples.prompts,
            rollout.samples.responses,
            rollout.scores.tolist(),
            rollout.kl_full.sum(1).tolist(),
        )
    ]
