"""Pairs and items come back from their files as they were; pairs of others are read, too."""

import json

import pytest
from judged import make_item

from rlhf_utils.data.rows import Prompt
from rlhf_utils.errors import DataError
from rlhf_utils.files import write_jsonl
from rlhf_utils.preferences.pair_files import read_items, read_pairs, write_items, write_pairs
from rlhf_utils.preferences.pairs import Item, Pair


def test_pairs_and_items_come_back_as_they_were(tmp_path):
    full = Prompt("Hi?\n", "greeting", ["hello|hi"])
    pairs = [
        Pair(Prompt("Hi?"), "Hello.", "No."),
        Pair(full, "a", "b", "other", "ada", "7", 2.0, 0.5, tie=True, subset="chat"),
    ]
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    assert read_pairs(tmp_path / "pairs.jsonl") == pairs
    first = json.loads((tmp_path / "pairs.jsonl").read_text().split("\n")[0])
    assert list(first)[:3] == ["prompt", "chosen", "rejected"] and "margin" in first  # TRL's
    items = [
        Item(Prompt("Hi?", "greeting", ["hello"], {"source": "me"}), ["a", "b"], "other"),
        make_item(),
    ]
    write_items(tmp_path / "items.jsonl", items)
    assert read_items(tmp_path / "items.jsonl") == items


def test_pairs_of_others(tmp_path):
    """Columns that we know are kept, what is no number is no rank gap, and "ood" is "other"."""
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"prompt": "p", "chosen": "a", "rejected": 3, "margin": "much", "confidence": None},
        {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 2, "subset": "chat", "x": 1},
        {"prompt": "p", "chosen": "a", "rejected": "b", "split": "ood"},
    ]
    write_jsonl(path, rows)
    prompt = Prompt("p")
    assert read_pairs(str(path)) == [
        Pair(prompt, "a", "b"),
        Pair(prompt, "a", 3),
        Pair(prompt, "a", "b", rank_gap=2.0, subset="chat"),
        Pair(prompt, "a", "b", split="other"),
    ]


def test_items_of_an_older_version_are_told(tmp_path):
    path = tmp_path / "items.jsonl"
    write_jsonl(path, [{"prompt": "p", "responses": ["a", "b"], "id": "7"}])
    with pytest.raises(DataError, match="items.jsonl was written by an older version .* 02_pref"):
        read_items(path)
