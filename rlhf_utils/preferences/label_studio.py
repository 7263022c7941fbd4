"""Labels as tasks of Label Studio, JSON, JSON_MIN or CSV: a Ranker, or a Pairwise comparison.

What is written is a list of answers and a Ranker whose buckets are named by rank, so ties fit.
Drafts and predictions of a model are no labels.
"""

from .label_rows import (
    Row,
    about,
    annotator_in,
    find_prompt,
    numbered,
    object_in,
    ranks_by_place,
    ranks_of,
    told,
    trusted,
)
from .pairs import Judgement

ENDINGS = (".json",)
LEFT_IN_LIST = "_"  # the bucket of what nobody moved
SIDES = {"left": [1, 2], "right": [2, 1]}
TEXTS = ("body", "html", "text", "title")  # where an entry of the list may hold its text


# --- write


def write(judgement: Judgement) -> list[dict]:
    """Without `completed_by`, which must be the number or address of a user there."""
    buckets: dict[str, list[str]] = {}
    for number, rank in enumerate(judgement.ranks):
        buckets.setdefault(str(rank), []).append(str(number))
    ranker = {"from_name": "rank", "to_name": "responses", "type": "ranker"}
    annotation = {
        "was_cancelled": not buckets,
        "result": [ranker | {"value": {"ranker": buckets}}] if buckets else [],
    }
    entries = [{"id": str(number), "body": text} for number, text in enumerate(judgement.answers)]
    record = {
        "data": {"prompt": judgement.prompt, "responses": entries},
        "annotations": [annotation],
        "meta": about(judgement),
    }
    return [record]


# --- read


def fits(record: dict) -> bool:
    cancelled = "annotation_id" in record and not {"chosen", "ranks"} & set(record)
    return isinstance(record.get("data"), dict) or cancelled or bool(_results_of_min(record))


def read(record: dict) -> list[Row]:
    """A row for each annotation; one that was cancelled, or is empty, is a skip."""
    if "data" not in record:
        record = _of_min(record)
    data = record["data"]
    annotations = record.get("annotations") or record.get("completions") or []  # before version 1
    rows: list[Row] = ["still a draft" for _ in record.get("drafts") or []]
    if not annotations:
        return rows or ["not judged yet"]
    own, used = trusted(record.get("meta")), False
    for annotation in annotations:
        try:
            row = _row(data, annotation)
        except ValueError as error:
            rows.append(error)
            continue
        same = own.get("ranks", row["ranks"]) == row["ranks"]
        # An import there renames who did it.
        alone = len(annotations) == 1 and "ranks" in own and same
        if own and not used and (alone or row["annotator"] in (None, own.get("annotator"))):
            used = True
            row = (own if same else {}) | row | {"annotator": own.get("annotator")}
        rows.append(row)
    return rows


def _row(data: dict, annotation: dict) -> dict:
    results = annotation.get("result") or []
    if annotation.get("was_cancelled") or not results:
        names, answers = _any_answers(data)
        said = {"kind": "skip", "ranks": []}
    else:
        names, answers, ranks = _judged(data, results)
        said = {"ranks": ranks}
    others = {name: value for name, value in data.items() if name not in names}
    who = annotation.get("completed_by")
    if isinstance(who, list) and len(who) == 1:
        who = who[0]
    if isinstance(who, dict):
        known = ("email", "username", "id")
        who = next((who[name] for name in known if who.get(name)), None)
    return {"prompt": find_prompt(others), "responses": answers, "annotator": who} | said


def _judged(data: dict, results: list[dict]) -> tuple[list[str], list[str], list[int]]:
    """(columns of the answers, the answers, their ranks). Raises ValueError."""
    found = [each for each in results if each.get("type") in ("ranker", "pairwise")]
    if len(found) != 1:
        types = told(sorted({str(each.get("type")) for each in results}))
        raise ValueError(
            f"{len(found)} of the annotation's results ({types}) are a ranker or a pairwise "
            "comparison, where one is needed"
        )
    result, value = found[0], found[0].get("value") or {}
    if result["type"] == "pairwise":
        names = _two_texts(data, result.get("to_name"))
        selected = value.get("selected")
        if selected not in SIDES:
            raise ValueError(f"selected={selected!r:.60} must be 'left' or 'right'")
        return names, [data[name] for name in names], SIDES[selected]
    rank_of = _ranks_of_buckets(value.get("ranker"))
    lists = _lists(data)
    if (name := result.get("to_name")) not in lists:
        found = [name for name in lists if set(rank_of) & set(lists[name])]
        if len(found) != 1:
            raise ValueError(
                f"{len(found)} lists of the task hold the ranked answers "
                f"({told(sorted(rank_of))}), each with an id of its own, where one must"
            )
        name = found[0]
    return [name], _texts(lists[name]), ranks_of(list(lists[name]), rank_of)


def _ranks_of_buckets(ranker: list | dict) -> dict[str, int]:
    """Answer id → rank, from one list with the best first, or from buckets named by rank."""
    if isinstance(ranker, list):
        return ranks_by_place(ranker)
    if not isinstance(ranker, dict):
        raise ValueError(f"ranker={ranker!r:.60} must be a list or buckets")
    if left := ranker.get(LEFT_IN_LIST):
        raise ValueError(f"{len(left)} answers were left in the list unranked")
    buckets = {name: ids for name, ids in ranker.items() if name != LEFT_IN_LIST}
    if buckets and all(name.isascii() and name.isdecimal() and len(name) < 10 for name in buckets):
        ranked = [(str(each), int(name)) for name, ids in buckets.items() for each in ids]
        ranks_by_place([each for each, _ in ranked])  # none may come twice
        return dict(ranked)
    if len(buckets) == 1:
        return ranks_by_place(next(iter(buckets.values())))
    raise ValueError(
        f"the buckets {told(sorted(buckets))} have no order: name them by rank, 1, 2, …, "
        "or rank in one list"
    )


# --- where the answers are


def _lists(data: dict) -> dict[str, dict[str, dict]]:
    """Column → id → entry, of the columns that hold a list of answers, each with its own id."""
    found = {}
    for name, value in data.items():
        entries = object_in(value)
        entries = entries if isinstance(entries, list) else []
        by_id = {
            str(each["id"]): each for each in entries if isinstance(each, dict) and "id" in each
        }
        if by_id and len(by_id) == len(entries):
            found[name] = by_id
    return found


def _texts(entries: dict[str, dict]) -> list[str]:
    texts = []
    for number, entry in entries.items():
        name = next((name for name in TEXTS if name in entry), None)
        if name is None:
            raise ValueError(f"answer {number!r:.60} has none of {', '.join(TEXTS)}")
        texts.append("" if entry[name] is None else entry[name])
    return texts


def _two_texts(data: dict, to_name) -> list[str]:
    """The columns of the left and the right answer."""
    names = to_name.split(",") if isinstance(to_name, str) else to_name or []
    if len(names) != 2 or not set(names) <= set(data):
        names = numbered([name for name, value in data.items() if isinstance(value, str)])
    if len(names) != 2:
        raise ValueError(
            f"the two answers that were compared, {to_name!r:.60}, are no columns of the task: "
            "call them answer1 (left) and answer2"
        )
    return list(names)


def _any_answers(data: dict) -> tuple[list[str], list[str]]:
    """(their columns, the answers) of a task that nobody judged."""
    for name, entries in _lists(data).items():
        return [name], _texts(entries)
    names = _two_texts(data, None)
    return names, [data[name] for name in names]


# --- JSON_MIN and CSV: one annotation a record, the task's columns beside it


def _results_of_min(record: dict) -> dict[str, dict]:
    """Column → result."""
    found = {}
    for name, value in record.items():
        result = object_in(value)
        if isinstance(result, list) and len(result) == 1:
            result = result[0]
        for kind, key in (("ranker", "ranker"), ("pairwise", "selected")):
            if isinstance(result, dict) and key in result:
                found[name] = {"type": kind, "value": result}
    return found


def _of_min(record: dict) -> dict:
    results = _results_of_min(record)
    data = {name: value for name, value in record.items() if name not in results}
    annotation = {"result": list(results.values()), "completed_by": annotator_in(record)}
    return {"data": data, "annotations": [annotation]}
