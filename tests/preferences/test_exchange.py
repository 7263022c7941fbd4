"""Labels go out and come back: nothing is lost, nothing comes twice, and bad rows are listed."""

import gzip
import json

import pytest
from datasets import Dataset

from rlhf_utils.errors import DataError
from rlhf_utils.preferences.exchange import export_labels, import_labels, read_labels, to_rows
from rlhf_utils.preferences.pairs import judgements_to_pairs
from rlhf_utils.preferences.store import COLUMNS, KINDS, LabelStore


@pytest.fixture
def store(tmp_path):
    """Judgements with everything that is awkward: ties, a skip, a repeat, all tied, quotes, newlines, null bytes, other scripts."""
    store = LabelStore(tmp_path / "made.sqlite")
    texts = ['a "b"\n', "日本\u202e", "nul\0", "<b>x</b>"]
    store.add(
        "1",
        "ada",
        "Say “é”\n",
        texts,
        [2, 0, 1, 3],
        [2, 1, 2, 4],
        session="widget",
        confidence=0.67,
        flags=["flagged"],
        note="hm\n",
        shown_at=12.5,
    )
    store.add(
        "1", "ada", "Say “é”\n", texts, [0, 1, 2, 3], [1, 2, 3, 4], kind="repeat", shown_at=13.0
    )
    store.add("2", "ben", "p", ["x", "y"], [1, 0], [2, 1], margin=3.0, shown_at=14.0)
    store.add(
        "3", "ben", "q", ["x", "y", "z"], [0, 1, 2], [1, 1, 1], flags=["both_bad"], shown_at=15.0
    )
    store.add("4", "ben", "r", ["x", "y", "z"], [0, 1, 2], [], kind="skip", shown_at=16.0)
    return store


def content(rows: list[dict]) -> list[dict]:
    return [{column: row[column] for column in COLUMNS} for row in rows]


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
    """Every column of every judgement, its times and uid too; pairs hold no skip and no ranking in which all are tied, and count them out."""
    made, path, back = (
        store.rows(kinds=KINDS),
        tmp_path / f"labels{suffix}",
        LabelStore(tmp_path / "back.sqlite"),
    )
    assert export_labels(made, path, format) == len(made) - lost
    assert import_labels(path, back) == (len(made) - lost, 0, [])
    kept = [row for row in made if not lost or judgements_to_pairs([row])]
    assert content(back.rows(kinds=KINDS)) == content(kept)
    assert import_labels(path, back) == (
        0,
        len(made) - lost,
        [],
    )  # a second import stores nothing twice
    assert content(back.rows(kinds=KINDS)) == content(kept)


def test_pairs_are_what_trl_reads(store, tmp_path):
    path = tmp_path / "pairs.jsonl"
    export_labels(store.rows(), path, "pairs")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["chosen"], row["rejected"]) for row in rows if row["prompt"] == "p"] == [
        ("y", "x")
    ] and [row["margin"] for row in rows if row["prompt"] == "p"] == [3.0]
    assert len(rows) == 5 + 1  # four answers with one tie give five
    assert Dataset.from_list(rows).column_names[:3] == ["prompt", "chosen", "rejected"]


def test_a_pair_that_its_judgement_does_not_hold_is_bad(store, tmp_path):
    """Edited by hand, it is neither dropped in silence nor taken for what it was; equal answers that somebody ranked apart come back."""
    store.add("5", "ada", "s", ["x", "x"], [0, 1], [1, 2])
    path, pairs = tmp_path / "pairs.jsonl", to_rows([store.rows()[i] for i in (1, -1)], "pairs")
    path.write_text(
        "\n".join(
            json.dumps(pair)
            for pair in [
                pairs[0] | {"chosen": pairs[0]["rejected"], "rejected": pairs[0]["chosen"]},
                pairs[1],
            ]
        )
    )
    rows, bad = read_labels(path)
    assert (
        [(row["responses"], row["ranks"]) for row in rows] == [(["x", "x"], [1, 2])]
        and [line for line, _ in bad] == [1]
        and "no such pair" in bad[0][1]
    )


@pytest.mark.parametrize("format", ["rankings", "pairs"])
def test_a_dataset_goes_round_too(store, tmp_path, format):
    made, back = (
        [row for row in store.rows() if judgements_to_pairs([row])],
        LabelStore(tmp_path / "back.sqlite"),
    )
    assert import_labels(Dataset.from_list(to_rows(made, format)), back) == (len(made), 0, [])
    assert content(back.rows()) == content(made)


def test_pairs_of_others(tmp_path):
    """Plain or conversational, with a margin or without; identical lines are two judgements, in a second import too."""
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
    found = [(row["prompt"], row["responses"], row["ranks"], row["margin"]) for row in store.rows()]
    assert found == [
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
    assert (new, old) == (1, 0) and [line for line, _ in bad] == [
        2,
        3,
        5,
        6,
        7,
        8,
        9,
        10,
        11,
        12,
        13,
        14,
        15,
        16,
    ]
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
    assert import_labels(path, store)[:2] == (
        1,
        1,
    )  # the good row moved to another line and is known all the same


def test_label_studio_lists_and_buckets_and_argilla_with_two_users(tmp_path):
    path = tmp_path / "tasks.json"
    data = {
        "prompt": "p",
        "responses": [{"id": "x", "body": "a"}, {"id": "y", "body": "b"}, {"id": "z", "body": "c"}],
    }
    ranker = lambda value: {
        "result": [{"type": "ranker", "value": {"ranker": value}}],
        "completed_by": 7,
    }  # noqa: E731
    path.write_text(
        json.dumps(
            [
                {
                    "data": data,
                    "annotations": [
                        ranker({"rank": ["z", "x", "y"]}),
                        ranker({"1": ["y", "x"], "3": ["z"]}),
                    ],
                }
            ]
        )
    )
    rows, bad = read_labels(path)
    assert (
        [row["ranks"] for row in rows] == [[2, 3, 1], [1, 1, 3]]
        and bad == []
        and {row["annotator"] for row in rows} == {"7"}
        and len({row["uid"] for row in rows}) == 2
    )
    value = lambda *ranks: [
        {"value": f"response-{n}", "rank": rank} for n, rank in enumerate(ranks, 1)
    ]  # noqa: E731
    record = {
        "fields": {"prompt": "p", "response-1": "a", "response-2": "b"},
        "responses": {
            "ranking": [
                {"value": value(1, 2), "user_id": "u1"},
                {"value": value(2, 1), "user_id": "u2"},
            ]
        },
    }
    path.write_text(json.dumps([record]))
    rows, bad = read_labels(path)
    assert [(row["annotator"], row["ranks"]) for row in rows] == [
        ("u1", [1, 2]),
        ("u2", [2, 1]),
    ] and bad == []


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
        export_labels(store.rows(), tmp_path / name, format)


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
    export_labels(store.rows(), tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress((tmp_path / "x.jsonl").read_bytes()))
    assert read_labels(tmp_path / "x.jsonl.gz") == read_labels(tmp_path / "x.jsonl")
