"""The reward model's heads: from states of the backbone, or their means, to one number, and from several heads' numbers to one."""

import torch
from torch import nn

from .errors import SettingError

# (B,) from the (B, m) rewards of m heads. The cautious two keep PPO from answers that only some heads like (Coste 2023, arXiv 2310.02743).
COMBINATIONS = {
    "mean": lambda members: members.mean(1),
    "min": lambda members: members.min(1).values,
    "uncertainty": lambda members: members.mean(1) - members.std(1, unbiased=False),
}


def mean_over(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(B, H) float32 mean of the (B, L, H) states over the (B, L) bool places; 0 where there are none."""
    weights = places.float() / places.sum(1, keepdim=True).clamp(min=1)
    return torch.einsum("bl,blh->bh", weights, states.float())


class Standardise(nn.Module):
    """x less the mean, over the standard deviation, of the states that the head learns from; does nothing until these are known."""

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


class AndLength(nn.Module):
    """A head's reward of the states, and a curve over the number of words, which comes last in (B, S + 1) input: states tell it badly.

    The curve is a sum of steps at 2 to 360 words, flat at first, and beyond what it has learned from.
    """

    def __init__(self, head: nn.Module):
        super().__init__()
        self.register_buffer("words", 2 ** (1 + torch.arange(46) / 6), persistent=False)
        self.head, self.curve = head, nn.Linear(len(self.words), 1, bias=False)
        nn.init.zeros_(self.curve.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x[:, :-1]) + self.of_length(x[:, -1])

    def of_length(self, words: torch.Tensor) -> torch.Tensor:
        """(B, 1) the reward for (B,) numbers of words alone."""
        return 10 * self.curve(
            (words[:, None] > self.words).float()
        )  # 10: Adam would move these few weights too slowly beside the head's many


def make_head(hidden_size: int, kind: str, dropout: float = 0.1, states: int = 1) -> nn.Module:
    """ "mlp": states·hidden, standardised → hidden, ReLU, → 1, with dropout before both layers; "linear": hidden → 1.

    The last layer starts with std 1/√(d+1) and bias 0; a linear head has no bias at all, as sequence classifiers have none.

    Raises SettingError for another kind, and for a linear head over several states.
    """
    if kind not in ("mlp", "linear"):
        raise SettingError(f"head={kind!r} is unknown: give 'mlp' or 'linear'.")
    if kind == "linear" and states > 1:
        raise SettingError(
            "head='linear' reads one state only: give read_prompt=False and read_middle=False, or head='mlp'."
        )
    last = nn.Linear(hidden_size, 1, bias=kind == "mlp")
    nn.init.normal_(last.weight, std=1 / (hidden_size + 1) ** 0.5)
    if kind == "linear":
        return last
    nn.init.zeros_(last.bias)
    size = states * hidden_size
    return nn.Sequential(
        Standardise(size),
        nn.Dropout(dropout),
        nn.Linear(size, hidden_size),
        nn.ReLU(),
        nn.Dropout(dropout),
        last,
    )


class Heads(nn.ModuleList):
    """Heads side by side: (B, m) rewards from the (B, S) states that all m of them read."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return torch.cat([head(states) for head in self], dim=1)
