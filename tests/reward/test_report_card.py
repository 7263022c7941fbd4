"""The report card against numbers worked out by hand and slow forms."""

import json
import math

import numpy as np
import pytest
import torch
from helpers_reward import make_model, make_pair

from rlhf_utils.data.rows import Prompt
from rlhf_utils.errors import DataError
from rlhf_utils.preferences.pairs import Item
from rlhf_utils.reward import report_card, summary
from rlhf_utils.reward.refusals import REFUSAL
from rlhf_utils.reward.report_card import (
    accuracy_by,
    bag_of_words,
    directness,
    full_report,
    gold_of_pairs,
    length_correlation,
    longer_of_pairs,
    margins,
    mistakes,
    pair_rewards,
    report_of_pairs,
)
from rlhf_utils.show import figures
from rlhf_utils.stats import wilson

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
    assert np.isnan(bag_of_words(train[:1], heldout)).all()


def test_pairs_that_share_no_word_have_no_baseline_and_do_not_end_the_report():
    apart = [make_pair(str(n), f"yes{n}", f"no{n}") for n in range(12)]
    marks = [make_pair(str(n), "...", "—") for n in range(12)]
    for pairs in (apart, marks):
        card, _ = full_report(short, pairs, [], pairs, [], [], False)
        assert math.isnan(card["bag_of_words"])
        assert cells(card)["… by a rule on single words"] == ("–", "too few shared words")
        assert "single words" not in [name for name, _, _ in summary.accuracies(card)]
        figures.report_card(summary.accuracies(card), card, {"chosen": [1.0], "rejected": [0.0]})


def test_length_is_counted_in_characters_where_a_script_has_no_spaces():
    """Ten prompts in Japanese; the longer answer is preferred, and paid by its length."""
    pairs, rewards = [], []
    for number in range(10):
        chosen = "ねこはさかなをたべます" + "そしてねます" * (number % 3)
        pairs.append(make_pair(f"ねこ{number}", chosen, "さかな"))
        rewards.append((float(len(chosen)), 3.0))
    chosen, rejected = torch.tensor(rewards).T
    report = report_of_pairs(pairs, chosen, rejected, 1.0)
    assert report["longer"] == 1.0 and report["length_correlation"] == pytest.approx(1)
    assert named(report["by_length"]) == [("d: 1–8 longer", 4, 1.0), ("e: over 8 longer", 6, 1.0)]
    assert (bag_of_words(pairs, pairs) > 0).all(), "a character is a word"


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
    assert report["temperature"] == 2.0
    assert math.isnan(report["ece"]) and report["calibration"]["bins"] == [], "of four pairs"
    many = report_of_pairs(pairs * 20, chosen.repeat(20), rejected.repeat(20), 2.0)
    surest = many["calibration_scaled"]["bins"][-1]["confidence"]
    assert surest == pytest.approx(1 / (1 + math.exp(-2)))  # margin −4, divided by 2
    assert many["ece"] == many["calibration_scaled"]["ece"] > 0
    assert many["ece_raw"] == many["calibration"]["ece"] > 0


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


def test_all_right_is_not_surely_right():
    (row,) = accuracy_by([make_pair(str(n)) for n in range(10)], [1.0] * 10, lambda pair: "all")
    assert (round(row["ci"][0], 2), row["ci"][1]) == (0.72, 1)


FILLED = "Great question! It is so."


def test_directness_by_hand():
    """The label says filler once, the model twice; pairs alike in filler say nothing."""
    pairs = [
        make_pair("a", "It is so.", FILLED),
        make_pair("b", "It is so.", FILLED),
        make_pair("c", FILLED, "It is so."),
        make_pair("d", FILLED, "It is so."),
        make_pair("e", "It is so.", "It is not."),
        make_pair("f", FILLED, "Good question! No."),
    ]
    found = directness(pairs, torch.tensor([1.0, -1.0, 1.0, 0.0, 9.0, 9.0]))
    assert found == {
        "prefers_direct": (1 + 0 + 0 + 0.5) / 4,
        "labels_prefer_direct": 0.5,
        "direct_pairs": 4,
    }
    none = directness(pairs[4:], [1.0, 1.0])
    assert math.isnan(none["prefers_direct"]) and math.isnan(none["labels_prefer_direct"])
    assert none["direct_pairs"] == 0


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


# --- all of it


def short(prompts, answers) -> list[float]:
    """A judge that likes short answers."""
    return [-float(len(answer.split())) for answer in answers]


def ranked(count: int, category: str, answers: list[str]) -> tuple[list, list]:
    """(pairs, items): the first answer was preferred to the second, once a prompt."""
    items = [Item(Prompt(f"{category} {n}", category), answers) for n in range(count)]
    pairs = []
    for item in items:
        pairs.append(
            make_pair(item.prompt.text, *answers, category=category, item_id=item.id, rank_gap=1)
        )
    return pairs, items


def card_of(count: int = 60, by_rubric: bool = False, items: bool = True, others: int = 0) -> dict:
    harmful, asked = ranked(count // 2, "harmful", [REFUSAL, "Here is how it is done, step by."])
    alike, more = ranked(count - count // 2, "benign_lookalike", ["It is so.", FILLED])
    other, _ = ranked(others, "other", ["No, it is not so.", "It is."])
    found = full_report(
        short,
        harmful,
        harmful + alike,
        harmful + alike,
        other,
        asked + more if items else [],
        by_rubric,
    )
    return found[0]


def cells(report: dict) -> dict[str, tuple]:
    return {row["held out"]: (row["value"], row["beside it"]) for row in summary.rows(report)}


def test_the_full_report_by_hand():
    card = card_of(by_rubric=True, others=4)
    assert (card["accuracy"], card["accuracy_ood"], card["ceiling"]) == (1.0, 0.0, 1.0)
    assert card["accuracy_ood_ci"][0] == pytest.approx(0) and card["accuracy_ood_ci"][1] > 0.4
    assert (card["prefers_direct"], card["direct_pairs"]) == (1.0, 30)
    assert card["refusal_auc"] == 1.0 and math.isnan(card["refusal_auc_learned"])
    assert card["temperature"] == pytest.approx(0.01), "fitted: all 60 validation pairs are right"
    assert card["mistakes"] == [] and 0 <= card["bag_of_words"] <= 1
    assert [row["wins"] for row in card["hackability"] if row["edit"] == "empty"] == [1.0]
    results = summary.results(card)
    assert results["reward_model.prefers_direct"] == 1.0 and len(results) == 14


def test_rewards_come_by_source():
    pairs, _ = ranked(3, "harmful", [REFUSAL, "Here."])
    _, rewards = full_report(short, pairs, pairs, pairs, pairs[:1], [], False)
    assert rewards == {
        "chosen": [-5.0] * 3,
        "rejected": [-1.0] * 3,
        "other categories": [-5.0, -1.0],
    }
    assert set(full_report(short, pairs, [], pairs, [], [], False)[1]) == {"chosen", "rejected"}


def test_few_validation_pairs_give_no_temperature():
    card = card_of(40)
    assert card["temperature"] == 1.0 and math.isnan(card["ece"]) and math.isnan(card["ece_raw"])
    assert cells(card)["How sure minus how right"] == (
        "too few to say",
        "40 held-out pairs; 50 are needed",
    )


def test_the_summary_says_what_is_known_in_words():
    found = cells(card_of(by_rubric=True))
    low, high = wilson(60, 60)
    assert found["Pairs ordered as labelled"] == ("100.0%", f"95% interval {low:.1%} to 100.0%")
    assert found["The answer without filler preferred"] == (
        "100.0%",
        "the labels 100.0% (30 pairs)",
    )
    assert found["… by the hidden rubric"][0] == "100.0%"
    assert "0.01" in found["How sure minus how right"][1]
    assert "… in other categories" not in found
    bare = cells(card_of(items=False))
    assert "When to refuse, AUC" not in bare and "… by the hidden rubric" not in bare


def test_the_bars_are_what_is_known():
    names = [name for name, _, _ in summary.accuracies(card_of())]
    assert names == ["reward model", "single words", "always longer", "always shorter"]
    bars = summary.accuracies(card_of(by_rubric=True, others=2))
    assert [name for name, _, _ in bars] == [*names[:1], "other categories", *names[1:], "ceiling"]


# --- other people's preferences


def test_pairs_that_are_all_ties_are_told(tmp_path):
    (tmp_path / "even.jsonl").write_text(
        json.dumps({"prompt": "Hi?", "chosen": "a", "rejected": "b", "tie": True}) + "\n"
    )
    with pytest.raises(DataError, match="even.jsonl holds no pair of which one"):
        report_card.main([str(tmp_path / "none"), str(tmp_path / "even.jsonl")])


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
