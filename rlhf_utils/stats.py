"""TODO: purpose."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch

from .errors import PPOError


def wilson(successes: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% interval of a proportion (Wilson 1927); (0, 1) where nothing was counted."""
    if count == 0:
        return 0.0, 1.0
    share, spread = successes / count, z * z / count
    middle, half = (
        share + spread / 2,
        z * np.sqrt(share * (1 - share) / count + spread / (4 * count)),
    )
    return float((middle - half) / (1 + spread)), float((middle + half) / (1 + spread))


def clustered_interval(
    successes: list[float], counts: list[int], seed: int = 0, draws: int = 1000
) -> tuple[float, float]:
    """The 95% bootstrap interval of Σ successes / Σ counts over items, whose pairs hang together; (0, 1) for fewer than two items."""
    if sum(count > 0 for count in counts) < 2:
        return 0.0, 1.0
    drawn = np.random.default_rng(seed).integers(len(counts), size=(draws, len(counts)))
    sums = np.array(counts, float)[drawn].sum(1)
    shares = np.array(successes, float)[drawn].sum(1)[sums > 0] / sums[sums > 0]
    return float(np.quantile(shares, 0.025)), float(np.quantile(shares, 0.975))


def as_scores(found, count: int, who: str = "The reward") -> torch.Tensor:
    """(count,) float32 from what a reward gave. Raises PPOError, saying who gave it, unless that is one finite number for each answer."""
    found = found.tolist() if hasattr(found, "tolist") else found
    scores = list(found) if isinstance(found, Iterable) else []
    bad = [i for i, score in enumerate(scores) if not _is_finite(score)]
    if len(scores) != count or bad:
        what = (
            f"{scores[bad[0]]!r} for answer {bad[0] + 1}"
            if bad
            else f"{len(scores)} of them"
            if isinstance(found, Iterable)
            else repr(found)
        )
        raise PPOError(
            f"{who} must give one finite number for each of {count} answers, but gave {what}."
        )
    return torch.tensor([float(score) for score in scores], dtype=torch.float32)


def _is_finite(score) -> bool:
    try:
        return (
            abs(float(score)) <= torch.finfo(torch.float32).max
        )  # also numpy's and torch's scalars
    except (TypeError, ValueError, OverflowError):
        return False


def correct(margins) -> np.ndarray:
    """(N,) 1 where the margin is above 0, ½ where it is 0, else 0."""
    margins = np.asarray(margins, dtype=float)
    return (margins > 0) + 0.5 * (margins == 0)


def bootstrap_by_prompt(
    values, prompts: list[str], draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The 95% percentile interval of the mean of `values`, drawing whole prompts with replacement; (0, 1) for fewer than two prompts."""
    found = (
        pd.DataFrame({"value": np.asarray(values, dtype=float), "prompt": prompts})
        .groupby("prompt", sort=False)["value"]
        .agg(["sum", "size"])
    )
    return clustered_interval(found["sum"].tolist(), found["size"].tolist(), seed, draws)
