"""Labels as records of Argilla, of version 1 and 2, nested or flattened, with any questions.

What is written is a record of Argilla 2: a ranking question over the fields response-1, response-2,
…, a name for each rank. It knows no ties, so the ranks stand in the metadata.
"""

import json
import re
import uuid
from collections import Counter
from typing import NamedTuple

from .label_rows import (
    MARK,
    Row,
    about,
    find_prompt,
    numbered,
    object_in,
    ranks_by_place,
    ranks_of,
    stem,
    told,
    trusted,
)
from .pairs import Judgement

PEOPLE = uuid.UUID("7b0c2f0e-4d1f-5e0c-9f0a-5a1b7c1d2e3f")  # the namespace of users' ids
QUESTION = "ranking"
ENDINGS = (".json",)
ENTRY = ("value", "user_id", "status")


class Given(NamedTuple):
    """What one user said to one question."""

    question: str
    value: object
    user: object = None
    status: str | None = None


# --- write


def user_id(annotator: str) -> str:
    """Argilla names users by UUIDs."""
    return str(uuid.uuid5(PEOPLE, annotator))


def write(judgement: Judgement) -> list[dict]:
    names = [f"response-{number}" for number in range(1, len(judgement.answers) + 1)]
    skipped = not judgement.ranks
    response = {
        "value": None if skipped else _best_first(names, judgement.ranks),
        "user_id": user_id(judgement.annotator),
        "status": "discarded" if skipped else "submitted",
    }
    record = {
        "id": judgement.uid,
        "status": "completed",
        "fields": {"prompt": judgement.prompt} | dict(zip(names, judgement.answers)),
        "responses": {QUESTION: [response]},
        "metadata": {MARK: json.dumps(about(judgement))},
    }
    return [record]


def _best_first(names: list[str], ranks: list[int]) -> list[str]:
    return [name for _, name in sorted(zip(ranks, names), key=lambda entry: entry[0])]


# --- read


def fits(record: dict) -> bool:
    flat = any(str(name).endswith((".responses", "-suggestion")) for name in record)
    return flat or isinstance(object_in(record.get("fields")), dict) or bool(_of_columns(record))


def read(record: dict) -> list[Row]:
    """A row for each user: a ranking, a skip where it was discarded, left out where a draft."""
    fields = object_in(record.get("fields"))
    columns, own = fields if isinstance(fields, dict) else record, _own(record)
    given = _given(record)
    if not given:  # as older versions wrote a skip; of others nobody has judged it
        if not own:
            return ["not judged yet"]
        given = [Given(QUESTION, None, own.get("annotator"), "discarded")]
    rankings = _rankings(given, columns)
    names = _answers(columns, rankings, own)
    base = {
        "prompt": find_prompt({name: columns[name] for name in columns if name not in names}),
        "responses": [columns[name] for name in names],
    }
    people: dict[tuple, list] = {}
    before = Counter()  # several may have no name, and then answer the same question
    for each, rank_of in zip(given, rankings):
        person = (each.user, before[each.user, each.question])
        before[each.user, each.question] += 1
        people.setdefault(person, []).append((each.status, rank_of))
    rows = []
    for (user, _), said in people.items():
        name = own.get("annotator")
        ours = isinstance(name, str) and user in (None, name, user_id(name))
        try:
            found = _said(said, names, own if ours else {"annotator": user})
            rows.append(found if isinstance(found, str) else base | found)
        except ValueError as error:
            rows.append(error)
    return rows


def _said(said: list[tuple], names: list[str], who: dict) -> dict | str:
    """What one user made of the record. Our own columns stay if the ranking is as we wrote it."""
    statuses = {status for status, _ in said}
    rank_of = next((rank_of for _, rank_of in said if rank_of), None)
    if "draft" in statuses:
        return "still a draft"
    if "discarded" in statuses or rank_of is None:
        return who | {"kind": "skip", "ranks": []}
    ranks = ranks_of(names, {name: rank for name, rank in rank_of.items() if name in names})
    before = who.get("ranks", ranks)  # older versions did not write them
    if len(before) == len(ranks) and _best_first(names, ranks) == _best_first(names, before):
        return who | {"ranks": before}
    return {"annotator": who["annotator"], "ranks": ranks}


def _own(record: dict) -> dict:
    for holder in (object_in(record.get("metadata")), record):  # flattening puts it among columns
        if isinstance(holder, dict) and (own := trusted(holder.get(MARK)) or trusted(holder)):
            return own
    return {}


# --- the shapes of responses


def _given(record: dict) -> list[Given]:
    responses = object_in(record.get("responses"))
    if isinstance(responses, dict):  # version 2
        return [
            Given(question, *map(entry.get, ENTRY))
            for question, entries in responses.items()
            for entry in entries or []
        ]
    if not isinstance(responses, list):
        return _of_columns(record)
    found = []
    for response in responses:  # version 1
        who = (response.get("user_id"), response.get("status"))
        values = response.get("values") or {}
        said = [Given(name, answer["value"], *who) for name, answer in values.items() if answer]
        found += said or [Given("", None, *who)]
    return found


def _of_columns(record: dict) -> list[Given]:
    """Of a table: `<question>.responses` with `.users` and `.status` in version 2.

    In version 1 there is a column a question: [{user_id, value, status}], or a dict of such lists.
    """
    found = []
    for column, value in record.items():
        value = object_in(value)
        if column.endswith(".responses"):
            found += _of_lists(record, column, value or [])
        elif isinstance(value, dict) and set(ENTRY) <= set(value):
            lists = [value[key] or [] for key in ENTRY]
            found += [Given(column, *entry) for entry in zip(*lists)]
        elif isinstance(value, list):
            entries = [each for each in value if isinstance(each, dict) and set(ENTRY) <= set(each)]
            found += [Given(column, *map(entry.get, ENTRY)) for entry in entries]
    return found


def _of_lists(record: dict, column: str, values: list) -> list[Given]:
    lists = [values]
    for name in ("users", "status"):
        lists.append(object_in(record.get(f"{column}.{name}")) or [None] * len(values))
    if len(set(map(len, lists))) > 1:
        raise ValueError(f"{column!r:.60}, its .users and its .status are not of one length")
    question = column.removesuffix(".responses")
    return [Given(question, *entry) for entry in zip(*lists)]


# --- which question ranks, and what


def _rankings(given: list[Given], columns: dict) -> list[dict[str, int] | None]:
    """Field → rank of each that answers the one question that ranks fields, else None.

    Raises ValueError if there are several such questions, or none though something was said.
    """
    plain = lambda name: re.sub(r"[-_ ]", "", name).lower()  # noqa: E731  response-1 is response1
    fields = {plain(name): name for name in columns}
    found: list[dict | None] = []
    for each in given:
        rank_of = {plain(name): rank for name, rank in (_rank_of(each.value) or {}).items()}
        ranks_fields = rank_of and set(rank_of) <= set(fields)
        named = {fields[name]: rank for name, rank in rank_of.items()} if ranks_fields else None
        found.append(named)
    questions = sorted({each.question for each, rank_of in zip(given, found) if rank_of})
    if len(questions) > 1 and QUESTION not in questions:
        raise ValueError(
            f"{len(questions)} questions rank the answers, {told(questions)}: call the one "
            f"that counts {QUESTION!r}"
        )
    said = sorted({each.question for each in given if each.value is not None})
    if said and not questions:
        raise ValueError(
            f"none of the questions, {told(said)}, ranks the fields of the record; ratings and "
            "labels are no ranking"
        )
    question = QUESTION if QUESTION in questions else next(iter(questions), "")
    return [rank_of if each.question == question else None for each, rank_of in zip(given, found)]


def _rank_of(value) -> dict[str, int] | None:
    """Name → rank, of a list of names, or of {value, rank}; None for what is no ranking."""
    value = object_in(value)
    if isinstance(value, dict) and {"value", "rank"} <= set(value):  # lists, in tables
        value = [{"value": name, "rank": rank} for name, rank in zip(value["value"], value["rank"])]
    if not isinstance(value, list) or not value:
        return None
    entries = [{"value": each} if isinstance(each, str) else each for each in value]
    if not all(isinstance(each, dict) and isinstance(each.get("value"), str) for each in entries):
        return None
    by_place = ranks_by_place([entry["value"] for entry in entries])
    if all(entry.get("rank") is None for entry in entries):
        return by_place
    return {each["value"]: each["rank"] for each in entries if each.get("rank") is not None}


def _answers(columns: dict, rankings: list[dict | None], own: dict) -> list[str]:
    """The fields that are ranked, in the order of their numbers.

    A field that is empty in a record of others was no answer.
    """
    named = {name for rank_of in rankings for name in rank_of or ()}
    texts = [name for name, value in columns.items() if isinstance(value, str | list)]
    stems = {stem(name) for name in named if stem(name) != name.lower()}
    found = [name for name in texts if name in named or stem(name) in stems] or numbered(texts)
    if not own:
        found = [name for name in found if columns[name]]
    return sorted(found, key=lambda name: (len(name), name))
