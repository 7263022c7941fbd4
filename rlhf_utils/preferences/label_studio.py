"""Labels as tasks of Label Studio, JSON or JSON_MIN: a Ranker, or a Pairwise comparison.

What is written is a list of answers and a Ranker whose buckets are named by rank, so ties fit.
Drafts and predictions of a model are no labels.
"""

from .label_rows import (
    LEFT_OUT,
    about,
    find_prompt,
    numbered,
    ranks_by_place,
    ranks_of,
    told,
    trusted,
)
from .pairs import Judgement

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
    return "annotations" in record or "annotation_id" in record or bool(_results_of_min(record))


def read(record: dict) -> list[dict | ValueError]:
    """A row for each annotation; one that was cancelled, or is empty, is a skip.

    In place of a bad row there is the error.
    """
    if "annotations" not in record:
        record = _of_min(record)
    data, annotations = record["data"], record["annotations"] or []
    rows = [{LEFT_OUT: "still a draft"} for _ in record.get("drafts") or []]
    if not annotations:
        return rows or [{LEFT_OUT: "not judged yet"}]
    own, used = trusted(record.get("meta")), False
    for annotation in annotations:
        try:
            row = _row(data, annotation)
        except ValueError as error:
            rows.append(error)
            continue
        if own and not used and _is_ours(row, own, len(annotations)):
            used = True
            row = _as_we_wrote_it(row, own)
        rows.append(row)
    return rows


def _row(data: dict, annotation: dict) -> dict:
    results = annotation.get("result") or []
    skipped = bool(annotation.get("was_cancelled")) or not results
    if skipped:
        names, answers = _any_answers(data)
        ranks = {"kind": "skip", "ranks": []}
    else:
        names, answers, ranks = _judged(data, results)
        ranks = {"ranks": ranks}
    others = {name: value for name, value in data.items() if name not in names}
    row = {"prompt": find_prompt(others), "responses": answers}
    return row | ranks | {"annotator": _who(annotation.get("completed_by"))}


def _is_ours(row: dict, own: dict, annotations: int) -> bool:
    """Whether an annotation is the one that we wrote, though an import there renames who did it."""
    same = annotations == 1 and own.get("ranks") == row["ranks"]
    return same or row["annotator"] in (None, own.get("annotator"))


def _as_we_wrote_it(row: dict, own: dict) -> dict:
    """With the columns that we wrote, unless somebody has changed the ranking since."""
    if own.get("ranks", row["ranks"]) != row["ranks"]:
        return row | {"annotator": own.get("annotator")}
    return own | row | {"annotator": own.get("annotator")}


def _who(completed_by):
    """A number, an address, or a user with either."""
    if isinstance(completed_by, dict):
        known = ("email", "username", "id")
        return next((completed_by[name] for name in known if completed_by.get(name)), None)
    return completed_by


def _judged(data: dict, results: list[dict]) -> tuple[set[str], list[str], list[int]]:
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
        return set(names), [data[name] for name in names], SIDES[selected]
    rank_of = _ranks_of_buckets(value.get("ranker"))
    name = _list_of(data, result.get("to_name"), set(rank_of))
    ids, answers = _entries(data[name])
    return {name}, answers, ranks_of(ids, rank_of)


def _ranks_of_buckets(ranker: list | dict) -> dict[str, int]:
    """Answer id → rank, from one list with the best first, or from buckets named by rank."""
    if isinstance(ranker, list):
        return ranks_by_place(ranker)
    if not isinstance(ranker, dict):
        raise ValueError(f"ranker={ranker!r:.60} must be a list or buckets")
    buckets = dict(ranker)
    if buckets.get(LEFT_IN_LIST):
        raise ValueError(f"{len(buckets[LEFT_IN_LIST])} answers were left in the list unranked")
    buckets.pop(LEFT_IN_LIST, None)
    if buckets and all(_is_rank(name) for name in buckets):
        ranked = [(each, int(name)) for name, ids in buckets.items() for each in ids]
        ranks_by_place([each for each, _ in ranked])  # none may come twice
        return {str(each): rank for each, rank in ranked}
    if len(buckets) == 1:
        return ranks_by_place(next(iter(buckets.values())))
    raise ValueError(
        f"the buckets {told(sorted(buckets))} have no order: name them by rank, 1, 2, …, "
        "or rank in one list"
    )


def _is_rank(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) < 10


# --- where the answers are


def _lists(data: dict) -> list[str]:
    """The columns that hold a list of answers, each with an id."""
    found = []
    for name, value in data.items():
        entries = value if isinstance(value, list) else []
        if entries and all(isinstance(entry, dict) and "id" in entry for entry in entries):
            found.append(name)
    return found


def _list_of(data: dict, to_name, ids: set[str]) -> str:
    """The list that was ranked: the one named `to_name`, or the one with these ids."""
    lists = _lists(data)
    if to_name in lists:
        return to_name
    found = [name for name in lists if ids & set(_entries(data[name])[0])]
    if len(found) != 1:
        raise ValueError(
            f"{len(found)} lists of the task hold the ranked answers ({told(sorted(ids))})"
        )
    return found[0]


def _entries(entries: list[dict]) -> tuple[list[str], list[str]]:
    """(ids, texts) of a list of answers."""
    texts = []
    for entry in entries:
        name = next((name for name in TEXTS if name in entry), None)
        if name is None:
            raise ValueError(f"answer {entry['id']!r:.60} has none of {', '.join(TEXTS)}")
        texts.append("" if entry[name] is None else entry[name])
    return [str(entry["id"]) for entry in entries], texts


def _two_texts(data: dict, to_name) -> list[str]:
    """The columns of the left and the right answer."""
    names = to_name.split(",") if isinstance(to_name, str) else to_name or []
    if len(names) != 2 or not set(names) <= set(data):
        names = numbered([name for name, value in data.items() if isinstance(value, str)])
    if len(names) != 2:
        raise ValueError(
            f"the two answers that were compared, {to_name!r:.60}, are no columns of the task"
        )
    return list(names)


def _any_answers(data: dict) -> tuple[set[str], list[str]]:
    """(their columns, the answers) of a task that nobody judged."""
    lists = _lists(data)
    if lists:
        return {lists[0]}, _entries(data[lists[0]])[1]
    names = _two_texts(data, None)
    return set(names), [data[name] for name in names]


# --- JSON_MIN: one annotation a record, the task's columns beside it


def _results_of_min(record: dict) -> dict[str, dict]:
    """Column → result, of a record of JSON_MIN."""
    found = {}
    for name, value in record.items():
        result = value[0] if isinstance(value, list) and len(value) == 1 else value
        if isinstance(result, dict):
            kind = "ranker" if "ranker" in result else "pairwise" if "selected" in result else None
            if kind:
                found[name] = {"type": kind, "value": result}
    return found


def _of_min(record: dict) -> dict:
    results = _results_of_min(record)
    data = {name: value for name, value in record.items() if name not in results}
    annotation = {"result": list(results.values()), "completed_by": record.get("annotator")}
    return {"data": data, "annotations": [annotation]}
