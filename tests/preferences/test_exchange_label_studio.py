"""Exports of Label Studio: a Ranker with one list or buckets, Pairwise, JSON_MIN, many people."""

import csv
import json

import pytest
from judged import make_item, said

from rlhf_utils.preferences.exchange import export_labels, import_labels, read_labels
from rlhf_utils.preferences.store import LabelStore

ANSWERS = [
    {"id": "x", "title": "Model 1", "body": "Rain."},
    {"id": "y", "title": "Model 2", "body": "Sun."},
    {"id": "z", "title": "Model 3", "body": "Sea."},
]
TEXTS = ["Rain.", "Sun.", "Sea."]
ONE_LIST = {"rank": ["z", "x", "y"]}


def annotation(ranker, **about) -> dict:
    value = {
        "from_name": "rank",
        "to_name": "answers",
        "type": "ranker",
        "value": {"ranker": ranker},
    }
    return {"id": 5, "completed_by": 3, "was_cancelled": False, "result": [value]} | about


def task(*annotations, **data) -> dict:
    return {
        "id": 1,
        "data": {"prompt": "Why?", "items": ANSWERS} | data,
        "annotations": annotations,
    }


def read(tmp_path, *records):
    path = tmp_path / "export.json"
    path.write_text(json.dumps(records))
    return read_labels(path)


@pytest.mark.parametrize(
    ("ranker", "ranks"),
    [
        (ONE_LIST, [2, 3, 1]),
        (ONE_LIST | {"_": []}, [2, 3, 1]),
        (["z", "x", "y"], [2, 3, 1]),  # as older versions export one list
        ({"1": ["y", "x"], "3": ["z"]}, [1, 1, 3]),
        ({"2": ["y"], "10": ["x"], "1": ["z"]}, [10, 2, 1]),
        ({"1": ["x", "y", "z"]}, [1, 1, 1]),
    ],
)
def test_lists_and_numbered_buckets(tmp_path, ranker, ranks):
    (found,), bad = read(tmp_path, task(annotation(ranker)))
    assert bad == [] and (found.answers, found.ranks) == (TEXTS, ranks)
    assert (found.prompt, found.annotator) == ("Why?", "3")


@pytest.mark.parametrize(
    ("ranker", "told"),
    [
        ({"relevant_results": ["y", "x"], "biased_results": ["z"]}, "have no order"),
        ({"relevant_results": ["y", "x", "z"], "biased_results": []}, "have no order"),
        ({"_": ["y", "x"], "biased_results": ["z"]}, "2 answers were left in the list"),
        ({"_": ["x"], "1": ["z"], "2": ["y"]}, "1 answers were left in the list"),
        ({"1": ["x"], "second": ["y", "z"]}, "'1', 'second' have no order"),
        ({"0": ["x"], "1": ["y", "z"]}, "ranks=[0, 1, 1] must be"),
        ({"1": ["x", "y"], "2": ["y", "z"]}, "twice"),
        ({"rank": ["x", "y"]}, "leaves out 'z'"),
        ({"rank": ["x", "y", "z", "w"]}, "names 'w', which is no answer"),
        ({"²": ["x"], "1": ["y", "z"]}, "have no order"),
        ("x", "must be a list or buckets"),
    ],
)
def test_what_has_no_order_is_a_bad_row(tmp_path, ranker, told):
    found, bad = read(tmp_path, task(annotation(ranker)))
    assert found == [] and len(bad) == 1 and told in bad[0][1], bad


def test_a_cancelled_annotation_is_a_skip(tmp_path):
    """Whatever was ranked before it was cancelled; with nothing ranked as well."""
    cancelled = [annotation(ONE_LIST, was_cancelled=True), {"was_cancelled": True, "result": []}]
    found, bad = read(tmp_path, task(*cancelled))
    assert (
        bad == []
        and [(each.kind, each.ranks, each.answers) for each in found] == [("skip", [], TEXTS)] * 2
    )


def test_drafts_and_predictions_are_no_labels(tmp_path, capsys):
    guessed = {"predictions": [annotation(ONE_LIST)], "drafts": [annotation(ONE_LIST)]}
    only_guessed = {"data": task()["data"], "predictions": guessed["predictions"]}
    judged = task(annotation(ONE_LIST)) | guessed
    found, bad = read(tmp_path, task() | guessed, task(), judged, only_guessed)
    assert bad == [] and len(found) == 1
    told = "1 judgements. Left out, still a draft: 2; not judged yet: 2."
    assert told in capsys.readouterr().out


def test_several_people(tmp_path):
    """Numbers, addresses, users; each with an uid of its own, and one bad row costs no other."""
    people = [7, {"id": 8, "email": "b@x.org"}, [{"id": 9}], "c@x.org", None]
    made = [annotation(ONE_LIST, completed_by=who) for who in people]
    found, bad = read(tmp_path, task(*made, annotation({"rank": ["x"]})))
    assert [each.annotator for each in found] == ["7", "b@x.org", "9", "c@x.org", "imported"]
    assert len({each.uid for each in found}) == 5 and len(bad) == 1


@pytest.mark.parametrize(
    "data",
    [
        {"tags": ["x", "y"]},
        {"sources": [{"id": "s1", "body": "a page"}, {"id": "s2", "body": "another"}]},
        {"answers": ANSWERS, "items": [{"id": "x", "body": "not this one"}]},
    ],
)
def test_the_list_that_was_ranked(tmp_path, data):
    """Another may come before it: its ids tell, or the name that the ranker gives."""
    made = task(annotation(ONE_LIST))
    made["data"] = data | {name: made["data"][name] for name in made["data"] if name not in data}
    (found,), bad = read(tmp_path, made)
    assert bad == [] and found.answers == TEXTS


def test_two_answers_of_one_id_are_told(tmp_path):
    found, bad = read(tmp_path, task(annotation({"rank": ["x"]}), items=[ANSWERS[0], ANSWERS[0]]))
    assert found == [] and "each with an id of its own" in bad[0][1]


def test_annotations_were_called_completions_before_version_1(tmp_path):
    made = task(annotation(ONE_LIST))
    made["completions"] = made.pop("annotations")
    (found,), bad = read(tmp_path, made)
    assert bad == [] and found.ranks == [2, 3, 1]


def test_an_empty_answer_is_not_its_title(tmp_path):
    entries = [{"id": "x", "title": "Model 1", "body": ""}, *ANSWERS[1:]]
    (found,), bad = read(tmp_path, task(annotation(ONE_LIST), items=entries))
    assert bad == [] and found.answers == ["", "Sun.", "Sea."]


PAIR = {"prompt": "Why?", "answer1": "Rain.", "answer2": "Sun."}


@pytest.mark.parametrize(
    ("side", "data", "to_name", "ranks"),
    [
        ("left", PAIR, "answer1,answer2", [1, 2]),
        ("right", PAIR, "answer1,answer2", [2, 1]),
        ("left", PAIR, "first,second", [1, 2]),  # the tags are called otherwise than the columns
        ("left", {"prompt": "Why?", "good": "Rain.", "bad": "Sun."}, "good,bad", [1, 2]),
        ("right", {"prompt": "Why?", "right": "Sun.", "left": "Rain."}, ["t1", "t2"], [2, 1]),
        ("left", {"prompt": "Why?", "text_left": "Rain.", "text_right": "Sun."}, "t1,t2", [1, 2]),
    ],
)
def test_pairwise(tmp_path, side, data, to_name, ranks):
    result = {"type": "pairwise", "to_name": to_name, "value": {"selected": side}}
    record = {"data": data, "annotations": [{"completed_by": 1, "result": [result]}]}
    (found,), bad = read(tmp_path, record)
    assert bad == [] and (found.answers, found.ranks) == (["Rain.", "Sun."], ranks)
    assert found.prompt == "Why?"


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ({"type": "pairwise", "to_name": "a,b", "value": {}}, "selected=None"),
        ({"type": "choices", "value": {"choices": ["good"]}}, "'choices'"),
    ],
)
def test_other_results_are_told(tmp_path, result, told):
    record = {"data": PAIR, "annotations": [{"completed_by": 1, "result": [result]}]}
    found, ((_, reason),) = read(tmp_path, record)
    assert found == [] and told in reason


@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: [value]])
def test_json_min(tmp_path, wrap):
    about = {"id": 1, "annotator": 4, "annotation_id": 9, "created_at": "2026-05-01T10:00:00Z"}
    ranked = about | {"prompt": "Why?", "items": ANSWERS, "rank": wrap({"ranker": ONE_LIST})}
    pair = about | PAIR | {"comparison": wrap({"selected": "right"}), "annotator": "a@x.org"}
    (first, second), bad = read(tmp_path, ranked, pair)
    assert bad == [] and (first.answers, first.ranks) == (TEXTS, [2, 3, 1])
    assert (second.answers, second.ranks) == (["Rain.", "Sun."], [2, 1])
    assert (first.annotator, second.annotator) == ("4", "a@x.org")


def test_a_table(tmp_path):
    path = tmp_path / "export.csv"
    row = {"id": 1, "annotator": 4, "annotation_id": 9, "prompt": "Why?"}
    row |= {"items": json.dumps(ANSWERS), "rank": json.dumps({"ranker": ONE_LIST})}
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, row)
        table.writeheader()
        table.writerow(row)
    (found,), bad = read_labels(path)
    assert bad == [] and (found.answers, found.ranks) == (TEXTS, [2, 3, 1])
    assert found.annotator == "4"


@pytest.mark.parametrize(
    "meta",
    [
        {"session": 12},
        {"kind": "faq"},
        {"confidence": 85},
        {"submitted_at": "2024-05-01T10:00:00Z"},
        {"flags": "spam", "note": 5, "margin": "large"},
        {"item_id": 77, "shown_order": [5, 6]},
    ],
)
def test_meta_of_others_is_not_ours(tmp_path, meta):
    found, bad = read(tmp_path, task(annotation(ONE_LIST)) | {"meta": meta})
    plain, _ = read(tmp_path, task(annotation(ONE_LIST)))
    assert bad == [] and [vars(each) | {"uid": ""} for each in found] == [
        vars(each) | {"uid": ""} for each in plain
    ]


def test_tasks_of_one_customer_are_not_one(tmp_path):
    path, store = tmp_path / "export.json", LabelStore(tmp_path / "labels.sqlite")
    tasks = [task(annotation(ONE_LIST), prompt=f"{n}?") | {"meta": {"uid": "c"}} for n in range(5)]
    path.write_text(json.dumps(tasks))
    assert import_labels(path, store) == (5, 0, []) and import_labels(path, store) == (0, 5, [])


def test_a_later_export_with_more_people_stores_only_theirs(tmp_path):
    path, store = tmp_path / "export.json", LabelStore(tmp_path / "labels.sqlite")
    first, second = (annotation(ONE_LIST, completed_by=who) for who in (3, 4))
    path.write_text(json.dumps([task(first)]))
    assert import_labels(path, store) == (1, 0, [])
    path.write_text(json.dumps([task(second, first | {"updated_at": "later"})]))
    assert import_labels(path, store) == (1, 1, [])
    assert [found.annotator for found in store.judgements()] == ["3", "4"]


# --- our own


def written(tmp_path):
    """A task that we wrote."""
    path = tmp_path / "ours.json"
    made = said(make_item("Why?", TEXTS), [2, 1, 1], "me", uid="1", session="widget", note="hm")
    export_labels([made], path, "label_studio")
    return made, json.loads(path.read_text())[0]


def test_an_import_into_label_studio_renames_the_annotator_and_we_still_know(tmp_path):
    made, record = written(tmp_path)
    record["annotations"][0] |= {"id": 31, "completed_by": 1, "lead_time": None}
    assert read(tmp_path, record) == ([made], [])


def test_a_second_annotation_of_our_task_is_its_own(tmp_path):
    made, record = written(tmp_path)
    (first,) = record["annotations"]
    ranker = {"1": ["0"], "2": ["1", "2"]}
    record["annotations"] = [first, annotation(ranker, completed_by=9)]
    (ours, other), bad = read(tmp_path, record)
    assert bad == [] and ours == made
    assert (other.annotator, other.ranks, other.session) == ("9", [1, 2, 2], "import")
    assert other.uid != "1" and other.note == ""


def test_tasks_that_older_versions_wrote(tmp_path):
    """Without a mark and without ranks in `meta`, the annotator's name in `completed_by`."""
    made, record = written(tmp_path)
    record["meta"] = {n: v for n, v in record["meta"].items() if n not in ("rlhf_utils", "ranks")}
    record["annotations"][0]["completed_by"] = "me"
    assert read(tmp_path, record) == ([made], [])


def test_our_ranking_changed_by_hand_is_a_new_one(tmp_path):
    _, record = written(tmp_path)
    record["annotations"][0]["result"][0]["value"]["ranker"] = {"1": ["0"], "2": ["1", "2"]}
    (found,), bad = read(tmp_path, record)
    assert bad == [] and (found.annotator, found.ranks) == ("me", [1, 2, 2]) and found.uid != "1"
