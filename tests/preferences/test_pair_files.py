"""Pairs and items come back from their files as they were; pairs of others are read, too."""

import json
import math

import pytest
from judged import make_item

from rlhf_utils.data.rows import Prompt, conversation
from rlhf_utils.errors import DataError
from rlhf_utils.files import write_jsonl
from rlhf_utils.preferences.pair_files import read_items, read_pairs, write_items, write_pairs
from rlhf_utils.preferences.pairs import Item, Pair, usable_pairs


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
    """Columns that we know are kept, numbers and ties may be written, and "ood" is "other"."""
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"prompt": "p", "chosen": "a", "rejected": "c", "margin": "1.5", "confidence": None},
        {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 2, "subset": "chat", "x": 1},
        {"prompt": "p", "chosen": "a", "rejected": "b", "split": "ood", "tie": "false"},
        {"prompt": "p", "chosen": "a", "rejected": "b", "tie": "true", "confidence": 1},
    ]
    write_jsonl(path, rows)
    prompt = Prompt("p")
    assert read_pairs(str(path)) == [
        Pair(prompt, "a", "b"),
        Pair(prompt, "a", "c", rank_gap=1.5),
        Pair(prompt, "a", "b", rank_gap=2.0, subset="chat"),
        Pair(prompt, "a", "b", split="other"),
        Pair(prompt, "a", "b", tie=True, confidence=1.0),
    ]


@pytest.mark.parametrize(
    "odd", [{"margin": math.nan}, {"margin": "a lot"}, {"confidence": math.nan}, {"rejected": 3}]
)
def test_one_odd_number_among_many_pairs_is_told_and_left_out(tmp_path, capsys, odd):
    """Else a single NaN makes every reward NaN."""
    rows = [{"prompt": f"{n}?", "chosen": "a", "rejected": "b", "margin": 1.0} for n in range(120)]
    rows[5] |= odd
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pairs = read_pairs(tmp_path / "pairs.jsonl")
    assert len(pairs) == 119 and all(pair.rank_gap == 1.0 for pair in pairs)
    assert f"line 6: '{next(iter(odd))}'" in capsys.readouterr().out
    with pytest.raises(DataError, match="line 6"):
        read_pairs(tmp_path / "pairs.jsonl", strict=True)


def test_odd_answers_that_02_sampled_are_left_to_usable_pairs(tmp_path, capsys):
    """A model may say nothing, or the same twice: no fault of the file."""
    pairs = [
        Pair(Prompt("Hi?"), "", "No.", item_id="7"),
        Pair(Prompt("Hi?"), "Yes.", "Yes.\0", item_id="7"),
        Pair(Prompt("Hi?"), "Yes.", "No.", item_id="7"),
    ]
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    assert read_pairs(tmp_path / "pairs.jsonl") == pairs and capsys.readouterr().out == ""
    assert usable_pairs(pairs)[1][0]["finding"] == "an empty answer"


def test_a_prompt_that_is_a_conversation_comes_back(tmp_path):
    turns = [("system", "Be brief."), ("user", "Hi?"), ("assistant", "Hello."), ("user", "Why?")]
    prompt = Prompt(conversation([{"role": role, "content": text} for role, text in turns]))
    write_pairs(tmp_path / "pairs.jsonl", [Pair(prompt, "So.", "No.")])
    assert read_pairs(tmp_path / "pairs.jsonl", strict=True) == [Pair(prompt, "So.", "No.")]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"prompt": "p", "responses": ["a", "b"], "id": "7"}, "has no column 'category'"),
        ([1], "is no object"),
        (7, "is no object"),
    ],
)
def test_items_of_an_older_version_or_damaged_are_told(tmp_path, row, told):
    path = tmp_path / "items.jsonl"
    write_items(path, [make_item()])
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=f"items.jsonl, row 2 {told}: .* Run 02_preferences again"):
        read_items(path)
