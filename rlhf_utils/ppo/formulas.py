"""TODO: purpose."""

import torch


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
