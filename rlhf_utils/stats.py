"""Shares and their confidence intervals, lengths of answers, and the check of scores."""

import itertools
import re
from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from .errors import PPOError

FEW = 20  # items; the bootstrap of fewer is too narrow
DRAWN_AT_ONCE = 2_000_000  # numbers; bounds the memory of a bootstrap of many items


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
    low, high = (middle - half) / (1 + spread), (middle + half) / (1 + spread)
    return float(max(min(low, share), 0)), float(min(max(high, share), 1))  # rounding left out


def clustered_interval(
    successes: list[float], counts: list[int], seed: int = 0, draws: int = 1000
) -> tuple[float, float]:
    """The 95% percentile interval of Σ successes / Σ counts, drawing whole items with replacement.

    Item i holds counts[i] pairs, which hang together. An item without pairs says nothing and is
    left out. Fewer than two items give (0, 1). Where all are alike (right, wrong or ties), or there
    are fewer than FEW items, it reaches as far as Wilson's interval with one case an item.
    """
    successes, counts = np.asarray(successes, dtype=float), np.asarray(counts, dtype=float)
    successes, counts = successes[counts > 0], counts[counts > 0]
    if len(counts) < 2:
        return 0.0, 1.0
    found = bootstrap(
        (successes, counts),
        lambda successes, counts, axis: successes.sum(axis) / counts.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=draws,
        batch=int(np.clip(DRAWN_AT_ONCE // len(counts), 1, 100)),
        rng=np.random.default_rng(seed),
    )
    low, high = (float(end) for end in found.confidence_interval)
    share = successes.sum() / counts.sum()
    if len(counts) >= FEW and low < high:
        return low, high
    by_items = wilson(share * len(counts), len(counts))
    return min(low, by_items[0]), max(high, by_items[1])


def bootstrap_by_prompt(
    values, prompts: list[str], draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The 95% interval of the mean of `values` (N,) from 0 to 1, drawing whole prompts.

    prompts: (N,) the prompt of each value. See clustered_interval for few prompts.
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
    if not isinstance(found, Iterable) or isinstance(found, (dict, set, frozenset, str, bytes)):
        raise _no_scores(who, count, _shown(found))
    scores = list(itertools.islice(found, count + 1))  # a generator may have no end
    for number, score in enumerate(scores, 1):
        if not _is_finite(score):
            raise _no_scores(who, count, f"{_shown(score)} for answer {number}")
    if len(scores) != count:
        raise _no_scores(who, count, "more" if len(scores) > count else f"{len(scores)} of them")
    return [float(score) for score in scores]


def _no_scores(who: str, count: int, gave: str) -> PPOError:
    return PPOError(
        f"{who} must give one finite number for each of {count} answers, but gave {gave}."
    )


def _shown(value) -> str:
    """The value as Python writes it, on one line, cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 200 else f"{text[:200]}… ({type(value).__name__})"


def _is_finite(score) -> bool:
    """Whether it is a number that float32 holds; also for the scalars of numpy and torch."""
    if isinstance(score, (str, bytes)):  # float() would read "1"
        return False
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
