"""The formulas of PPO for language models, in the order of one update. Needs torch alone.

    π, π_old, π_ref   the policy now, the policy that sampled the answers, the reference π_SFT
    r_t, V_t          reward and value of token t
    A_t, R_t          advantage and return of token t
    β, γ, λ, ε        weight of the KL penalty, discount, λ of GAE, range of the clip

A batch has B answers of up to T tokens. Every tensor is (B, T), or (n,) with the tokens in a row,
unless a docstring says otherwise; `mask` is True for real tokens and False for padding.

Sources: PPO (Schulman 2017, arXiv 1707.06347); GAE (Schulman 2015, arXiv 1506.02438); rewards with
a KL penalty (Ziegler 2019, arXiv 1909.08593); details (Huang 2024, arXiv 2403.17031); k1, k2 and
k3 (Schulman 2020, "Approximating KL Divergence").
"""

import torch
from torch import Tensor


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: str = "k1") -> Tensor:
    """Per-token estimates of KL(π‖π_ref) from tokens that π sampled.

    k1 = log π − log π_ref. k3 = (ratio − 1) − log ratio, with ratio = π_ref/π.
    Both are unbiased, so k1 may be negative and is not clamped.
    """
    log_ratio = logprobs - ref_logprobs
    return log_ratio if kind == "k1" else torch.expm1(-log_ratio) + log_ratio


def shape_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """r_t = −β·kl_t, plus the answer's score on its last real token; padding gets 0.

    scores: (B,), one for each answer. Source: Ziegler 2019, section 2.
    """
    rewards = (-kl_coef * kl).masked_fill(~mask, 0.0)
    rows = mask.any(1)  # an answer of padding alone has no last token
    rewards[rows, mask[rows].sum(1) - 1] += scores[rows]
    return rewards


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """(advantages, returns) by generalized advantage estimation; padding gets 0.

    δ_t = r_t + γ V_{t+1} − V_t, with V = 0 after the last real token.
    A_t = Σ_l (γλ)^l δ_{t+l} = δ_t + γλ A_{t+1}, and R_t = A_t + V_t.
    Source: Schulman 2015, equations 11 and 16.
    """
    advantages = torch.zeros_like(rewards)
    next_advantage = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        real = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = torch.where(real, delta + gamma * lam * next_advantage, 0.0)
        next_value = torch.where(real, values[:, t], 0.0)
        advantages[:, t] = next_advantage
    returns = (advantages + values).masked_fill(~mask, 0.0)
    return advantages, returns


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """The mean over real tokens; 0 where there are none."""
    return (x * mask).sum() / mask.sum().clamp(min=1)


def whiten(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """x with mean 0 and variance 1 over the real tokens; padding gets 0.

    shift_mean: False keeps the mean and only scales.
    """
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean) ** 2, mask)
    whitened = (x - mean) * torch.rsqrt(variance + 1e-8)
    if not shift_mean:
        whitened = whitened + mean
    return whitened.masked_fill(~mask, 0.0)


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, cliprange: float
) -> tuple[Tensor, Tensor]:
    """Per-token (loss, ratio), with ratio = π/π_old.

    loss = max(−A·ratio, −A·clip(ratio, 1 − ε, 1 + ε)): the worse of the two for either sign of A.
    Source: Schulman 2017, equation 7.
    """
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1 - cliprange, 1 + cliprange)
    return torch.maximum(-advantages * ratio, -advantages * clipped), ratio


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, cliprange_value: float
) -> Tensor:
    """Per-token ½ max((V − R)², (V_clipped − R)²).

    V_clipped stays within `cliprange_value` of the old value. Source: Huang 2024.
    """
    clipped = old_values + (values - old_values).clamp(-cliprange_value, cliprange_value)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


def approx_kl(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """Per-token k2 = ½ (log π − log π_old)²: how far one update has moved the policy."""
    return 0.5 * (logprobs - old_logprobs) ** 2


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 − Var(R − V)/Var(R) over real tokens: 1 for a perfect critic, 0 for one that says the mean.

    Below 0 the critic is worse than the mean; not finite where all returns are alike.
    """
    return 1 - (returns - values)[mask].var(correction=0) / returns[mask].var(correction=0)


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation of two vectors; NaN where all of one are alike."""
    x, y = x - x.mean(), y - y.mean()
    return (x * y).sum() / (x.square().sum() * y.square().sum()).sqrt()
