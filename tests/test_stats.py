"""Intervals against published ones and simulations; scores that must be numbers."""

import math
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from rlhf_utils import stats
from rlhf_utils.errors import PPOError


def test_correct():
    assert stats.correct([2.0, -1.0, 0.0]).tolist() == [1, 0, 0.5]
    assert stats.correct(torch.tensor([0.1, -0.1])).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("", 0),
        ("Plants drink by  their\nroots.", 5),
        ("https://example.org/a/very/long/address", 1),
        ("한국어는 띄어쓰기가 있다", 3),
        ("植物用根喝水", 6),
        ("植物用根喝水。It does", 9),
        ("the word 水 in a sentence", 6),
        ("ประเทศไทย", 9),
        ("ひらがな カタカナ", 8),
    ],
)
def test_length_in_words_or_where_there_are_no_spaces_in_characters(text, length):
    assert stats.answer_length(text) == length


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),  # Newcombe 1998, table I, method 3
        (20, 20, 0.8389, 1),
        (0, 0, 0, 1),
    ],
)
def test_wilson(successes, count, low, high):
    assert stats.wilson(successes, count) == pytest.approx((low, high), abs=1e-4)


# --- intervals that draw whole items or prompts


def test_clustered_interval_covers_where_pairs_hang_together():
    """Six pairs of an item that are all alike count as one.

    The interval is that of the items, which Wilson's over pairs is not.
    """
    rng, covered, naive = random.Random(0), 0, 0
    for trial in range(200):
        wins = [6 * (rng.random() < 0.6) for _ in range(40)]
        low, high = stats.clustered_interval(wins, [6] * 40, seed=trial, draws=400)
        covered += low <= 0.6 <= high
        low, high = stats.wilson(sum(wins), 240)
        naive += low <= 0.6 <= high
    assert covered / 200 > 0.9 > 0.75 > naive / 200


def test_clustered_interval_weighs_items_by_their_pairs():
    """An item with nine pairs won beside one with a single lost pair: 9 of 10, not 1 of 2."""
    low, high = stats.clustered_interval([9, 0], [9, 1])
    assert (low, high) == (0, 1)
    many = stats.clustered_interval([9, 0] * 200, [9, 1] * 200)
    assert many[0] < 0.9 < many[1] and many[1] - many[0] < 0.05


def test_items_without_pairs_say_nothing():
    wins, counts = [2, 0, 1, 2], [2, 2, 2, 2]
    alone = stats.clustered_interval(wins, counts)
    assert stats.clustered_interval(wins + [0, 0], counts + [0, 0]) == alone
    assert stats.clustered_interval([2, 0], [2, 0]) == (0.0, 1.0)
    assert stats.clustered_interval([], []) == (0.0, 1.0)


def simulated(rng, prompts: int, each: int) -> tuple[np.ndarray, list[str]]:
    """Each prompt is right in all of its pairs with probability 0.7, or in none."""
    right = rng.random(prompts) < 0.7
    return np.repeat(right, each), [str(n) for n in range(prompts) for _ in range(each)]


def apart(values) -> list[str]:
    """As many prompts as values, which is what a naive interval takes for granted."""
    return [str(n) for n in range(len(values))]


def test_bootstrap_is_wider_than_naive_where_pairs_repeat():
    values, prompts = simulated(np.random.default_rng(0), 60, 6)
    low, high = stats.bootstrap_by_prompt(values, prompts)
    naive_low, naive_high = stats.bootstrap_by_prompt(values, apart(values))
    assert low < values.mean() < high
    assert (high - low) / (naive_high - naive_low) == pytest.approx(math.sqrt(6), rel=0.2)
    assert (low, high) == stats.bootstrap_by_prompt(values, prompts)  # the same draws each time


def test_bootstrap_covers():
    rng = np.random.default_rng(1)
    intervals = [stats.bootstrap_by_prompt(*simulated(rng, 50, 6), draws=400) for _ in range(200)]
    assert np.mean([low <= 0.7 <= high for low, high in intervals]) > 0.89
    naive = []
    for _ in range(100):
        values, _ = simulated(rng, 50, 6)
        low, high = stats.bootstrap_by_prompt(values, apart(values), draws=400)
        naive.append(low <= 0.7 <= high)
    assert np.mean(naive) < 0.8


def test_bootstrap_of_one_prompt_says_nothing():
    assert stats.bootstrap_by_prompt([1, 0, 1, 0], ["a"] * 4) == (0.0, 1.0)


def test_all_right_is_not_surely_right():
    """Seven prompts all right: Wilson's interval of 7 of 7; what hangs together counts once."""
    prompts = [str(number) for number in range(7)]
    found = stats.bootstrap_by_prompt([1.0] * 7, prompts)
    assert found == stats.wilson(7, 7) and found == (pytest.approx(0.6457, abs=1e-4), 1)
    assert stats.bootstrap_by_prompt([1.0] * 21, prompts * 3) == found
    low, high = stats.bootstrap_by_prompt([0.0] * 7, prompts)
    assert (low, high) == (0, pytest.approx(1 - found[0]))
    low, high = stats.bootstrap_by_prompt([1.0, 0.0] * 7, [p for p in prompts for _ in range(2)])
    assert low < 0.5 < high, "every draw of whole prompts would give one half"
    assert stats.clustered_interval([1.0] * 5000, [1] * 5000)[0] > 0.999


def test_few_prompts_have_wide_intervals():
    """Of 400 samples of six prompts, nearly all intervals hold the truth of 0.7."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        low, high = stats.bootstrap_by_prompt(*simulated(rng, 6, 2), draws=200)
        covered += low <= 0.7 <= high
    assert covered / 400 > 0.93


def test_a_bootstrap_of_many_items_draws_fewer_at_once(monkeypatch):
    wins, counts = list(np.random.default_rng(0).integers(0, 2, 3000)), [1] * 3000
    whole = stats.clustered_interval(wins, counts, draws=200)
    monkeypatch.setattr(stats, "DRAWN_AT_ONCE", 10_000)
    assert stats.clustered_interval(wins, counts, draws=200) == whole


# --- lengths


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("Water, please.", 2),
        ("Because.", 1),
        ("", 0),
        ("ねこがねる", 5),
        ("我喝茶 tea", 4),
        ("แมวนอน", 6),
        ("물을 마셔요", 2),
    ],
)
def test_answer_length(text, length):
    assert stats.answer_length(text) == length


# --- scores of a reward


@pytest.mark.parametrize(
    "found",
    [
        [np.float32(0.5), torch.tensor(2.0), 1],
        (0.5, 2, True),
        np.array([0.5, 2.0, 1.0]),
        torch.tensor([0.5, 2.0, 1.0]),
        iter([0.5, 2.0, 1.0]),
    ],
)
def test_scores_come_as_floats(found):
    scores = stats.finite_scores(found, 3)
    assert scores == [0.5, 2.0, 1.0] and {type(score) for score in scores} == {float}


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ([1.0], "1 of them"),
        (None, "None"),
        (torch.tensor(1.0), "1.0"),
        ([1.0, None, 2.0], "None for answer 2"),
        ([1.0, 2.0, float("nan")], "nan for answer 3"),
        ([1.0, 2.0, float("-inf")], "-inf for answer 3"),
        ([1.0, 2.0, 1e39], "1e+39 for answer 3"),  # float32 cannot hold it
        ([10**40, 1.0, 2.0], f"{10**40} for answer 1"),
        ([[1.0], 1.0, 2.0], "[1.0] for answer 1"),
        (["1.0", 1.0, 2.0], "'1.0' for answer 1"),
        ("123", "'123'"),
        ({"a": 1.0, "b": 2.0, "c": 3.0}, "{'a': 1.0, 'b': 2.0, 'c': 3.0}"),
        ("x" * 999, f"'{'x' * 199}… (str)"),
    ],
)
def test_what_is_no_score_is_named(found, told):
    with pytest.raises(PPOError) as error:
        stats.finite_scores(found, 3, "The reward 'mine:odd'")
    assert str(error.value) == (
        f"The reward 'mine:odd' must give one finite number for each of 3 answers, but gave {told}."
    )


def test_stats_need_no_torch():
    code = "import sys, rlhf_utils.stats; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
