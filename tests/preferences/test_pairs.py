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
    others = [("a", ["x", "y"]), ("a", ["x", "y", "y"]), ("a", ["xy"]), ("b", ["x", "y"])]
    assert len({make_item(prompt, answers).id for prompt, answers in others}) == 4


def test_no_order_of_the_answers_changes_an_item_id_but_seeds_stay_as_they_were():
    """Else annotators of the same pair in two orders would never meet."""
    answers = ["z", "é", "a\n", "z"]
    assert make_item("p", answers).id == make_item("p", sorted(answers)).id
    assert make_item("p", ["z", "é"]).seed != make_item("p", ["é", "z"]).seed
    assert make_item("p", ["x", "y"]).seed == "6d027690d3ae5a21"  # older runs drew by this


def test_a_judgement_in_another_order_of_the_answers():
    """The text that was best stays best, and what stood first stays first; equal texts, too."""
    before = said(make_item("p", ["a", "b", "c", "b"]), [3, 1, 2, 4], shown_order=[2, 3, 0, 1])
    after = before.in_order_of(["b", "c", "b", "a"])
    assert (after.answers, after.ranks) == (["b", "c", "b", "a"], [1, 2, 4, 3])
    assert after.shown_order == [1, 2, 3, 0]
    assert after.in_order_of(before.answers) == before
    skip = said(make_item("p", ["a", "b"]), [], kind="skip").in_order_of(["b", "a"])
    assert (skip.answers, skip.ranks) == (["b", "a"], [])
    with pytest.raises(ValueError, match="other answers"):
        before.in_order_of(["a", "b", "c", "c"])


# --- odd pairs

PAIR = Pair(Prompt("Hi?"), "Hello.", "No.")


def test_odd_pairs_are_counted_with_an_example():
    pairs = [
        PAIR,
        replace(PAIR, chosen="No.", rejected="Hello."),
        Pair(Prompt("Same?"), "Yes. ", "Yes."),
        Pair(Prompt("Empty?"), "Hello.", " "),
        Pair(Prompt("Tie?"), "Hello.", "No.", tie=True),
    ]
    kept, found = usable_pairs(pairs)
    assert kept == [pairs[0], pairs[1], pairs[4]]
    told = {row["finding"]: (row["pairs"], row["what happens"], row["example"]) for row in found}
    assert told == {
        "judged both ways": (2, "kept", "Hi?"),
        "both answers equal": (1, "left out", "Same?"),
        "an empty answer": (1, "left out", "Empty?"),
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
