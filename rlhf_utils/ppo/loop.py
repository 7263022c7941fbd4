"""PPO for language models: reward shaping, advantages, losses and one update.

Sources: PPO (Schulman 2017, arXiv 1707.06347); GAE (Schulman 2015, arXiv 1506.02438); KL-penalised rewards and the adaptive
controller (Ziegler 2019, arXiv 1909.08593); implementation details (Huang 2024, arXiv 2403.17031). Names follow TRL.
Left out: a separate value network, several GPUs.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import PPOError
from ..fast.logprobs import token_logprobs
from ..fast.memory import release_freed_memory
from ..fast.trunk import Trunk
from ..models.sampling import Samples, sample, score_tokens, upper_hidden
from ..reward.functions import score_samples
from ..stats import as_scores
from .config import PPOConfig
from .formulas import gae, kl_estimate, policy_loss, shape_rewards, value_loss, whiten
from .policy import Policy


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
    release_freed_memory()  # the holes that training left are too small for the keys and values of a batch
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
    release_freed_memory()  # passes of different lengths leave holes, more from update to update
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
