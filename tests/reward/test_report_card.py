"""The report card against numbers worked out by hand and slow forms; and what it says about rows that are odd."""

import json
import math

import numpy as np
import pytest
import torch
from test_model import trained

from rlhf_utils.errors import DataError
from rlhf_utils.preferences.pairs import check_split, usable_pairs
from rlhf_utils.reward import report_card
from rlhf_utils.reward.report_card import margins
from rlhf_utils.show import figures

PAIR = {"prompt": "Hi?", "chosen": "Hello.", "rejected": "No."}


# --- odd rows


def test_odd_pairs_are_counted_with_an_example():
    rows = [
        PAIR,
        dict(PAIR, chosen="No.", rejected="Hello."),
        dict(PAIR, prompt="Same?", chosen="Yes. ", rejected="Yes."),
        dict(PAIR, prompt="Empty?", rejected=" "),
        dict(PAIR, prompt="Number?", chosen=3),
        dict(PAIR, prompt="Number?", rejected={"no": "text"}),
        dict(PAIR, prompt="Tie?", tie=True),
    ]
    kept, found = usable_pairs(rows)
    assert kept == [rows[0], rows[1], rows[6]]
    assert {
        row["finding"]: (row["pairs"], row["what happens"], row["example"]) for row in found
    } == {
        "judged both ways": (2, "kept", "Hi?"),
        "both answers equal": (1, "left out", "Same?"),
        "an empty answer": (1, "left out", "Empty?"),
        "not text": (2, "left out", "Number?"),
        "a tie": (1, "half a pair each way; not in the report card", "Tie?"),
    }
    assert usable_pairs([PAIR]) == ([PAIR], [])
    with pytest.raises(DataError, match="None of 2 pairs can be used: 2 both answers equal"):
        usable_pairs([dict(PAIR, chosen="No.")] * 2)


def test_a_prompt_on_both_sides_is_refused():
    check_split([PAIR], [dict(PAIR, prompt="Bye?")])
    with pytest.raises(DataError, match="1 prompts are both .* 'Hi\\?'"):
        check_split([PAIR, dict(PAIR, prompt="Bye?")], [PAIR])


def test_too_long_answers_are_counted():
    class Model:
        max_length = 5

        def tokens(self, prompts, completions):
            return [[0] * len(p + c) for p, c in zip(prompts, completions)], None

    rows = [
        dict(PAIR, prompt="a", chosen="bcde", rejected="x"),
        dict(PAIR, prompt="a", chosen="bcdef", rejected="x"),
        dict(PAIR, prompt="abcdef", chosen="y", rejected="z"),
    ]
    assert report_card.too_long(Model(), rows) == {
        "finding": "longer than 5 tokens",
        "pairs": 2,
        "what happens": "the beginning is cut",
        "example": "a",
    }
    assert report_card.too_long(Model(), rows[:1]) is None


# --- calibration


def test_temperature_undoes_a_scale():
    """Labels drawn by σ(margin): margins five times as large need T = 5, a fifth as large T = 1/5; and it is where the loss is lowest."""
    rng = np.random.default_rng(0)
    size = rng.normal(0, 2, 20_000)
    margins = np.where(rng.random(20_000) < 1 / (1 + np.exp(-size)), size, -size)
    for scale in (1.0, 5.0, 0.2):
        assert report_card.fit_temperature(margins * scale) == pytest.approx(scale, rel=0.05)
    best = report_card.fit_temperature(margins)

    def loss(t):
        return np.log1p(np.exp(-margins / t)).mean()

    assert loss(best) < min(loss(best * 1.01), loss(best / 1.01))


@pytest.mark.parametrize(
    ("margins", "edge"),
    [([1.0, 2.0], 0.01), ([-1.0, -2.0], 100.0), ([1e6, 1e6, -1e6], 100.0), ([0.0, 0.0], None)],
)
def test_temperature_stays_finite(margins, edge):
    found = report_card.fit_temperature(margins)
    assert 0.0099 < found < 100.1 and (edge is None or found == pytest.approx(edge))


# --- where it is right


def rows_and_rewards():
    rows = [
        dict(PAIR, prompt="a", chosen="one two", rejected="one", category="x", margin=1),
        dict(PAIR, prompt="a", chosen="one", rejected="one two three", category="x", margin=2),
        dict(PAIR, prompt="b", chosen="one", rejected="two", category="y", margin=2),
        dict(PAIR, prompt="c", chosen="a " * 12, rejected="b", category="y", margin=1),
    ]
    return rows, torch.tensor([2.0, 0.0, 1.0, 3.0]), torch.tensor([1.0, 4.0, 1.0, 0.0])


def test_accuracy_by_groups():
    rows, chosen, rejected = rows_and_rewards()
    report = report_card.build(rows, chosen, rejected, 2.0, words=np.array([1.0, -1.0, 1.0, 1.0]))
    assert (
        report["accuracy"] == (1 + 0 + 0.5 + 1) / 4
        and report["longer"] == (1 + 0 + 0.5 + 1) / 4
        and report["bag_of_words"] == 0.75
    )
    assert [(r["name"], r["pairs"], r["accuracy"]) for r in report["by_category"]] == [
        ("x", 2, 0.5),
        ("y", 2, 0.75),
    ]
    assert [(r["name"], r["accuracy"]) for r in report["by_margin"]] == [
        ("margin 1", 1.0),
        ("margin 2", 0.25),
    ]
    fine = (
        [dict(row, margin=n / 7) for n, row in enumerate(rows * 3)],
        chosen.repeat(3),
        rejected.repeat(3),
    )
    named = (
        [dict(row, margin=word) for word, row in zip(["much", "some"] * 2, rows)],
        chosen,
        rejected,
    )
    assert all("by_margin" not in report_card.build(*given, 2.0) for given in (fine, named)), (
        "only a few distances make a figure"
    )
    assert [(r["name"], r["accuracy"]) for r in report["by_length"]] == [
        ("b: 1–8 shorter", 0.0),
        ("c: equal", 0.5),
        ("d: 1–8 longer", 1.0),
        ("e: over 8 longer", 1.0),
    ]
    low, high = report["accuracy_ci"]
    assert low <= report["accuracy"] <= high
    assert report["calibration_scaled"]["bins"][-1]["confidence"] == pytest.approx(
        1 / (1 + math.exp(-2))
    )  # margin −4, scaled by 2
    assert (
        report["ece"] == report["calibration_scaled"]["ece"]
        and report["ece_raw"] == report["calibration"]["ece"]
    )


def test_length_correlation_is_within_prompts():
    """Prompt b's answers are longer and better paid throughout; that says nothing, as one prompt's answers only are compared."""
    rows = [
        dict(PAIR, prompt="a", chosen="1 2 3", rejected="1"),
        dict(PAIR, prompt="b", chosen="1 2 3 4 5 6 7", rejected="1 2 3 4 5"),
    ]
    assert report_card.length_correlation(rows, [0.0, 10.0], [2.0, 12.0]) == pytest.approx(-1)
    assert math.isnan(report_card.length_correlation(rows, [1.0, 1.0], [1.0, 1.0]))


def test_bag_of_words_finds_the_word_that_tells():
    rng = np.random.default_rng(0)
    filler = ["red", "blue", "green", "tall", "small"]

    def rows(count):
        return [
            {
                "prompt": str(i),
                "chosen": " ".join(rng.permutation([*filler[:3], "please"])),
                "rejected": " ".join(rng.permutation([*filler[1:4], "never"])),
            }
            for i in range(count)
        ]

    train, heldout = rows(40), rows(20)
    margins = report_card.bag_of_words(train, heldout)
    assert margins.shape == (20,) and (margins > 0).all()
    swapped = [dict(r, chosen=r["rejected"], rejected=r["chosen"]) for r in heldout]
    assert report_card.bag_of_words(train, swapped) == pytest.approx(-margins)


def test_mistakes_are_the_surest_one_a_prompt():
    rows, margins = [dict(PAIR, prompt=p) for p in "aabcd"], [-3.0, -2.0, -1.0, 2.0, -4.0]
    assert [(m["prompt"], m["margin"]) for m in report_card.mistakes(rows, margins, 2)] == [
        ("d", -4.0),
        ("a", -3.0),
    ]
    assert report_card.mistakes(rows[:1], [1.0]) == []


def test_subsets_weigh_alike():
    rows = [dict(PAIR, subset="chat")] * 3 + [dict(PAIR, subset="safety")]
    found = report_card.by_subset(rows, np.array([1.0, 1.0, -1.0, -1.0]))
    assert found["accuracy"] == pytest.approx((2 / 3 + 0) / 2) and [
        s["name"] for s in found["subsets"]
    ] == ["chat", "safety"]
    assert report_card.by_subset([PAIR], np.array([1.0]))["subsets"][0]["name"] == "all"


def test_a_saved_model_judges_any_file(tmp_path, capsys):
    model = trained(head="linear")
    model.save(tmp_path / "model")
    rows = [
        dict(PAIR, subset="chat"),
        dict(PAIR, prompt="Why?", chosen="Because.", rejected="So.", subset="safety"),
        dict(PAIR, rejected=PAIR["chosen"]),
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report_card.main([str(tmp_path / "model"), str(tmp_path / "rows.jsonl")])
    right = (margins(model, rows[:2]) > 0).float().tolist()
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in printed[:2]] == [f"{share:.1%}" for share in right]
    assert printed[2].split()[-1] == f"{sum(right) / 2:.1%}"


# --- figures


def test_figures_take_what_the_report_gives():
    rows, chosen, rejected = rows_and_rewards()
    report = report_card.build(rows, chosen, rejected, 1.5)
    fig = figures.report_card(
        [("model", 0.6, (0.5, 0.7)), ("longer", 0.4, None)],
        report,
        {"chosen": chosen.tolist(), "<b>": rejected.tolist()},
    )
    assert (
        list(fig.data[0].x) == [0.4, 0.6]
        and list(fig.data[0].y) == ["longer", "model"]
        and fig.data[0].marker.color[1] == plots.BLUE
    )
    details = figures.accuracy_details(
        report, [{"prompts": 1, "accuracy": 0.5}, {"prompts": 2, "accuracy": 0.6}], 0.8
    )
    assert len(details.data) == 4 and list(details.data[1].y) == ["2", "1"]
    plain = report_card.build([{k: r[k] for k in PAIR} for r in rows], chosen, rejected, 1.0)
    assert "by_category" not in plain and len(figures.accuracy_details(plain, []).data) == 2


def test_training_figure_before_the_first_step():
    fig = figures.reward_training([], [{"epoch": 0, "accuracy": 0.5}])
    assert len(fig.data[0].y) == 0 and list(fig.data[1].y) == [0.5]
    assert list(
        figures.reward_training([{"loss": 0.6}, {"loss": 0.4}], []).data[0].y
    ) == pytest.approx([0.5])
