"""Labels go out and come back: nothing is lost, nothing comes twice, and bad rows are listed."""

import gzip
import json
from dataclasses import replace

import pytest
from judged import make_item, said

from rlhf_utils.errors import DataError
from rlhf_utils.files import read_file
from rlhf_utils.preferences.exchange import export_labels, import_labels, read_labels
from rlhf_utils.preferences.pairs import KINDS, Judgement, ranking_to_pairs
from rlhf_utils.preferences.store import LabelStore


@pytest.fixture
def store(tmp_path):
    """Judgements with everything that is awkward.

    Ties, a skip, a repeat, all tied, quotes, newlines, null bytes, other scripts.
    """
    store = LabelStore(tmp_path / "made.sqlite")
    four = make_item("Say “é”\n", ['a "b"\n', "日本\u202e", "nul\0", "<b>x</b>"])
    three = make_item("q", ["x", "y", "z"])
    first = said(
        four,
        [2, 1, 2, 4],
        shown_order=[2, 0, 1, 3],
        session="widget",
        confidence=0.67,
        flags=["flagged"],
        note="hm\n",
    )
    judgements = [
        first,
        said(four, [1, 2, 3, 4], kind="repeat"),
        said(make_item("p", ["x", "y"]), [2, 1], "ben", shown_order=[1, 0], strength=3.0),
        said(three, [1, 1, 1], "ben", flags=["both_bad"]),
        said(three, [], "ben", kind="skip"),
    ]
    for number, judgement in enumerate(judgements):
        store.add(replace(judgement, item_id=str(number), shown_at=12.5 + number))
    return store


def content(judgements: list[Judgement]) -> list[Judgement]:
    """Without their numbers in the store."""
    return [replace(judgement, id=None) for judgement in judgements]


@pytest.mark.parametrize(
    ("format", "suffix", "lost"),
    [
        ("rankings", ".jsonl", 0),
        ("rankings", ".parquet", 0),
        ("argilla", ".json", 0),
        ("label_studio", ".json", 0),
        ("pairs", ".jsonl", 2),
        ("pairs", ".parquet", 2),
    ],
)
def test_round_trip(store, tmp_path, format, suffix, lost):
    """Every field of every judgement comes back, its times and uid too.

    Pairs hold no skip and no ranking in which all are tied, and do not count them.
    """
    made, path = store.judgements(kinds=KINDS), tmp_path / f"labels{suffix}"
    back = LabelStore(tmp_path / "back.sqlite")
    assert export_labels(made, path, format) == len(made) - lost
    assert import_labels(path, back) == (len(made) - lost, 0, [])
    kept = [judgement for judgement in made if not lost or ranking_to_pairs(judgement.ranks)]
    assert content(back.judgements(kinds=KINDS)) == content(kept)
    # a second import stores nothing twice
    assert import_labels(path, back) == (0, len(made) - lost, [])
    assert content(back.judgements(kinds=KINDS)) == content(kept)


def test_pairs_are_what_trl_reads(store, tmp_path):
    path = tmp_path / "pairs.jsonl"
    export_labels(store.judgements(), path, "pairs")
    rows = read_file(path)
    (row,) = [row for row in rows if row["prompt"] == "p"]
    assert (row["chosen"], row["rejected"], row["margin"]) == ("y", "x", 3.0)
    assert len(rows) == 5 + 1  # four answers with one tie give five
    assert list(row)[:3] == ["prompt", "chosen", "rejected"]


def test_a_pair_that_its_judgement_does_not_hold_is_bad(store, tmp_path):
    """Edited by hand, it is neither dropped in silence nor taken for what it was.

    Equal answers that somebody ranked apart come back.
    """
    store.add(said(make_item("s", ["x", "x"]), [1, 2]))
    judgements = store.judgements()
    path = tmp_path / "pairs.jsonl"
    export_labels([judgements[1], judgements[-1]], path, "pairs")
    pairs = read_file(path)
    turned = pairs[0] | {"chosen": pairs[0]["rejected"], "rejected": pairs[0]["chosen"]}
    path.write_text("\n".join(json.dumps(pair) for pair in (turned, pairs[1])))
    found, bad = read_labels(path)
    assert [(judgement.answers, judgement.ranks) for judgement in found] == [(["x", "x"], [1, 2])]
    assert [line for line, _ in bad] == [1] and "no such pair" in bad[0][1]


OLD_RANKING = {  # as the version before wrote them, with its uid
    "item_id": "7",
    "annotator": "ada",
    "session": "widget",
    "prompt": "p",
    "responses": ["a", "b"],
    "shown_order": [1, 0],
    "ranks": [2, 1],
    "confidence": 0.5,
    "flags": [],
    "note": "",
    "shown_at": 1.0,
    "submitted_at": 2.0,
    "schema_version": 2,
    "kind": "ranking",
    "margin": 3.0,
    "uid": "u",
}
OLD_PAIR = {"prompt": "p", "chosen": "b", "rejected": "a", "judgement": json.dumps(OLD_RANKING)}


@pytest.mark.parametrize("row", [OLD_RANKING, OLD_PAIR])
def test_labels_exported_before_are_read(tmp_path, row):
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps(row))
    (found,), bad = read_labels(path)
    assert bad == [] and (found.uid, found.answers, found.ranks) == ("u", ["a", "b"], [2, 1])
    assert (found.strength, found.submitted_at) == (3.0, 2.0)


def test_pairs_of_others(tmp_path):
    """Plain or conversational, with a margin or without.

    Identical lines are two judgements, in a second import too.
    """
    path, store = tmp_path / "pairs.jsonl", LabelStore(tmp_path / "labels.sqlite")
    turn = lambda role, text: [{"role": role, "content": text}]  # noqa: E731
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 2},
        {
            "prompt": turn("user", "q"),
            "chosen": turn("assistant", "c"),
            "rejected": turn("assistant", "d"),
        },
        {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 2},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert import_labels(path, store) == (3, 0, []) and import_labels(path, store) == (0, 3, [])
    found = store.judgements()
    assert [(each.prompt, each.answers, each.ranks, each.strength) for each in found] == [
        ("p", ["a", "b"], [1, 2], 2.0),
        ("q", ["c", "d"], [1, 2], None),
        ("p", ["a", "b"], [1, 2], 2.0),
    ]


def test_bad_rows_are_listed_with_line_and_reason_and_the_good_ones_stored(tmp_path):
    path, store = tmp_path / "labels.jsonl", LabelStore(tmp_path / "labels.sqlite")
    good = {"prompt": "p", "responses": ["a", "b"], "ranks": [1, 2]}
    lines = [
        json.dumps(good),
        '{"prompt": "p", "resp',
        json.dumps({"prompt": "p", "responses": ["a", "b"]}),
        "",
        json.dumps(good | {"ranks": [0, 1]}),
        json.dumps(good | {"ranks": [1]}),
        json.dumps(good | {"responses": ["a", 7]}),
        json.dumps(good | {"prompt": " "}),
        "[1]",
        '"text"',
        json.dumps({"prompt": "p", "chosen": "a", "rejected": "a"}),
        json.dumps({"prompt": "p", "chosen": "a"}),
        json.dumps(good | {"prompt": "\ud800"}),
        json.dumps(good | {"responses": ["only one"], "ranks": [1]}),
        json.dumps(good | {"kind": "guess"}),
        json.dumps(good | {"shown_order": [0, 0]}),
    ]
    path.write_text("\n".join(lines))
    new, old, bad = import_labels(path, store)
    assert (new, old) == (1, 0)
    assert [line for line, _ in bad] == [2, 3, *range(5, 17)]
    reasons = dict(bad)
    for line, told in (
        (2, "not JSON"),
        (3, "'ranks' is missing"),
        (5, "ranks=[0, 1]"),
        (6, "must be 2 whole numbers"),
        (7, "must be texts"),
        (8, "prompt=' '"),
        (9, "no object"),
        (11, "same text"),
        (12, "'rejected' is missing"),
        (13, "surrogates"),
        (14, "at least 2"),
        (15, "kind='guess'"),
        (16, "shown_order"),
    ):
        assert told in reasons[line], (line, reasons[line])
    mended = "\n".join([*lines[1:2], lines[0], json.dumps(good | {"prompt": "new"})])
    path.write_text(mended)
    # the good row moved to another line and is known all the same
    assert import_labels(path, store)[:2] == (1, 1)


def test_label_studio_lists_and_buckets(tmp_path):
    def annotation(ranker):
        result = [{"type": "ranker", "value": {"ranker": ranker}}]
        return {"result": result, "completed_by": 7}

    answers = [{"id": name, "body": text} for name, text in zip("xyz", "abc")]
    task = {
        "data": {"prompt": "p", "responses": answers},
        "annotations": [
            annotation({"rank": ["z", "x", "y"]}),
            annotation({"1": ["y", "x"], "3": ["z"]}),
        ],
    }
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps([task]))
    found, bad = read_labels(path)
    assert bad == [] and [judgement.ranks for judgement in found] == [[2, 3, 1], [1, 1, 3]]
    assert {judgement.annotator for judgement in found} == {"7"}
    assert len({judgement.uid for judgement in found}) == 2


def test_argilla_with_two_users(tmp_path):
    def response(user, *ranks):
        value = [{"value": f"response-{n}", "rank": rank} for n, rank in enumerate(ranks, 1)]
        return {"value": value, "user_id": user}

    record = {
        "fields": {"prompt": "p", "response-1": "a", "response-2": "b"},
        "responses": {"ranking": [response("u1", 1, 2), response(7, 2, 1)]},
    }
    path = tmp_path / "records.json"
    path.write_text(json.dumps([record]))
    found, bad = read_labels(path)
    assert bad == []
    assert [(each.annotator, each.ranks) for each in found] == [("u1", [1, 2]), ("7", [2, 1])]


@pytest.mark.parametrize(
    ("name", "format", "told"),
    [
        ("x.jsonl", "csv", "format='csv'"),
        ("x.jsonl", "argilla", "ending in .json"),
        ("x.json", "pairs", "ending in .jsonl or .parquet"),
    ],
)
def test_formats_that_cannot_be(store, tmp_path, name, format, told):
    with pytest.raises(DataError, match=told):
        export_labels(store.judgements(), tmp_path / name, format)


def test_a_file_that_is_no_labels_at_all(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="x.jsonl is not UTF-8 text"):
        read_labels(path)
    path.write_text("[1, 2")
    with pytest.raises(DataError, match="line 1"):
        read_labels(path)
    with pytest.raises(DataError, match="gone.jsonl"):
        read_labels(tmp_path / "gone.jsonl")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match="x.parquet cannot be read as parquet"):
        read_labels(tmp_path / "x.parquet")


def test_packed_labels(store, tmp_path):
    export_labels(store.judgements(), tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress((tmp_path / "x.jsonl").read_bytes()))
    assert read_labels(tmp_path / "x.jsonl.gz") == read_labels(tmp_path / "x.jsonl")
