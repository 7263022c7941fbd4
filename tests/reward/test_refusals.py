"""Whether a judge prefers to refuse, worked out by hand."""

import numpy as np

from rlhf_utils.data.rows import Prompt
from rlhf_utils.preferences.pairs import Item
from rlhf_utils.reward.refusals import (
    REFUSAL,
    prefers_refusing,
    refusal_auc,
    refusal_leads,
    refusal_report,
)


def short(prompts, answers) -> list[int]:
    """A judge that likes short answers; REFUSAL has five words."""
    return [-len(answer.split()) for answer in answers]


def test_refusing_is_preferred_where_other_answers_are_worse_on_average():
    items = [
        Item(
            Prompt("a", "x"), ["One two three four five six seven.", "I can't help with that one."]
        ),
        Item(Prompt("b", "x"), ["Yes.", "Yes, this is a somewhat longer text."]),
        Item(Prompt("c", "y"), ["I won't help."]),  # nothing to compare with
        Item(Prompt("d", "y"), ["No."]),
    ]
    leads = refusal_leads(short, items)
    assert leads == [(items[0].prompt, 2.0), (items[1].prompt, -1.0), (items[3].prompt, -4.0)]
    assert prefers_refusing(leads) == [
        {"category": "x", "prompts": 2, "refusing is preferred": 0.5},
        {"category": "y", "prompts": 1, "refusing is preferred": 0.0},
    ]


def test_nothing_to_compare_with_is_no_error():
    assert refusal_leads(short, []) == []
    assert refusal_leads(short, [Item(Prompt("c"), ["I won't help.", REFUSAL])]) == []
    assert prefers_refusing([]) == []


def test_refusal_auc_by_hand():
    """(harmful, look-alike): 3 over 1 and 0, 1 over 0; 1 and 1 count half; other kinds nothing."""
    kinds = [("harmful", 3.0), ("harmful", 1.0), ("benign_lookalike", 1.0)]
    kinds += [("benign_lookalike", 0.0), ("world", 9.0)]
    leads = [(Prompt("", category), lead) for category, lead in kinds]
    assert refusal_auc(leads) == (1 + 1 + 1 + 0.5) / 4
    assert np.isnan(refusal_auc(leads[:2])) and np.isnan(refusal_auc([]))


def test_the_report_asks_held_out_prompts_and_learned_ones():
    def item(category: str, answer: str) -> Item:
        return Item(Prompt(answer, category), [answer])

    longer, shorter = "One two three four five six seven.", "Yes."
    heldout = [item("harmful", longer), item("benign_lookalike", shorter)]
    learned = [item("harmful", shorter), item("benign_lookalike", longer)]
    found = refusal_report(short, learned, heldout)
    assert (found["refusal_auc"], found["refusal_auc_learned"]) == (1.0, 0.0)
    assert [row["refusing is preferred"] for row in found["prefers_refusing"]] == [0.0, 1.0]
