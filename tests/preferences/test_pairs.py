"""Rankings become the right pairs, and what is judged is named by its content."""

import pytest

from rlhf_utils.preferences.pairs import item_id, judgements_to_pairs, ranking_to_pairs


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


def test_judgements_to_pairs():
    row = {
        "item_id": "7",
        "annotator": "ada",
        "prompt": "p",
        "responses": ["a", "b", "c"],
        "ranks": [3, 1, 1],
    }
    common = {
        "prompt": "p",
        "rejected": "a",
        "item_id": "7",
        "annotator": "ada",
        "margin": 2,
        "confidence": None,
    }
    assert judgements_to_pairs([row]) == [common | {"chosen": "b"}, common | {"chosen": "c"}]
    (strong,) = judgements_to_pairs(
        [row | {"responses": ["a", "b"], "ranks": [2, 1], "margin": 3.0, "confidence": 0.5}]
    )
    assert (strong["margin"], strong["confidence"]) == (3.0, 0.5)  # said by the annotator


def test_item_ids_name_the_content():
    """A rerun with other samples must not take over judgements of the old ones."""
    assert item_id("a", ["x", "y"]) == item_id("a", ["x", "y"])
    assert (
        len(
            {
                item_id("a", ["x", "y"]),
                item_id("a", ["y", "x"]),
                item_id("a", ["xy"]),
                item_id("b", ["x", "y"]),
            }
        )
        == 4
    )
