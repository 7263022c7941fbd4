"""Shares and their confidence intervals, lengths of answers, and the check of scores."""

import re
from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from .errors import PPOError


def wilson(successes: float, count: int) -> tuple[float, float]:
    """The 95% interval of a proportion (Wilson 1927); (0, 1) where nothing was counted.

    By hand because ties count half, and scipy's binomtest wants whole successes.
    """
    if count == 0:
        return 0.0, 1.0
    z = 1.96
    share = successes / count
    spread = z * z / count
    middle = share + spread / 2
    half = z * np.sqrt(share * (1 - share) / count + spread / (4 * count))
    return float((middle - half) / (1 + spread)), float((middle + half) / (1 + spread))


def clustered_interval(
    successes: list[float], counts: list[int], seed: int = 0, draws: int = 1000
) -> tuple[float, float]:
    """The 95% percentile interval of Σ successes / Σ counts, drawing whole items with replacement.

    Item i holds counts[i] pairs, which hang together. An item without pairs says nothing and is
    left out. Fewer than two items give (0, 1).
    """
    counts = np.asarray(counts, dtype=float)
    counted = counts > 0
    if counted.sum() < 2:
        return 0.0, 1.0
    found = bootstrap(
        (np.asarray(successes, dtype=float)[counted], counts[counted]),
        lambda successes, counts, axis: successes.sum(axis) / counts.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=draws,
        batch=100,  # all draws at once would need draws × items numbers
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def bootstrap_by_prompt(
    values, prompts: list[str], draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The 95% percentile interval of the mean of `values` (N,), drawing whole prompts.

    prompts: (N,) the prompt of each value. Fewer than two different prompts give (0, 1).
    """
    values = pd.Series(np.asarray(values, dtype=float))
    by_prompt = values.groupby(list(prompts), sort=False)
    return clustered_interval(by_prompt.sum(), by_prompt.size(), seed, draws)


def correct(margins) -> np.ndarray:
    """(N,) 1 where the margin is above 0, ½ where it is 0, else 0."""
    return np.heaviside(np.asarray(margins, dtype=float), 0.5)


def finite_scores(found, count: int, who: str = "The reward") -> list[float]:
    """What a reward gave (a tensor, an array, a list), as `count` floats.

    Raises PPOError, which says who gave it, unless it is one finite number for each answer.
    """
    if hasattr(found, "tolist"):
        found = found.tolist()
    if not isinstance(found, Iterable):
        raise _no_scores(who, count, repr(found))
    scores = list(found)
    for number, score in enumerate(scores, 1):
        if not _is_finite(score):
            raise _no_scores(who, count, f"{score!r} for answer {number}")
    if len(scores) != count:
        raise _no_scores(who, count, f"{len(scores)} of them")
    return [float(score) for score in scores]


def _no_scores(who: str, count: int, gave: str) -> PPOError:
    return PPOError(
        f"{who} must give one finite number for each of {count} answers, but gave {gave}."
    )


def _is_finite(score) -> bool:
    """Whether float32 holds it; also for the scalars of numpy and torch."""
    try:
        return abs(float(score)) <= float(np.finfo(np.float32).max)
    except (TypeError, ValueError, OverflowError):
        return False


# Scripts that put no space between words: Thai to Myanmar, Khmer, Chinese and Japanese with their
# punctuation. Korean has spaces.
UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3001-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff"
    "\uff01-\uff9f\U00020000-\U0003ffff]"
)


def answer_length(text: str) -> int:
    """The number of words; of characters, if most are of a script without spaces."""
    words, unspaced = len(text.split()), len(UNSPACED.findall(text))
    if unspaced <= words:
        return words
    return unspaced + len(UNSPACED.sub(" ", text).split())
