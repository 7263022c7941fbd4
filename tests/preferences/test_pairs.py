"""Rankings become the right pairs, items are named by their content, odd pairs are sorted out."""

from dataclasses import replace

import pytest
from judged import make_item, said

from rlhf_utils.data.rows import Prompt
from rlhf_utils.errors import DataError
from rlhf_utils.preferences.pairs import (
    Pair,
    check_split,
    pairs_of_judgements,
    ranking_to_pairs,
    usable_pairs,
)


@pytest.mark.parametrize(
    ("ranks", "pairs"),
    [
        ([1, 2, 3], [(0, 1), (0, 2), (1, 2)]),
        ([3, 1, 2], [(1, 0), (1, 2), (2, 0)]),
        ([1, 1, 2], [(0, 2), (1, 2)]),  # a tie gives no pair
        ([2, 2, 2], []),
        ([1, 5], [(0, 1)]),  # gaps do not matter
        ([1], []),
    ],
)
def test_ranking_to_pairs(ranks, pairs):
    assert sorted(ranking_to_pairs(ranks)) == pairs


def test_pairs_of_judgements():
    item = make_item("p", ["a", "b", "c"], category="science", key_points=["x"])
    item.split = "other"
    common = {
        "prompt": item.prompt,
        "rejected": "a",
        "split": "other",
        "annotator": "ada",
        "item_id": item.id,
        "rank_gap": 2,
    }
    assert pairs_of_judgements([said(item, [3, 1, 1])], [item]) == [
        Pair(chosen="b", **common),
        Pair(chosen="c", **common),
    ]
    two = make_item("p", ["a", "b"])
    strong = said(two, [2, 1], strength=3.0, confidence=0.5)
    (pair,) = pairs_of_judgements([strong], [item, two])
    assert (pair.rank_gap, pair.confidence) == (3.0, 0.5)  # said by the annotator


def test_item_ids_name_the_content():
    """A rerun with other samples must not take over judgements of the old ones."""
    assert make_item("a", ["x", "y"]).id == make_item("a", ["x", "y"], category="c").id
    others = [("a", ["x", "y"]), ("a", ["y", "x"]), ("a", ["xy"]), ("b", ["x", "y"])]
    assert len({make_item(prompt, answers).id for prompt, answers in others}) == 4


# --- odd pairs

PAIR = Pair(Prompt("Hi?"), "Hello.", "No.")


def test_odd_pairs_are_counted_with_an_example():
    pairs = [
        PAIR,
        replace(PAIR, chosen="No.", rejected="Hello."),
        Pair(Prompt("Same?"), "Yes. ", "Yes."),
        Pair(Prompt("Empty?"), "Hello.", " "),
        Pair(Prompt("Number?"), 3, "No."),
        Pair(Prompt("Number?"), "Hello.", {"no": "text"}),
        Pair(Prompt("Tie?"), "Hello.", "No.", tie=True),
    ]
    kept, found = usable_pairs(pairs)
    assert kept == [pairs[0], pairs[1], pairs[6]]
    told = {row["finding"]: (row["pairs"], row["what happens"], row["example"]) for row in found}
    assert told == {
        "judged both ways": (2, "kept", "Hi?"),
        "both answers equal": (1, "left out", "Same?"),
        "an empty answer": (1, "left out", "Empty?"),
        "not text": (2, "left out", "Number?"),
        "a tie": (1, "half a pair each way; not in the report card", "Tie?"),
    }
    assert usable_pairs([PAIR]) == ([PAIR], [])
    with pytest.raises(DataError, match="None of 2 pairs can be used: 2 both answers equal"):
        usable_pairs([replace(PAIR, chosen="No.")] * 2)
    with pytest.raises(DataError, match="None of 0 pairs can be used: there are none"):
        usable_pairs([])


def test_a_prompt_on_both_sides_is_refused():
    bye = replace(PAIR, prompt=Prompt("Bye?"))
    check_split([PAIR], [bye])
    with pytest.raises(DataError, match="1 prompts are both .* 'Hi\\?'"):
        check_split([PAIR, bye], [PAIR])
