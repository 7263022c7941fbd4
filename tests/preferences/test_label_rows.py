"""Types are checked before anything is stored, and what is wrong is told in words."""

import json

import pytest

from rlhf_utils.errors import DataError
from rlhf_utils.preferences.exchange import import_labels, read_labels
from rlhf_utils.preferences.store import LabelStore

RANKING = {"prompt": "p", "responses": ["a", "b"], "ranks": [1, 2]}


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("confidence", "high", "'confidence' is 'high', but must be a number from 0 to 1"),
        ("confidence", 85, "'confidence' is '85', but must be a number from 0 to 1"),
        ("confidence", True, "must be a number from 0 to 1"),
        ("confidence", float("nan"), "must be a number from 0 to 1"),
        ("margin", "large", "'margin' is 'large', but must be a finite number"),
        ("margin", 10**400, "must be a finite number"),
        ("shown_at", "last week", "shown_at='last week' must be seconds since 1970"),
        ("submitted_at", 1714557600000, "must be seconds since 1970"),
        ("submitted_at", [1], "must be seconds since 1970"),
        ("ranks", [1, 1.2], "must be whole numbers"),
        ("ranks", [True, 2], "must be whole numbers"),
        ("ranks", ["1", "2"], "must be whole numbers"),
        ("ranks", [1, 10**30], "must be 2 whole numbers from 1"),
        ("ranks", {"a": 1}, "must be a list of whole numbers"),
        ("ranks", [1, 2, 3], "must be 2 whole numbers"),
        ("shown_order", [5, 6], "shown_order"),
        ("flags", "spam", "flags='spam' must be a list of texts"),
        ("flags", [1], "flags=1 must be a text"),
        ("note", 5, "note=5 must be a text"),
        ("kind", "faq", "kind='faq' must be one of ranking, repeat, skip"),
        ("session", {"id": 1}, "must be a text"),
        ("annotator", ["ann"], "must be a text"),
        ("annotator", "ann\0", "holds the character NUL"),
        ("annotator", "\x1b[31mann", "without control characters"),
        ("annotator", True, "must be a text"),
        ("note", "half \ud83d", "half a character"),
        ("responses", ["a", "\udc00"], "half a character"),
        ("responses", "ab", "must be a list of texts"),
        ("responses", ["a", None], "a response=None must be a text"),
        ("responses", ["a", [{"role": "user", "content": "b"}]], "one message of the assistant"),
        ("prompt", 7, "prompt=7 must be a text"),
        ("prompt", [{"role": "poet", "content": "p"}], "the role is 'poet'"),
        ("prompt", "\u2063Poet: p", "the invisible character"),
    ],
)
def test_types_are_checked_before_anything_is_stored(tmp_path, column, value, told):
    path, store = tmp_path / "labels.jsonl", LabelStore(tmp_path / "labels.sqlite")
    rows = [RANKING, RANKING | {column: value}]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match="nothing was stored") as error:
        import_labels(path, store)
    assert "line 2: " in str(error.value) and told in str(error.value)
    assert store.progress() == []


def test_what_can_be_made_out_is_taken(tmp_path):
    """Numbers as names, whole floats as ranks, times in ISO 8601."""
    path = tmp_path / "labels.jsonl"
    about = {"annotator": 7, "ranks": [2.0, 1.0], "confidence": 1, "margin": "2"}
    times = {"shown_at": "2026-05-01T10:00:00Z", "submitted_at": "2026-05-01T12:00:30+02:00"}
    path.write_text(json.dumps(RANKING | about | times))
    (found,), bad = read_labels(path)
    assert bad == [] and (found.annotator, found.ranks) == ("7", [2, 1])
    assert (found.confidence, found.strength) == (1.0, 2.0)
    assert (found.shown_at, found.submitted_at) == (1777629600.0, 1777629630.0)


HOSTILE = [
    {"fields": None, "responses": 3},
    {"fields": {"prompt": "p"}, "responses": {"ranking": 5}},
    {"fields": {"prompt": "p"}, "responses": [[1]]},
    {"data": None, "annotations": [{"result": [{"type": "ranker"}]}]},
    {"data": {"prompt": "p"}, "annotations": [3]},
    {"annotations": {"a": 1}},
    {"conversation_a": 3, "conversation_b": [], "winner": "model_a"},
    {"conversation_a": [], "conversation_b": [], "winner": ["model_a"]},
    {"winner_model_a": 1, "prompt": "[", "response_a": "x", "response_b": None},
    {"chosen": 3, "rejected": None},
    {"chosen": [{}], "rejected": [3], "prompt": []},
    {"ranking.responses": 3},
    {"ranking.responses": [["a"]], "ranking.responses.users": ["u", "v"]},
    {"winner_model_a": 1, "prompt": ["p", "q"], "response_a": ["a"], "response_b": ["b"]},
    {"x": {"user_id": 3, "value": 4, "status": 5}},
    {"ranks": [], "prompt": None, "responses": None},
    {"rank": [{"ranker": 3}]},
    {},
    None,
]


@pytest.mark.parametrize("record", HOSTILE)
def test_a_broken_record_is_told_without_python_internals(tmp_path, record):
    path = tmp_path / "x.json"
    path.write_text(json.dumps([record]))
    found, ((line, reason),) = read_labels(path)
    assert found == [] and line == 1 and "zip" not in reason
    for internal in ("NoneType", "object is not", "subscript", "attribute", "iterable", "unpack"):
        assert internal not in reason, reason


def test_names_in_a_file_cannot_steer_the_terminal(tmp_path):
    task = {
        "data": {"prompt": "p", "x": [{"id": "a", "body": "A"}, {"id": "b", "body": "B"}]},
        "annotations": [
            {"result": [{"type": "ranker", "value": {"ranker": {"\x1b[2J": ["a"], "y": ["b"]}}}]}
        ],
    }
    path = tmp_path / "x.json"
    path.write_text(json.dumps([task]))
    ((_, reason),) = read_labels(path)[1]
    assert "have no order" in reason and "\x1b" not in reason
