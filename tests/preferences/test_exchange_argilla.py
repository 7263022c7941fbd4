"""Records of Argilla 1 and 2 as they are exported, and ours as Argilla 2 reads them."""

import json
import uuid
from dataclasses import replace

import pytest
from judged import make_item, said

from rlhf_utils.data.rows import messages_of
from rlhf_utils.preferences.exchange import export_labels, read_labels

FIELDS = {"prompt": "Why?", "response-1": "Rain.", "response-2": "Sun."}
RANKED = [{"value": "response-1", "rank": 2}, {"value": "response-2", "rank": 1}]
NAMES = ["response-2", "response-1"]


def entry(value, user="u", **about) -> dict:
    return {"value": value, "user_id": user} | about


def flat(value, user="u", status="submitted") -> dict:
    users, statuses = "ranking.responses.users", "ranking.responses.status"
    return FIELDS | {"ranking.responses": [value], users: [user], statuses: [status]}


def answers(**questions) -> dict:
    return {"fields": FIELDS, "responses": {name: [entry(v)] for name, v in questions.items()}}


def version_1(values: dict, **about) -> dict:
    response = {"user_id": "u", "status": "submitted", "values": values} | about
    return {"fields": FIELDS, "responses": [response], "metadata": {}}


def read(tmp_path, *records):
    path = tmp_path / "records.json"
    path.write_text(json.dumps(records))
    return read_labels(path)


@pytest.mark.parametrize(
    "record",
    [
        {"fields": FIELDS, "responses": {"ranking": [entry(RANKED)]}, "metadata": {}},
        {"fields": FIELDS, "responses": {"ranking": [entry(NAMES)]}, "suggestions": {}},
        {
            "fields": FIELDS | {"notes": "n"},
            "responses": {
                "comment": [entry("fine")],
                "topics": [entry(["weather", "sky"])],
                "stars": [entry(4)],
                "ranking": [entry(NAMES)],
            },
        },
        {
            "fields": {"instruction": "Why?", "response1": "Rain.", "response2": "Sun."},
            "responses": {"order": [entry(["response2", "response1"])]},
        },
        {
            "fields": {"question": "Why?", "answer_a": "Rain.", "answer_b": "Sun."},
            "responses": {"order": [entry([{"value": "answer_b"}, {"value": "answer_a"}])]},
        },
        {
            "fields": FIELDS | {"response-3": None, "response-4": ""},
            "responses": {"ranking": [entry([*NAMES, "response-3", "response-4"])]},
        },
        flat(NAMES),
        flat(RANKED) | {"id": "1", "status": "completed", "_server_id": None, "split": "train"},
        version_1({"ranking": {"value": RANKED}}),
        version_1({"ranking": {"value": RANKED}, "comment": {"value": "fine"}}),
        FIELDS | {"ranking": [entry({"value": NAMES, "rank": [1, 2]}, status="submitted")]},
        FIELDS | {"ranking": {"user_id": ["u"], "value": [RANKED], "status": ["submitted"]}},
        FIELDS | {"ranking": str([entry(RANKED, status="submitted")]), "metadata": "{}"},
        {name: json.dumps(value) for name, value in answers(ranking=NAMES).items()},
        {name: value if name in FIELDS else str(value) for name, value in flat(NAMES).items()},
        {
            "fields": {"chat": [{"role": "user", "content": "Why?"}]}
            | {name: [{"role": "assistant", "content": FIELDS[name]}] for name in NAMES},
            "responses": {"ranking": [entry(NAMES)]},
            "suggestions": {"ranking": {"value": NAMES[::-1], "score": None}},
            "vectors": {"v": [0.1]},
            "metadata": None,
        },
        {  # named like a pair, but it is what people say that counts
            "prompt": "Why?",
            "chosen": "Rain.",
            "rejected": "Sun.",
            "ranking.responses": [["rejected", "chosen"]],
            "ranking.responses.users": ["u"],
        },
    ],
)
def test_every_shape_of_a_ranking(tmp_path, record):
    (found,), bad = read(tmp_path, record)
    assert bad == [] and (found.annotator, found.prompt) == ("u", "Why?")
    assert (found.answers, found.ranks) == (["Rain.", "Sun."], [2, 1])


@pytest.mark.parametrize("shape", ["nested", "flat", "version 1"])
@pytest.mark.parametrize("status", ["submitted", "discarded", "draft"])
def test_what_was_thrown_away_is_no_ranking(tmp_path, capsys, shape, status):
    record = {
        "nested": {"fields": FIELDS, "responses": {"ranking": [entry(NAMES, status=status)]}},
        "flat": flat(NAMES, status=status),
        "version 1": version_1({"ranking": {"value": RANKED}}, status=status),
    }[shape]
    found, bad = read(tmp_path, record)
    kinds = {"submitted": ["ranking"], "discarded": ["skip"], "draft": []}[status]
    assert bad == [] and [judgement.kind for judgement in found] == kinds
    assert ("still a draft: 1" in capsys.readouterr().out) == (status == "draft")


def test_discarded_without_a_value_is_a_skip(tmp_path):
    records = [
        flat(None, status="discarded"),
        version_1({}, status="discarded"),
        {"fields": FIELDS, "responses": {"ranking": [entry(None, status="discarded")]}},
    ]
    found, bad = read(tmp_path, *records)
    assert bad == [] and [judgement.kind for judgement in found] == ["skip"] * 3
    assert all(judgement.answers == ["Rain.", "Sun."] for judgement in found)


def test_several_users_of_a_record(tmp_path, capsys):
    """One ranks as the other does not, one leaves a draft, one discards."""
    entries = [
        entry(NAMES, "u1", status="submitted"),
        entry(NAMES[::-1], 7, status="submitted"),
        entry(NAMES, "u3", status="draft"),
        entry(NAMES, "u4", status="discarded"),
    ]
    found, bad = read(tmp_path, {"fields": FIELDS, "responses": {"ranking": entries}})
    told = [(judgement.annotator, judgement.kind, judgement.ranks) for judgement in found]
    skip = ("u4", "skip", [])
    assert bad == [] and told == [("u1", "ranking", [2, 1]), ("7", "ranking", [1, 2]), skip]
    assert len({judgement.uid for judgement in found}) == 3
    assert "3 judgements. Left out, still a draft: 1." in capsys.readouterr().out


def test_users_without_a_name_are_several(tmp_path):
    entries = [entry(NAMES, None), entry(NAMES[::-1], None)]
    found, bad = read(tmp_path, {"fields": FIELDS, "responses": {"ranking": entries}})
    assert bad == [] and [judgement.ranks for judgement in found] == [[2, 1], [1, 2]]


def test_nobody_has_judged_it_yet(tmp_path, capsys):
    """Flattened, a record without an answer has an empty column, since another has one."""
    pending = FIELDS | {"ranking.responses": None, "ranking.responses.users": None}
    found, bad = read(tmp_path, {"fields": FIELDS, "responses": {}}, pending)
    assert (found, bad) == ([], []) and "not judged yet: 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (answers(stars=4), "none of the questions, 'stars', ranks"),
        (answers(stars_1=4, stars_2=2), "'stars_1', 'stars_2', ranks"),
        (answers(ranking=["response-2", "response-9"]), "none of the questions, 'ranking'"),
        (answers(ranking=["response-2"]), "leaves out 'response-1'"),
        (answers(ranking=["response-2"] * 2), "twice"),
        (answers(ranking=[RANKED[0], RANKED[1] | {"rank": None}]), "leaves out 'response-2'"),
        (answers(helpful=NAMES, honest=NAMES), "2 questions rank the answers, 'helpful', 'honest'"),
        (answers(ranking=[entry("response-1") | {"rank": r} for r in (1, 2)]), "twice"),
        ({"fields": {"x": "Why?"} | FIELDS, "responses": {"r": [{"value": NAMES}]}}, ""),
    ],
)
def test_what_ranks_nothing_is_told(tmp_path, record, told):
    found, bad = read(tmp_path, record)
    if told:
        assert found == [] and len(bad) == 1 and told in bad[0][1]
    else:
        assert bad == [] and found[0].annotator == "imported"


def test_one_bad_answer_of_a_record_costs_no_other(tmp_path):
    entries = [entry(NAMES, "u1"), entry(NAMES[:1], "u2")]
    found, bad = read(tmp_path, {"fields": FIELDS, "responses": {"ranking": entries}})
    assert [judgement.annotator for judgement in found] == ["u1"]
    assert bad == [(1, "the ranking leaves out 'response-1'")]


def test_a_chat_and_what_a_question_is_about_are_the_prompt(tmp_path):
    chat = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Why?"},
    ]
    ranked = {"responses": {"ranking": [entry(NAMES)]}}
    texts = {name: FIELDS[name] for name in NAMES}
    about = {"instruction": "Why?", "context": "It is wet."}
    records = [ranked | {"fields": {"prompt": chat} | texts}, ranked | {"fields": about | texts}]
    (first, second), bad = read(tmp_path, *records)
    assert bad == [] and messages_of(first.prompt) == chat
    assert second.prompt == "Why?\n\nIt is wet."


METADATA = {
    "uid": "batch-3",
    "session": 12,
    "kind": "faq",
    "confidence": "high",
    "item_id": 77,
    "shown_order": [5, 6],
    "submitted_at": "2024-05-01",
}


def test_metadata_of_others_is_not_ours(tmp_path):
    record = answers(ranking=NAMES)
    records = [
        record | {"metadata": METADATA, "fields": FIELDS | {"prompt": f"{n}?"}} for n in range(5)
    ]
    found, bad = read(tmp_path, *records, flat(NAMES) | METADATA)
    assert bad == [] and len(found) == 6
    assert {(each.kind, each.session, each.confidence) for each in found} == {
        ("ranking", "import", None)
    }


# --- our own


def test_what_we_write_is_a_record_of_argilla_2(tmp_path):
    """A ranking is a list of names there, a user a UUID, and a response without status a draft."""
    ranked = said(make_item("Why?", ["Rain.", "Sun.", "Sea."]), [2, 1, 2], "me", uid="1")
    path = tmp_path / "records.json"
    export_labels([ranked, replace(ranked, ranks=[], kind="skip", uid="2")], path, "argilla")
    first, second = (each["responses"]["ranking"][0] for each in json.loads(path.read_text()))
    assert first["value"] == ["response-2", "response-1", "response-3"]
    assert uuid.UUID(first["user_id"]) and first["user_id"] == second["user_id"]
    assert first["status"] == "submitted"
    assert (second["value"], second["status"]) == (None, "discarded")


def through_argilla(path, flattened: bool) -> None:
    """As Argilla 2.8 gives back what it read: no status, or columns with dots."""
    rows = []
    for record in json.loads(path.read_text()):
        (said,) = record["responses"]["ranking"]
        row = {"id": record["id"], "_server_id": None, "status": "completed"}
        if flattened:
            columns = {"": said["value"], ".users": said["user_id"], ".status": said["status"]}
            row |= record["fields"] | record["metadata"]
            row |= {f"ranking.responses{name}": [value] for name, value in columns.items()}
        else:
            row |= {name: record[name] for name in ("fields", "metadata")}
            row["responses"] = {"ranking": [entry(said["value"], said["user_id"])]}
        rows.append(row)
    path.write_text(json.dumps(rows))


@pytest.mark.parametrize("flattened", [False, True])
def test_our_labels_come_back_from_argilla_as_they_were(tmp_path, flattened):
    """Ties, names, times and flags, too."""
    item, path = make_item("Why?", ["Rain.", "", "Sea."]), tmp_path / "records.json"
    about = {"shown_order": [2, 0, 1], "session": "widget", "flags": ["unsafe"], "shown_at": 1.0}
    made = [
        said(item, [2, 1, 2], "me", uid="1", confidence=0.5, **about),
        said(item, [], "you", uid="2", kind="skip", **about),
        said(item, [1, 1, 1], "me", uid="3", kind="repeat", **about),
    ]
    export_labels(made, path, "argilla")
    through_argilla(path, flattened)
    assert read_labels(path) == (made, [])


def test_a_ranking_that_was_changed_in_argilla_is_a_new_one(tmp_path):
    """By our annotator, or by somebody else who saw the record there."""
    path = tmp_path / "records.json"
    export_labels(
        [said(make_item("Why?", ["Rain.", "Sun."]), [2, 1], "me", uid="1")], path, "argilla"
    )
    (record,) = json.loads(path.read_text())
    (mine,) = record["responses"]["ranking"]
    entries = [mine | {"value": ["response-1", "response-2"]}, entry(NAMES, "u")]
    record["responses"]["ranking"] = entries
    (first, second), bad = read(tmp_path, record)
    assert bad == []
    assert (first.annotator, first.ranks) == ("me", [1, 2]) and first.uid != "1"
    assert (second.annotator, second.ranks) == ("u", [2, 1]) and second.uid != "1"


def test_records_that_older_versions_wrote(tmp_path):
    about = {"item_id": "7", "annotator": "me", "session": "widget", "shown_order": [1, 0]}
    about |= {"confidence": None, "flags": [], "note": "hm", "shown_at": 1.0, "submitted_at": 2.0}
    about |= {"kind": "ranking", "margin": None, "uid": "one"}
    record = {"fields": FIELDS, "responses": {"ranking": [entry(RANKED, "me")]}, "metadata": about}
    skip = record | {"responses": {}, "metadata": about | {"kind": "skip", "uid": "two"}}
    (first, second), bad = read(tmp_path, record, skip)
    assert bad == [] and (first.uid, first.note, first.shown_order) == ("one", "hm", [1, 0])
    assert (first.annotator, first.ranks) == ("me", [2, 1])
    assert (second.uid, second.kind, second.annotator) == ("two", "skip", "me")
