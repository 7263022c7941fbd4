"""Labels go out and come back: nothing is lost, nothing comes twice, and bad rows are listed."""

import gzip
import json
import math
from dataclasses import replace

import pytest
from judged import make_item, said

from rlhf_utils.data.rows import load_pairs_rows
from rlhf_utils.errors import DataError
from rlhf_utils.files import read_file
from rlhf_utils.preferences.agreement import annotator_agreement
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
        store.add(replace(judgement, shown_at=12.5 + number))
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


def test_bad_rows_are_listed_with_line_and_reason_and_the_good_ones_stored_if_asked(tmp_path):
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
    with pytest.raises(DataError, match="labels.jsonl has 14 rows .* nothing was stored") as told:
        import_labels(path, store)
    assert "line 2: not JSON" in str(told.value) and "and 4 more" in str(told.value)
    assert store.judgements() == []
    new, old, bad = import_labels(path, store, leave_out_bad=True)
    assert (new, old) == (1, 0)
    assert [line for line, _ in bad] == [2, 3, *range(5, 17)]
    reasons = dict(bad)
    for line, told in (
        (2, "not JSON"),
        (3, "'ranks' is missing"),
        (5, "ranks=[0, 1]"),
        (6, "must be 2 whole numbers"),
        (7, "must be a text"),
        (8, "prompt=' '"),
        (9, "no object"),
        (11, "are equal"),
        (12, "'rejected' is missing"),
        (13, "half a character"),
        (14, "at least 2"),
        (15, "kind='guess'"),
        (16, "shown_order"),
    ):
        assert told in reasons[line], (line, reasons[line])
    mended = "\n".join([*lines[1:2], lines[0], json.dumps(good | {"prompt": "new"})])
    path.write_text(mended)
    # the good row moved to another line and is known all the same
    assert import_labels(path, store, leave_out_bad=True)[:2] == (1, 1)


RANKING = {"prompt": "p", "responses": ["a", "b"], "ranks": [1, 2]}


def test_an_import_is_all_or_nothing_in_the_store_too(tmp_path):
    """The last row has the uid of a judgement that the store knows with another ranking."""
    path, store = tmp_path / "labels.jsonl", LabelStore(tmp_path / "labels.sqlite")
    store.add(said(make_item("p", ["a", "b"]), [2, 1], uid="mine"))
    others = [said(make_item(f"q{n}", ["a", "b"]), [1, 2], uid=f"u{n}") for n in range(3)]
    changed = said(make_item("p", ["b", "a"]), [2, 1], uid="mine")  # a is the better one now
    export_labels([*others, changed], path)
    with pytest.raises(DataError, match="uid='mine' .* nothing was stored"):
        import_labels(path, store)
    assert [judgement.uid for judgement in store.judgements()] == ["mine"]
    # told in another order of the answers it is the same judgement
    export_labels([*others, said(make_item("p", ["b", "a"]), [1, 2], uid="mine")], path)
    assert import_labels(path, store) == (3, 1, [])


def test_one_uid_for_two_rankings_of_a_file_is_a_bad_row(tmp_path):
    path = tmp_path / "labels.jsonl"
    judgements = [said(make_item(name, ["a", "b"]), [1, 2], uid="same") for name in "pq"]
    export_labels(judgements, path)
    found, bad = read_labels(path)
    assert len(found) == 1 and bad == [(2, "uid='same' is that of another row, too")]


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("x.jsonl", "rankings"),
        ("x.jsonl", "pairs"),
        ("x.json", "argilla"),
        ("x.json", "label_studio"),
    ],
)
def test_judgements_that_never_had_a_uid(tmp_path, name, format):
    """They do not come from a store."""
    made = [said(make_item(prompt), [1, 2]) for prompt in "pq"]
    export_labels(made, tmp_path / name, format)
    found, bad = read_labels(tmp_path / name)
    assert bad == [] and [replace(each, uid=None) for each in found] == made
    assert len({each.uid for each in found}) == 2 and all(each.uid for each in found)


def test_a_uid_of_other_tools_merges_nothing(tmp_path):
    path, store = tmp_path / "labels.jsonl", LabelStore(tmp_path / "labels.sqlite")
    rows = [RANKING | {"prompt": f"p{n}", "uid": "customer-17"} for n in range(5)]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert import_labels(path, store) == (5, 0, []) and import_labels(path, store) == (0, 5, [])


def test_thousands_of_pairs_are_one_transaction(tmp_path, monkeypatch):
    """A connection for each took minutes: FULL waits for the disk every time."""
    path, store = tmp_path / "pairs.jsonl", LabelStore(tmp_path / "labels.sqlite")
    rows = [{"prompt": f"p{n}", "chosen": "a", "rejected": "b"} for n in range(3000)]
    path.write_text("\n".join(map(json.dumps, rows)))
    connections, connect = [], store._connect
    monkeypatch.setattr(store, "_connect", lambda: connections.append(1) or connect())
    assert import_labels(path, store) == (3000, 0, [])
    assert len(connections) == 1


def test_annotators_who_disagree_meet(tmp_path):
    """Ten pairs, the better one first, as such files have it; seven times both say the same."""
    path, rows = tmp_path / "pairs.jsonl", []
    for n in range(10):
        for who, worker in (("ann", 0), ("bob", n >= 7)):
            texts = [f"one {n}", f"two {n}"][:: -1 if worker else 1]
            rows.append({"prompt": f"p{n}", "chosen": texts[0], "rejected": texts[1]})
            rows[-1]["worker"] = who
    path.write_text("\n".join(map(json.dumps, rows)))
    found, bad = read_labels(path)
    result = annotator_agreement(found)
    assert bad == [] and result["items_shared"] == 10
    assert result["pairwise"] == pytest.approx(0.7)
    assert result["ceiling"] == pytest.approx((1 + math.sqrt(0.4)) / 2)
    ordered = [found.in_order_of(sorted(found.answers)) for found in found]
    assert annotator_agreement(ordered)["alpha"] == pytest.approx(result["alpha"])
    assert result["alpha"] == pytest.approx(1 - 0.6 * 39 / 40), "of 40 ranks, half of them 1"


@pytest.mark.parametrize("name", ["annotator", "worker", "user_id", "Worker ID", "PROLIFIC_PID"])
def test_whoever_judged_a_pair_is_named(tmp_path, name):
    path = tmp_path / "pairs.jsonl"
    row = {"prompt": "p", "chosen": "a", "rejected": "b", name: 12, "judgement": "a is better"}
    path.write_text(json.dumps(row))
    (found,), bad = read_labels(path)
    assert bad == [] and (found.annotator, found.ranks) == ("12", [1, 2])


def test_pairs_in_a_table(tmp_path):
    path = tmp_path / "pairs.csv"
    lines = ["prompt,chosen,rejected,worker,margin,tie", "p,a,b,ann,2,False", "q,a,b,bob,,True"]
    path.write_text("\n".join(lines) + "\n")
    (first, second), bad = read_labels(path)
    assert bad == [] and (first.annotator, first.ranks, first.strength) == ("ann", [1, 2], 2.0)
    assert (second.annotator, second.ranks, second.strength) == ("bob", [1, 1], None)


def test_rankings_in_a_table(tmp_path):
    path = tmp_path / "rankings.csv"
    lines = ["prompt;responses;ranks;confidence;shown_at", 'p;"[""a"", ""b""]";[2, 1];;12.5']
    path.write_text("\n".join(lines) + "\n")
    (found,), bad = read_labels(path)
    assert bad == [] and (found.answers, found.ranks) == (["a", "b"], [2, 1])
    assert (found.confidence, found.shown_at) == (None, 12.5)


def test_a_pair_that_is_a_tie(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b", "tie": True}))
    assert [found.ranks for found in read_labels(path)[0]] == [[1, 1]]


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
    with pytest.raises(DataError, match="not JSON"):
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


@pytest.mark.parametrize("shuffled", [[1, 0, 2], [2, 1, 0], [1, 2, 0]])
def test_answers_of_a_ranking_file_may_come_in_any_order(tmp_path, shuffled):
    """Bob's file has them otherwise than Ann's; he swaps the last two in three of ten items."""
    path, rows, plain = tmp_path / "rankings.jsonl", [], []
    for n in range(10):
        texts, ranks = [f"oak {n}", f"elm {n}", f"fir {n}"], [1, 3, 2] if n < 3 else [1, 2, 3]
        rows.append({"annotator": "ann", "responses": texts, "ranks": [1, 2, 3]})
        moved = {"responses": [texts[i] for i in shuffled], "ranks": [ranks[i] for i in shuffled]}
        rows.append({"annotator": "bob"} | moved)
        plain += [said(make_item(f"p{n}", texts), [1, 2, 3], "ann")]
        plain += [said(make_item(f"p{n}", texts), ranks, "bob")]
    rows = [{"prompt": f"p{n // 2}"} | row for n, row in enumerate(rows)]
    path.write_text("\n".join(map(json.dumps, rows)))
    found, bad = read_labels(path)
    result = annotator_agreement(found)
    assert bad == [] and (result["items_shared"], result["pairs_compared"]) == (10, 30)
    assert result["pairwise"] == pytest.approx(27 / 30)
    assert result["alpha"] == pytest.approx(annotator_agreement(plain)["alpha"])


def message(role: str, content) -> dict:
    return {"role": role, "content": content}


ASKED = [message("system", "Be brief."), message("user", "A bird?"), message("assistant", "Wren.")]
ASKED.append(message("user", "A fish?"))
SIDES = {"chosen": [message("assistant", "Pike.")], "rejected": [message("assistant", "Wren.")]}
FORMS = [
    SIDES | {"prompt": ASKED},
    {name: [*ASKED, *side] for name, side in SIDES.items()},
    {
        "conversations": [{"from": "human", "value": "A fish?"}],
        "chosen": {"from": "gpt", "value": "Pike."},
        "rejected": {"from": "gpt", "value": "Wren."},
    },
    {"chosen": "\n\nHuman: Hi\n\nAssistant: Ho.", "rejected": "\n\nHuman: Hi\n\nAssistant: No."},
    {"system": "Be brief.", "question": "A fish?", "chosen": "Pike.", "rejected": "Wren."},
    {"instruction": "Name it.", "input": "It swims.", "chosen": "Pike.", "rejected": "Wren."},
    {"prompt": message("user", [{"type": "text", "text": "A fish?"}]), "margin": 2} | SIDES,
]


@pytest.mark.parametrize("row", FORMS, ids=lambda row: " ".join(row))
def test_labels_take_each_form_of_pairs_that_03_takes(tmp_path, row):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(row))
    (read,), ((found,), bad) = load_pairs_rows(str(path)), read_labels(path)
    assert bad == [] and found.ranks == [1, 2] and found.strength == row.get("margin")
    assert (found.prompt, *found.answers) == (read["prompt"], read["chosen"], read["rejected"])
