"""Draws tokens from logits: sampling without top-k or top-p, exact in its tails."""

import torch
from torch import Tensor, nn

PART = 256  # tokens whose probabilities share a subtotal


def draw_tokens(logits: Tensor, generator) -> tuple[Tensor, Tensor]:
    """(B,) tokens drawn from (B, V) logits, and their (B,) log-probabilities.

    Inverts the cumulative distribution: a uniform number finds a part of PART tokens, then the
    token in it. Running sums are in float64, so that tails survive.
    """
    rows, words = logits.shape
    p = logits.softmax(1)
    parts = nn.functional.pad(p, (0, -words % PART)) if words % PART else p
    parts = parts.unflatten(1, (-1, PART))

    # the part: the first whose running sum is above the point
    up_to = parts.sum(2).double().cumsum_(1)
    uniform = torch.rand(rows, 1, generator=generator, dtype=torch.float64, device=logits.device)
    point = uniform * up_to[:, -1:]
    part = torch.searchsorted(up_to, point, right=True).clamp(max=up_to.shape[1] - 1)

    # the token in that part
    inside = parts[torch.arange(rows, device=logits.device), part[:, 0]].double().cumsum_(1)
    point = point - torch.where(part > 0, up_to.gather(1, (part - 1).clamp(min=0)), 0.0)
    point = torch.minimum(point, inside[:, -1:] * (1 - 1e-12))  # never a token of no weight
    token = part * PART + torch.searchsorted(inside, point, right=True)
    token = token.clamp(max=words - 1)  # for logits that are NaN, which PPO's update reports
    return token[:, 0], p.gather(1, token)[:, 0].log()
