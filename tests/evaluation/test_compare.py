"""The numbers of the evaluation, against small cases worked out by hand."""

import json
import math

import numpy as np
import pytest

from rlhf_utils.data.rows import Prompt
from rlhf_utils.evaluation import compare
from rlhf_utils.preferences.rubric import GOLD_WEIGHTS, gold_score, rubric

PROMPTS = [
    Prompt("h1", "harmful"),
    Prompt("h2", "harmful"),
    Prompt("b", "benign_lookalike", ["four"]),
    Prompt("u", "unanswerable"),
]
BEFORE = ["Take a knife.", "I can't help with that.", "It is four.", "It was Anna."]
AFTER = [
    "I won't help with that.",
    "I can't help with that.",
    "Sorry, I can't say.",
    "I don't know that.",
]


def compared(times: int = 1) -> list[compare.Comparison]:
    """π_SFT's answers beside π_RLHF's; more than once, with a number behind each prompt."""
    prompts = [
        Prompt(f"{p.text}{n}", p.category, p.key_points) for n in range(times) for p in PROMPTS
    ]
    count = len(prompts)
    sft = compare.score_answers(prompts, BEFORE * times, [0.0] * count)
    ppo = compare.score_answers(prompts, AFTER * times, [1.0] * count, [1.0, 2.0, 3.0, 6.0] * times)
    return [compare.Comparison(*pair) for pair in zip(sft, ppo)]


def test_win_rate_ties_count_half():
    rate, (low, high) = compare.win_rate([3, 1, 2, 2], [1, 3, 2, 2], list("abcd"))
    assert rate == 0.5 and low < 0.5 < high
    assert compare.win_rate([1, 1], [0, 0], ["a", "b"]) == (1.0, (1.0, 1.0))
    assert compare.win_rate([1, 1], [1, 1], ["a", "b"]) == (0.5, (0.5, 0.5))


def test_distinct_n_by_hand():
    texts = ["The cat, the cat.", "a cat"]
    assert compare.distinct_n(texts, 1) == 3 / 6  # the, cat, a
    # the cat ×2, cat the, a cat; none across texts
    assert compare.distinct_n(texts, 2) == 3 / 4
    assert compare.distinct_n(["one two three four"], 2) == 1
    assert math.isnan(compare.distinct_n(["one", ""], 2)) and math.isnan(compare.distinct_n([], 1))


def test_an_answer_carries_its_prompt_and_its_scores():
    answers = [pair.ppo for pair in compared()]
    assert [answer.prompt.text for answer in answers] == ["h10", "h20", "b0", "u0"]
    assert [answer.refuses for answer in answers] == [True, True, True, False]
    assert [answer.words for answer in answers] == [5, 5, 4, 4]
    for answer in answers:
        assert answer.gold == gold_score(answer.prompt, answer.answer)
        assert answer.parts == rubric(answer.prompt, answer.answer)
    with pytest.raises(ValueError):
        compare.score_answers(PROMPTS, BEFORE, [0.0] * 3)  # a reward that is missing


def test_rows_for_samples_jsonl():
    pair = compared()[2]
    row = json.loads(json.dumps(pair.sft.row("sft")))
    parts = {"helpfulness": 1, "harmlessness": 1, "honesty": 1, "brevity": 0.5, "form": 1}
    assert row == parts | {
        "policy": "sft",
        "prompt": "b0",
        "category": "benign_lookalike",
        "answer": "It is four.",
        "gold": pytest.approx(4.3),
        "refuses": False,
        "words": 3,
        "reward": 0.0,
        "kl": None,
    }
    assert pair.ppo.row("ppo")["kl"] == 3.0


def test_compare():
    pairs = compared()
    results = compare.compare(pairs)
    # won, the same, refused for nothing, honest
    assert results["eval.win_rate_vs_sft"] == (1 + 0.5 + 0 + 1) / 4
    assert results["eval.win_rate_reward_model"] == 1
    assert results["eval.kl"] == 3 and results["eval.prompts"] == 4
    assert (results["eval.refusal_harmful_sft"], results["eval.refusal_harmful_ppo"]) == (0.5, 1)
    assert (results["eval.refusal_benign_sft"], results["eval.refusal_benign_ppo"]) == (0, 1)
    assert (results["eval.refusal_ordinary_sft"], results["eval.refusal_ordinary_ppo"]) == (0, 1)
    assert results["eval.length_sft"] == (3 + 5 + 3 + 3) / 4
    assert (results["eval.reward_sft"], results["eval.reward_ppo"]) == (0, 1)
    for policy in ("sft", "ppo"):
        gold = np.mean([getattr(pair, policy).gold for pair in pairs])
        total = sum(
            weight * results[f"eval.{part}_{policy}"] for part, weight in GOLD_WEIGHTS.items()
        )
        assert results[f"eval.gold_{policy}"] == pytest.approx(gold) == pytest.approx(total)
    low, high = results["eval.win_rate_ci"]
    assert low < results["eval.win_rate_vs_sft"] < high
    assert results["eval.win_rate_reward_model_ci"] == (1, 1)


def test_a_rate_without_prompts_is_unknown():
    results = compare.compare([pair for pair in compared() if pair.prompt.category != "harmful"])
    assert math.isnan(results["eval.refusal_harmful_sft"])
    assert results["eval.refusal_benign_ppo"] == 1


def test_examples_show_every_category_and_the_failures():
    examples = compare.examples(compared(), count=3)
    categories = {pair.prompt.category for pair in examples[:3]}
    assert categories == {"harmful", "benign_lookalike", "unanswerable"}
    assert [pair.prompt.text for pair in examples if pair.gain < 0] == ["b0"]
    many = compare.examples(compared(20), count=4)
    assert len(many) == 6 and all(pair.gain < 0 for pair in many[4:])
    same = [compare.Comparison(pair.sft, pair.sft) for pair in compared(20)]
    assert len(compare.examples(same, count=4)) == 4  # nothing became worse, nothing is added
    assert compare.examples(compared(20), seed=1) != compare.examples(compared(20), seed=2)
