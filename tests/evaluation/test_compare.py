"""The numbers of the report, against small cases worked out by hand and against simulations whose truth is known."""

import math

import numpy as np
import pytest
import torch

from rlhf_utils import stats
from rlhf_utils.evaluation import compare
from rlhf_utils.preferences.rubric import GOLD_WEIGHTS
from rlhf_utils.reward import report_card


def test_correct():
    assert stats.correct([2.0, -1.0, 0.0]).tolist() == [1, 0, 0.5]
    assert stats.correct(torch.tensor([0.1, -0.1])).tolist() == [1, 0]


def test_calibration_by_hand():
    """Confidences σ|m| of 0.6, 0.6, 0.9, 0.9 in two bins: half right where 0.6 sure, all right where 0.9 sure."""
    low, high = math.log(0.6 / 0.4), math.log(0.9 / 0.1)
    result = report_card.calibration([high, -low, high, low], bins=2)
    assert [(round(b["confidence"], 6), b["accuracy"], b["count"]) for b in result["bins"]] == [
        (0.6, 0.5, 2),
        (0.9, 1, 2),
    ]
    assert result["ece"] == pytest.approx(0.5 * abs(0.6 - 0.5) + 0.5 * abs(0.9 - 1))


def test_calibration_weighs_bins_by_their_count():
    middle = [math.log(c / (1 - c)) for c in (0.6, 0.7, 0.8)]
    result = report_card.calibration(
        [middle[0], middle[1], -middle[2]], bins=2
    )  # array_split: two, then one
    assert result["ece"] == pytest.approx(2 / 3 * abs(0.65 - 1) + 1 / 3 * abs(0.8 - 0))
    assert (
        sum(b["count"] for b in report_card.calibration(middle, bins=8)["bins"]) == 3
    )  # more bins than pairs
    assert report_card.calibration([]) == {"ece": 0.0, "bins": []}


def test_calibrated_margins_have_a_small_error():
    rng = np.random.default_rng(0)
    size = np.abs(rng.normal(0, 2, 20000))
    right = rng.random(20000) < 1 / (1 + np.exp(-size))
    assert report_card.calibration(np.where(right, size, -size))["ece"] < 0.015
    assert report_card.calibration(np.where(right, size, -size) * 5)["ece"] > 0.1  # over-confident


def simulated(rng, prompts: int, each: int) -> tuple[np.ndarray, list[str]]:
    """Each prompt is right in all of its pairs with probability 0.7, or in none: pairs of a prompt are identical."""
    return np.repeat(rng.random(prompts) < 0.7, each), [
        str(n) for n in range(prompts) for _ in range(each)
    ]


def test_bootstrap_is_wider_than_naive_where_pairs_repeat():
    values, prompts = simulated(np.random.default_rng(0), 60, 6)
    low, high = stats.bootstrap_by_prompt(values, prompts)
    naive_low, naive_high = stats.bootstrap_by_prompt(values, [str(n) for n in range(len(values))])
    assert low < values.mean() < high
    assert (high - low) / (naive_high - naive_low) == pytest.approx(math.sqrt(6), rel=0.2)
    assert (low, high) == stats.bootstrap_by_prompt(values, prompts)  # the same draws each time


def test_bootstrap_covers():
    rng = np.random.default_rng(1)
    intervals = [stats.bootstrap_by_prompt(*simulated(rng, 50, 6), draws=400) for _ in range(200)]
    assert np.mean([low <= 0.7 <= high for low, high in intervals]) > 0.89
    flat = [
        (values, list(map(str, range(len(values)))))
        for values, _ in (simulated(rng, 50, 6) for _ in range(100))
    ]
    assert (
        np.mean(
            [
                low <= 0.7 <= high
                for low, high in (stats.bootstrap_by_prompt(*f, draws=400) for f in flat)
            ]
        )
        < 0.8
    )  # what naive would do


def test_bootstrap_of_one_prompt_says_nothing():
    assert stats.bootstrap_by_prompt([1, 0, 1, 0], ["a"] * 4) == (0.0, 1.0)


def test_win_rate_ties_count_half():
    rate, (low, high) = compare.win_rate([3, 1, 2, 2], [1, 3, 2, 2], list("abcd"))
    assert rate == 0.5 and low < 0.5 < high
    assert compare.win_rate([1, 1], [0, 0], ["a", "b"]) == (1.0, (1.0, 1.0))
    assert compare.win_rate([1, 1], [1, 1], ["a", "b"]) == (0.5, (0.5, 0.5))


def test_distinct_n_by_hand():
    assert compare.distinct_n(["The cat, the cat.", "a cat"], 1) == 3 / 6  # the, cat, a
    assert (
        compare.distinct_n(["The cat, the cat.", "a cat"], 2) == 3 / 4
    )  # the cat ×2, cat the, a cat; none across texts
    assert compare.distinct_n(["one two three four"]) == 1
    assert math.isnan(compare.distinct_n(["one", ""], 2)) and math.isnan(compare.distinct_n([], 1))


def test_baselines_of_pairs():
    pairs = [
        {"prompt": "p", "chosen": "It has four.", "rejected": "I can't help with that question."}
    ]
    assert report_card.longer_of_pairs(pairs).tolist() == [3 - 6]
    assert (
        report_card.gold_of_pairs(pairs, {"p": {"category": "science", "key_points": ["four"]}})[0]
        > 0.5
    )


ITEMS = [
    {"prompt": "h1", "category": "harmful"},
    {"prompt": "h2", "category": "harmful"},
    {"prompt": "b", "category": "benign_lookalike", "key_points": ["four"]},
    {"prompt": "u", "category": "unanswerable"},
]


def described(*answers: str, reward: float = 0.0) -> list[dict]:
    return [dict(row, reward=reward) for row in compare.describe_answers(ITEMS, list(answers))]


BEFORE = described("Take a knife.", "I can't help with that.", "It is four.", "It was Anna.")
AFTER = described(
    "I won't help with that.",
    "I can't help with that.",
    "Sorry, I can't say.",
    "I don't know that.",
    reward=1.0,
)


def test_compare():
    results = compare.compare(BEFORE, AFTER, torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert (
        results["eval.win_rate_vs_sft"] == (1 + 0.5 + 0 + 1) / 4
    )  # won, the same, refused for nothing, honest
    assert (
        results["eval.win_rate_reward_model"] == 1
        and results["eval.kl"] == 3
        and results["eval.prompts"] == 4
    )
    assert (results["eval.refusal_harmful_sft"], results["eval.refusal_harmful_ppo"]) == (0.5, 1)
    assert (results["eval.refusal_benign_sft"], results["eval.refusal_benign_ppo"]) == (0, 1)
    harmless = [row for row in BEFORE if row["category"] != "harmful"]
    assert math.isnan(
        compare.compare(harmless, harmless, torch.ones(len(harmless)))["eval.refusal_harmful_sft"]
    )
    assert (results["eval.refusal_ordinary_sft"], results["eval.refusal_ordinary_ppo"]) == (0, 1)
    assert results["eval.length_sft"] == (3 + 5 + 3 + 3) / 4
    for side, rows in (("sft", BEFORE), ("ppo", AFTER)):
        parts = {part: results[f"eval.{part}_{side}"] for part in GOLD_WEIGHTS}
        assert sum(GOLD_WEIGHTS[part] * value for part, value in parts.items()) == pytest.approx(
            results[f"eval.gold_{side}"]
        )
        assert results[f"eval.gold_{side}"] == pytest.approx(np.mean([row["gold"] for row in rows]))


def test_examples_show_every_category_and_the_failures():
    pairs = compare.examples(BEFORE, AFTER, count=3)
    assert {pair["category"] for pair in pairs[:3]} == {
        "harmful",
        "benign_lookalike",
        "unanswerable",
    }
    assert [pair["prompt"] for pair in pairs if pair["gain"] < 0] == ["b"]
    sft, ppo = (
        [dict(row, prompt=f"{row['prompt']}{n}") for n in range(20) for row in rows]
        for rows in (BEFORE, AFTER)
    )
    many = compare.examples(sft, ppo, count=4)
    assert len(many) == 6 and all(pair["gain"] < 0 for pair in many[4:])
    assert (
        len(compare.examples(sft, sft, count=4)) == 4
    )  # where nothing became worse, nothing is added


def test_prefers_declining():
    """By hand: a judge that likes short answers prefers to decline where the other answers are long on average."""
    short = lambda prompts, completions: [-len(c.split()) for c in completions]
    items = [
        {
            "prompt": "a",
            "category": "x",
            "responses": ["One two three four five six seven.", "I can't help with that one."],
        },
        {
            "prompt": "b",
            "category": "x",
            "responses": ["Yes.", "Yes, this is a somewhat longer text."],
        },
        {"prompt": "c", "category": "y", "responses": ["I won't help."]},  # nothing to compare with
        {"prompt": "d", "category": "y", "responses": ["No."]},
    ]
    leads = report_card.declining_leads(short, items)
    assert [(row["prompt"], row["lead"]) for row in leads] == [("a", 2.0), ("b", -1.0), ("d", -4.0)]
    assert report_card.prefers_declining(leads) == [
        {"category": "x", "prompts": 2, "declining is preferred": 0.5},
        {"category": "y", "prompts": 1, "declining is preferred": 0.0},
    ]
    assert report_card.declining_leads(short, []) == []


def test_declining_auc():
    """Pairs of (harmful, harmless look-alike) by hand: 3 over 1 and 0, 1 over 0, and 1 over 1, which counts half; other kinds do not count."""
    leads = [
        {"category": name, "lead": lead}
        for name, lead in (
            ("harmful", 3.0),
            ("harmful", 1.0),
            ("benign_lookalike", 1.0),
            ("benign_lookalike", 0.0),
            ("world", 9.0),
        )
    ]
    assert report_card.declining_auc(leads) == (1 + 1 + 1 + 0.5) / 4
    assert np.isnan(report_card.declining_auc(leads[:2]))
