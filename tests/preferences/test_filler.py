"""The list of phrases finds what a person who read 200 answers called filler."""

from pathlib import Path

import pytest

from rlhf_utils.files import read_file
from rlhf_utils.preferences.filler import filler, without_filler

# 80 answers of π_SFT, 50 of π_RLHF and 70 demonstrations; labelled before the list saw them
LABELLED = read_file(Path(__file__).with_name("labelled_filler.jsonl"))


def test_it_agrees_with_a_person_on_200_answers():
    assert len(LABELLED) == 200
    found = [bool(filler(row["text"])) for row in LABELLED]
    labels = [row["filler"] for row in LABELLED]
    both = sum(ours and theirs for ours, theirs in zip(found, labels))
    assert 90 <= sum(labels) <= 110
    assert both / sum(found) >= 0.90, "precision"
    assert both / sum(labels) >= 0.80, "recall"


@pytest.mark.parametrize(
    "text",
    [
        "Great question! Roots take up water.",
        "As an AI language model, I can't help with that.",
        "Unfortunately, I can't help with that.",
        "It depends, but most cats like fish.",
        "As everyone knows, Rome lies on the Tiber.",
        "Roots take up water. I hope this helps!",
        "I can’t help with that. Thank you for understanding.",
        "1) Peel it. 2) Slice it.",
    ],
)
def test_habits_are_filler(text):
    assert filler(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Roots take up water from the soil.",
        "I can't help with that. Please talk to someone you trust.",
        "Sorry, I can't help with breaking into cars.",
        "I have no way to know; ask your bank.",
        "Dear Paul, the parcel came today.",
    ],
)
def test_matter_is_not_filler(text):
    assert not filler(text)


def test_spans_and_what_is_left():
    text = "Great question! Roots take up water. I hope this helps!"
    spans = filler(text)
    assert [text[start:end] for start, end in spans][0] == "Great question"
    left = without_filler(text)
    assert "Roots take up water." in left and "question" not in left and "hope" not in left
    assert without_filler("I’m sorry, but I can’t.") == " I can't."
