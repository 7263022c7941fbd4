"""One whole update of PPO: sample, score, shape, advantage, update.

The formulas are in formulas.py. Names of settings and metrics are TRL's, and details follow Huang
2024 (arXiv 2403.17031). Left out: a separate value network, several GPUs.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from ..data.rows import Prompt, columns_of
from ..errors import PPOError
from ..interrupts import stop as stop_if_interrupted
from ..models.sampling import Samples, sample
from ..models.scoring import answer_logprobs, score_tokens
from ..stats import finite_scores
from .config import PPOConfig
from .formulas import (
    approx_kl,
    correlation,
    explained_variance,
    gae,
    kl_estimate,
    policy_loss,
    shape_rewards,
    value_loss,
    whiten,
)
from .policy import Policy

LARGEST = 1e6  # weight, and score that training stands; good ones are a thousand times smaller


@dataclass
class Scored:
    """B answers of T tokens, with what policy, reference, value head and reward say of them.

    All (B, T) tensors are float32 and 0 where `mask` is False.
    """

    samples: Samples
    logprobs: Tensor  # (B, T) log π_old of the sampled tokens
    ref_logprobs: Tensor  # (B, T) log π_SFT of the same tokens
    values: Tensor  # (B, T) value estimates before the update
    entropy: Tensor  # (B, T) entropy of π_old at each position
    kl_full: Tensor  # (B, T) exact KL of each position's whole distribution
    scores: Tensor  # (B,) reward of each answer, less the penalty for a missing end

    @property
    def mask(self) -> Tensor:
        """(B, T) bool, True for real tokens: up to and including the end of the answer."""
        return self.samples.answer_mask


@dataclass
class Tokens:
    """n real tokens in a row, as the loss needs them; (n,) each."""

    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


@dataclass
class Rollout(Scored):
    """One batch of B episodes, with all that an update learns from."""

    rewards: Tensor  # (B, T) per token: −β·KL, and the score on the last token
    advantages: Tensor  # (B, T) whitened
    returns: Tensor  # (B, T) advantages before whitening + values

    def tokens(self, rows: Tensor) -> Tokens:
        """The real tokens of the episodes `rows`."""
        mask = self.mask[rows]
        names = ("logprobs", "values", "advantages", "returns")
        return Tokens(**{name: getattr(self, name)[rows][mask] for name in names})


@dataclass
class KLController:
    """β: fixed, or with a target steered by β ← β(1 + clip(KL/target − 1, ±0.2)·n/horizon).

    Source: Ziegler 2019 (arXiv 1909.08593), section 2.2.
    """

    value: float  # β now
    target: float = 0.0  # nats per answer; 0: β stays fixed
    horizon: int = 2000  # episodes

    def update(self, kl: float, episodes: int) -> None:
        if self.target:
            error = max(-0.2, min(0.2, kl / self.target - 1))
            self.value *= 1 + error * episodes / self.horizon


def learning_rate_at(config: PPOConfig, update_index: int) -> float:
    """Linear decay: the whole learning_rate at update 0, towards 0 after the last."""
    return config.learning_rate * (1 - update_index / config.num_updates)


# --- Sample (models/sampling.py), score, shape rewards, estimate advantages ---


def score(
    policy: Policy, samples: Samples, prompts: list[Prompt], reward: Callable, config: PPOConfig
) -> Scored:
    """Reads the answers under policy and reference, and asks the reward about them.

    reward: called as reward(prompts=…, completions=…, **columns of the prompts); gives one number
    for each answer. Raises PPOError if it does not.
    """
    stop_if_interrupted()
    mask = samples.answer_mask
    rows_at_once = config.per_device_train_batch_size
    tokens = score_tokens(policy.model, samples, config.temperature, policy.reference, rows_at_once)
    with torch.no_grad():
        values = policy.value_head(tokens["hidden"])[..., 0].masked_fill(~mask, 0.0)

    texts = [prompt.text for prompt in prompts]
    found = reward(prompts=texts, completions=samples.answers, **columns_of(prompts))
    scores = torch.tensor(finite_scores(found, len(texts)), device=mask.device)
    if config.score_clip:
        scores = scores.clamp(-config.score_clip, config.score_clip)
    return Scored(
        samples=samples,
        logprobs=tokens["logprobs"],
        ref_logprobs=tokens["ref_logprobs"],
        values=values,
        entropy=tokens["entropy"],
        kl_full=tokens["kl"],
        scores=scores - config.missing_eos_penalty * (~samples.ended).float(),
    )


def shape(scored: Scored, config: PPOConfig, kl_coef: float) -> Tensor:
    """(B, T) rewards: the KL penalty at each token, the score at the last."""
    kl = kl_estimate(scored.logprobs, scored.ref_logprobs, config.kl_estimator)
    rewards = shape_rewards(scored.scores, kl, scored.mask, kl_coef)
    return whiten(rewards, scored.mask, shift_mean=False) if config.whiten_rewards else rewards


def advantage(scored: Scored, rewards: Tensor, config: PPOConfig) -> Rollout:
    """Adds the rewards, the whitened advantages and the returns."""
    advantages, returns = gae(rewards, scored.values, scored.mask, config.gamma, config.lam)
    whitened = whiten(advantages, scored.mask)
    return Rollout(**vars(scored), rewards=rewards, advantages=whitened, returns=returns)


def collect(
    policy: Policy,
    tokenizer,
    prompts: list[Prompt],
    reward: Callable,
    config: PPOConfig,
    kl_coef: float,
    generator: Generator,
) -> Rollout:
    """All of these steps: one answer to each prompt, with all that an update learns from."""
    texts = [prompt.text for prompt in prompts]
    length, temperature = config.response_length, config.temperature
    samples = sample(policy.model, tokenizer, texts, length, temperature, generator)
    scored = score(policy, samples, prompts, reward, config)
    return advantage(scored, shape(scored, config, kl_coef), config)


# --- Update: loss, epochs, minibatches, step ---


def ppo_loss(
    logprobs: Tensor, values: Tensor, old: Tokens, config: PPOConfig
) -> tuple[Tensor, Tensor]:
    """(clipped policy loss, clipped value loss) of each token; (n,) each.

    logprobs, values: (n,) what the policy says of the tokens now. old: what the rollout says.
    """
    policy_losses, _ = policy_loss(logprobs, old.logprobs, old.advantages, config.cliprange)
    return policy_losses, value_loss(values, old.values, old.returns, config.cliprange_value)


def update(
    policy: Policy,
    optimizer: Optimizer,
    rollout: Rollout,
    config: PPOConfig,
    generator: Generator,
    loss: Callable = ppo_loss,
) -> dict[str, float]:
    """num_ppo_epochs passes over the rollout; returns metrics, averaged over the optimizer steps.

    loss: gives what `ppo_loss` gives; the value loss is weighted by vf_coef.
    A mean ratio above ratio_threshold ends the update at once; an approximate KL above target_kl
    leaves out the remaining passes. `val/early_stop` is 1 then. `val/value_first` is the mean
    |V − V_old| before the first step: 0.

    Raises PPOError for a KL above max_kl, and for a loss, gradient or weight that is not finite.
    """
    check_kl(rollout, config)
    steps = []
    for _ in range(config.num_ppo_epochs):
        order = torch.randperm(config.batch_size, generator=generator, device=generator.device)
        for rows in order.split(config.mini_batch_size):
            step = train_minibatch(policy, optimizer, rollout, rows, config, loss)
            steps.append(step)
            stop = 0 < config.ratio_threshold < step["val/ratio"]
            if stop:
                break
        stop = stop or 0 < config.target_kl < step["policy/approxkl_avg"]
        if stop:
            break
    _check_weights(policy)
    metrics = {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}
    metrics["val/early_stop"] = float(stop)
    metrics["val/ratio_first"] = steps[0]["val/ratio"]
    metrics["val/value_first"] = steps[0]["val/value_first"]
    return metrics


def check_kl(rollout: Rollout, config: PPOConfig) -> None:
    """Raises PPOError for a mean KL that is above max_kl, or no number."""
    kl = rollout.kl_full.sum(1).mean().item()
    if config.max_kl and not kl <= config.max_kl:  # "not", because KL may be NaN
        raise PPOError(
            f"The policy has run away: objective/kl_full is {kl:.4g} nats per answer, above "
            f"max_kl={config.max_kl:g}. Lower learning_rate, or raise kl_coef."
        )


def _check_weights(policy: Policy) -> None:
    for name, weight in policy.trainable().items():
        largest = float(weight.detach().abs().max())
        if not largest < LARGEST:  # "not", because it may be NaN
            raise PPOError(
                f"Training has diverged: the largest weight of {name} is {largest:.1e}. "
                "Lower learning_rate."
            )


def train_minibatch(
    policy: Policy,
    optimizer: Optimizer,
    rollout: Rollout,
    rows: Tensor,
    config: PPOConfig,
    loss: Callable = ppo_loss,
) -> dict[str, float]:
    """One optimizer step on the episodes `rows`; returns metrics, averaged over their tokens."""
    stop_if_interrupted()
    optimizer.zero_grad()  # an interrupted step may have left gradients
    count = rollout.mask[rows].sum()
    means = defaultdict(float)
    for part in rollout.samples.parts(rows, config.per_device_train_batch_size):
        total_loss, sums = loss_and_metrics(policy, rollout, part, config, loss)
        # each part is divided by the minibatch's tokens, so gradients add up to its mean
        (total_loss / count).backward()
        for name, total in sums.items():
            means[name] += total / count
    norm = nn.utils.clip_grad_norm_(policy.trainable().values(), config.max_grad_norm)

    metrics = {name: float(value) for name, value in means.items()}
    metrics["policy/grad_norm"] = float(norm)
    broken = [name for name, value in metrics.items() if not math.isfinite(value)]
    if broken:
        large = rollout.scores.abs().max() > LARGEST
        advice = "Give smaller rewards, or set score_clip." if large else "Lower learning_rate."
        raise PPOError(f"{', '.join(broken)} is not finite. {advice}")
    # the variance over tokens; TRL's is over minibatches
    square = metrics.pop("val/ratio_square")
    metrics["val/ratio_var"] = max(square - metrics["val/ratio"] ** 2, 0.0)

    optimizer.step()
    optimizer.zero_grad()  # frees their memory for sampling
    return metrics


def loss_and_metrics(
    policy: Policy, rollout: Rollout, rows: Tensor, config: PPOConfig, loss: Callable = ppo_loss
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, metrics) of the episodes `rows`, each summed over their n real answer tokens.

    Clip fractions count every token outside the range; TRL counts those whose clipped loss is the
    larger one.
    """
    logprobs, entropy, hidden = answer_logprobs(
        policy.model, rollout.samples, rows, config.temperature
    )
    values = policy.value_head(hidden)[:, 0]
    old = rollout.tokens(rows)
    policy_losses, value_losses = loss(logprobs, values, old, config)
    total_loss = policy_losses.sum() + config.vf_coef * value_losses.sum()

    with torch.no_grad():
        ratio = (logprobs - old.logprobs).exp()
        per_token = {
            "policy/approxkl_avg": approx_kl(logprobs, old.logprobs),
            "policy/clipfrac_avg": ((ratio - 1).abs() > config.cliprange).float(),
            "policy/entropy_avg": entropy,
            "loss/policy_avg": policy_losses,
            "loss/value_avg": value_losses,
            "val/clipfrac_avg": ((values - old.values).abs() > config.cliprange_value).float(),
            "val/ratio": ratio,
            "val/ratio_square": ratio**2,
            "val/value_first": (values - old.values).abs(),
        }
        sums = {name: each.sum() for name, each in per_token.items()}
    return total_loss, sums


# --- Metrics ---


def rollout_metrics(rollout: Rollout, config: PPOConfig, kl_coef: float) -> dict[str, float]:
    """What the batch says before the update: means per answer. KL and entropy are sums of nats."""
    kl = kl_estimate(rollout.logprobs, rollout.ref_logprobs, config.kl_estimator)
    penalty = kl_coef * kl.sum(1).mean().item()
    score = rollout.scores.mean().item()
    mask, lengths = rollout.mask, rollout.mask.sum(1).float()
    drawn_otherwise = (rollout.samples.logprobs - rollout.logprobs)[mask].abs()
    return {
        "objective/kl": (rollout.logprobs - rollout.ref_logprobs).sum(1).mean().item(),
        "objective/kl_full": rollout.kl_full.sum(1).mean().item(),
        "objective/entropy": rollout.entropy.sum(1).mean().item(),
        "objective/scores": score,
        "objective/scores_std": rollout.scores.std(correction=0).item(),
        "objective/non_score_reward": -penalty,
        "objective/rlhf_reward": score - penalty,
        "objective/kl_coef": kl_coef,
        "val/num_eos_tokens": rollout.samples.ended.sum().item(),
        "val/length": lengths.mean().item(),
        # not TRL's: what a run that goes wrong shows first
        "objective/scores_tied": (rollout.scores == rollout.scores.max()).float().mean().item(),
        "val/score_length_corr": correlation(rollout.scores, lengths).item(),
        "val/sampling_gap": drawn_otherwise.mean().item(),  # nats a token; 0 but for rounding
        # nats a token; 0 but for chance, below it if only likely tokens are drawn (top-p)
        "val/surprise_gap": -(rollout.logprobs + rollout.entropy)[mask].mean().item(),
        "val/advantages_std": (rollout.returns - rollout.values)[mask].std(correction=0).item(),
        "val/explained_variance": explained_variance(rollout.values, rollout.returns, mask).item(),
    }
