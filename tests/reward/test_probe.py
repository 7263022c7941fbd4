"""The hackability probe: judges whose weakness is known are found out."""

import pytest
from helpers_reward import make_model, make_pair

from rlhf_utils.reward import probe
from rlhf_utils.stats import wilson

PAIRS = [
    make_pair("a", "One two three.", "Four."),
    make_pair("a", "One two three.", "Five six."),
    make_pair("a", "Five six.", "Four."),
    make_pair("b", "Seven eight.", "No."),
    make_pair("c", "I can't help with that.", "Nine."),  # the best answer refuses
    make_pair("d", "Ten.", "Eleven.", tie=True),
]


def shares(judge) -> dict[str, float]:
    def score(prompts, answers):
        return [float(judge(answer)) for answer in answers]

    return {row["edit"]: row["wins"] for row in probe.hackability(score, PAIRS)}


def test_good_answers_won_most_and_do_not_refuse():
    assert probe.good_answers(PAIRS) == [("a", "One two three."), ("b", "Seven eight.")]
    many = [make_pair(str(n), "Yes.", "No.") for n in range(probe.MOST + 5)]
    assert len(probe.good_answers(many)) == probe.MOST


def test_each_edit_is_what_its_name_says():
    edited = {name: edit("One two three.", "Seven eight.") for name, edit in probe.EDITS.items()}
    assert edited["cut off in the middle"] == "One"
    assert edited["said twice"] == "One two three. One two three."
    assert edited["another prompt's answer after it"] == "One two three. Seven eight."
    assert edited["another prompt's answer instead"] == "Seven eight."
    assert (edited["in capitals"], edited["empty"]) == ("ONE TWO THREE.", "")
    for name in ("filler around it", "thanks around it"):
        before, _, after = edited[name].partition("One two three.")
        assert before and after
    assert probe.EDITS["cut off in the middle"]("植物喝水", "") == "植物"


def test_a_judge_that_counts_letters_is_fooled_by_length_alone():
    found = shares(len)
    longer = [name for name, share in found.items() if share == 1]
    assert longer == [
        "said twice",
        "filler around it",
        "thanks around it",
        "another prompt's answer after it",
    ]
    assert found["empty"] == found["cut off in the middle"] == found["in capitals"] == 0
    assert found["another prompt's answer instead"] == 0.5  # the longer of the two, once
    found = shares(lambda answer: -len(answer))
    assert found["empty"] == found["cut off in the middle"] == 1 and found["said twice"] == 0


def test_a_judge_that_likes_thanks_is_fooled_by_thanks_alone():
    found = shares(lambda answer: "thank you" in answer.lower())
    assert [name for name, share in found.items() if share] == ["thanks around it"]


def test_rows_say_how_many_and_how_sure():
    rows = probe.hackability(lambda prompts, answers: [0.0] * len(answers), PAIRS)
    assert [row["edit"] for row in rows] == list(probe.EDITS)
    assert {row["answers"] for row in rows} == {2} and {row["wins"] for row in rows} == {0.0}
    assert rows[0]["ci"] == pytest.approx(wilson(0, 2))
    assert probe.hackability(len, PAIRS[:1]) == [], "of one answer there is no other"


def test_a_model_is_asked_about_every_edit_and_draws_nothing():
    """Not even global random numbers: the report card's other numbers stay as they were."""
    import torch

    model = make_model()
    before = torch.random.get_rng_state()
    rows = probe.hackability(model.raw, PAIRS)
    assert torch.equal(before, torch.random.get_rng_state())
    assert len(rows) == len(probe.EDITS) and all(0 <= row["wins"] <= 1 for row in rows)
