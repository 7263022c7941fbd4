"""The report card against numbers worked out by hand and slow forms."""

import json
import math

import numpy as np
import pytest
import torch
from helpers_reward import make_model, make_pair

from rlhf_utils.errors import DataError
from rlhf_utils.reward import report_card
from rlhf_utils.reward.report_card import (
    accuracy_by,
    bag_of_words,
    gold_of_pairs,
    length_correlation,
    longer_of_pairs,
    margins,
    mistakes,
    pair_rewards,
    report_of_pairs,
)

# --- rewards and margins


@pytest.mark.parametrize("kind", [list, torch.tensor, np.array])
def test_rewards_and_margins_by_hand(kind):
    def score(prompts, answers):
        return kind([float(len(answer + prompt)) for prompt, answer in zip(prompts, answers)])

    pairs = [make_pair("p", "a", "bb"), make_pair("p", "ccc", "a"), make_pair("qq", "a", "bb")]
    chosen, rejected = pair_rewards(score, pairs)
    assert chosen.tolist() == [2, 4, 3] and rejected.tolist() == [3, 2, 4]
    assert margins(score, pairs).tolist() == [-1, 2, -1]


def test_margins_of_a_model_are_differences_of_its_rewards():
    model = make_model(ensemble=2)
    pairs = [make_pair(), make_pair("Why?", "Because.", "So."), make_pair()]
    found = margins(model.raw, pairs)
    one = model.raw(["Hi?"], ["Hello."]) - model.raw(["Hi?"], ["No."])
    other = model.raw(["Why?"], ["Because."]) - model.raw(["Why?"], ["So."])
    assert torch.allclose(found, torch.cat([one, other, one]), atol=1e-5)


def test_baselines_of_pairs():
    pair = make_pair(
        "p",
        "It has four.",
        "I can't help with that question.",
        category="science",
        key_points=["four"],
    )
    assert longer_of_pairs([pair]).tolist() == [3 - 6]
    assert gold_of_pairs([pair])[0] > 0.5


def test_bag_of_words_finds_the_word_that_tells():
    rng = np.random.default_rng(0)
    filler = ["red", "blue", "green", "tall", "small"]

    def pairs(count):
        found = []
        for number in range(count):
            chosen = " ".join(rng.permutation([*filler[:3], "please"]))
            rejected = " ".join(rng.permutation([*filler[1:4], "never"]))
            found.append(make_pair(str(number), chosen, rejected))
        return found

    train, heldout = pairs(40), pairs(20)
    found = bag_of_words(train, heldout)
    assert found.shape == (20,) and (found > 0).all()
    swapped = [make_pair(p.prompt.text, p.rejected, p.chosen) for p in heldout]
    assert bag_of_words(train, swapped) == pytest.approx(-found)
    assert bag_of_words(train[:1], heldout).tolist() == [0] * 20


# --- where it is right


def pairs_and_rewards():
    pairs = [
        make_pair("a", "one two", "one", category="x", rank_gap=1.0),
        make_pair("a", "one", "one two three", category="x", rank_gap=2.0),
        make_pair("b", "one", "two", category="y", rank_gap=2.0),
        make_pair("c", "a " * 12, "b", category="y", rank_gap=1.0),
    ]
    return pairs, torch.tensor([2.0, 0.0, 1.0, 3.0]), torch.tensor([1.0, 4.0, 1.0, 0.0])


def named(rows: list[dict]) -> list[tuple]:
    return [(row["name"], row["pairs"], row["accuracy"]) for row in rows]


def test_the_report_by_hand():
    pairs, chosen, rejected = pairs_and_rewards()
    report = report_of_pairs(pairs, chosen, rejected, 2.0)
    assert report["pairs"] == 4
    assert report["accuracy"] == report["longer"] == (1 + 0 + 0.5 + 1) / 4
    assert named(report["by_category"]) == [("x", 2, 0.5), ("y", 2, 0.75)]
    assert named(report["by_rank_gap"]) == [("rank gap 1", 2, 1.0), ("rank gap 2", 2, 0.25)]
    assert named(report["by_length"]) == [
        ("b: 1–8 shorter", 1, 0.0),
        ("c: equal", 1, 0.5),
        ("d: 1–8 longer", 1, 1.0),
        ("e: over 8 longer", 1, 1.0),
    ]
    low, high = report["accuracy_ci"]
    assert low <= report["accuracy"] <= high
    surest = report["calibration_scaled"]["bins"][-1]["confidence"]
    assert surest == pytest.approx(1 / (1 + math.exp(-2)))  # margin −4, divided by 2
    assert report["temperature"] == 2.0
    assert report["ece"] == report["calibration_scaled"]["ece"]
    assert report["ece_raw"] == report["calibration"]["ece"]


def test_what_the_pairs_do_not_say_is_not_in_the_report():
    pairs, chosen, rejected = pairs_and_rewards()
    plain = [make_pair(p.prompt.text, p.chosen, p.rejected) for p in pairs]
    report = report_of_pairs(plain, chosen, rejected, 1.0)
    assert not {"by_category", "by_rank_gap"} & set(report)


def test_a_fine_scale_of_rank_gaps_makes_no_groups():
    pairs, chosen, rejected = pairs_and_rewards()
    fine = []
    for number, pair in enumerate(pairs * 3):
        fine.append(make_pair(pair.prompt.text, pair.chosen, pair.rejected, rank_gap=number / 7))
    report = report_of_pairs(fine, chosen.repeat(3), rejected.repeat(3), 2.0)
    assert "by_rank_gap" not in report


def test_accuracy_by_has_intervals_of_whole_prompts():
    pairs = [make_pair(prompt) for prompt in "aabb"]
    (row,) = accuracy_by(pairs, [1.0, 1.0, -1.0, -1.0], lambda pair: "all")
    assert row["accuracy"] == 0.5 and tuple(row["ci"]) == (0.0, 1.0)


def test_length_correlation_is_within_prompts():
    """Prompt b's answers are longer and better paid throughout, which must not count."""
    pairs = [make_pair("a", "1 2 3", "1"), make_pair("b", "1 2 3 4 5 6 7", "1 2 3 4 5")]
    assert length_correlation(pairs, [0.0, 10.0], [2.0, 12.0]) == pytest.approx(-1)
    assert math.isnan(length_correlation(pairs, [1.0, 1.0], [1.0, 1.0]))


def test_mistakes_are_the_surest_one_a_prompt():
    pairs = [make_pair(prompt, annotator="ann", rank_gap=2.0) for prompt in "aabcdefg"]
    found = mistakes(pairs, torch.tensor([-3.0, -2.0, -1.0, 2.0, -4.0, 0.0, -0.5, -0.6]))
    assert [(row["prompt"], row["margin"]) for row in found[:3]] == [
        ("d", -4.0),
        ("a", -3.0),
        ("b", -1.0),
    ]
    assert len(found) == 4 and found[3]["prompt"] == "g"
    assert found[0] == {
        "prompt": "d",
        "chosen": "Hello.",
        "rejected": "No.",
        "annotator": "ann",
        "rank_gap": 2.0,  # and the margin beside it
        "margin": -4.0,
    }
    assert mistakes(pairs[:1], [1.0]) == []


# --- other people's preferences


def test_a_saved_model_judges_any_file_and_subsets_weigh_alike(tmp_path, capsys):
    model = make_model()
    model.save(tmp_path / "model")
    answers = {"a": "Hello.", "b": "No.", "c": "Good day to you."}
    best, middle, worst = sorted(
        answers.values(), key=lambda answer: -model.raw(["Hi?"], [answer]).item()
    )
    rows = [
        {"chosen": best, "rejected": middle, "subset": "chat"},
        {"chosen": best, "rejected": worst, "subset": "chat"},
        {"chosen": worst, "rejected": middle, "subset": "chat"},
        {"chosen": middle, "rejected": best, "subset": "safety"},
        {"chosen": middle, "rejected": middle},  # says nothing
        {"chosen": best, "rejected": middle, "tie": True},
    ]
    lines = [json.dumps({"prompt": "Hi?"} | row) + "\n" for row in rows]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    report_card.main([str(tmp_path / "model"), str(tmp_path / "rows.jsonl")])
    chat, safety, mean = capsys.readouterr().out.splitlines()
    assert chat.split()[:2] == ["chat", "66.7%"] and chat.split()[-2:] == ["3", "pairs"]
    assert safety.split()[:2] == ["safety", "0.0%"] and safety.split()[-2:] == ["1", "pairs"]
    assert mean.split()[0] == "mean" and mean.split()[-1] == "33.3%"


def test_pairs_without_a_subset_are_one(tmp_path, capsys):
    make_model().save(tmp_path / "model")
    row = {"prompt": "Hi?", "chosen": "Hello.", "rejected": "No."}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    report_card.main([str(tmp_path / "model"), str(tmp_path / "rows.jsonl")])
    assert capsys.readouterr().out.startswith("all ")


def test_the_command_needs_a_model_and_a_file():
    with pytest.raises(DataError, match="Give two arguments"):
        report_card.main(["outputs/demo/reward_model"])
