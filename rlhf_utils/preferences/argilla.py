"""Labels as records of Argilla, of version 1 and 2, nested or flattened, with any questions.

What is written is a record of Argilla 2: a ranking question over the fields response-1, response-2,
…, a name for each rank. It knows no ties, so the ranks stand in the metadata.
"""

import json
import re
import uuid
from dataclasses import dataclass

from .label_rows import (
    LEFT_OUT,
    MARK,
    about,
    find_prompt,
    numbered,
    ranks_by_place,
    ranks_of,
    stem,
    trusted,
)
from .pairs import Judgement

PEOPLE = uuid.UUID("7b0c2f0e-4d1f-5e0c-9f0a-5a1b7c1d2e3f")  # the namespace of users' ids
QUESTION = "ranking"


@dataclass
class Given:
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
    return isinstance(record.get("fields"), dict) or bool(_questions_in_columns(record))


def read(record: dict) -> list[dict]:
    """A row for each user: a ranking, a skip where it was discarded, left out where a draft."""
    columns = record["fields"] if isinstance(record.get("fields"), dict) else record
    given, own = _given(record), _own(record)
    if not given:  # as older versions wrote a skip; of others nobody has judged it
        if not own:
            return [{LEFT_OUT: "without a response"}]
        given = [Given(QUESTION, None, own.get("annotator"), "discarded")]
    rankings = _rankings(given, columns)
    answers = _answers(columns, rankings, own)
    base = {
        "prompt": find_prompt({name: columns[name] for name in columns if name not in answers}),
        "responses": [columns[name] for name in answers],
    }
    rows = []
    for user, said in _by_user(given).items():
        statuses = {each.status for each in said}
        rank_of = next((rankings[id(each)] for each in said if id(each) in rankings), None)
        if "draft" in statuses:
            rows.append({LEFT_OUT: "only drafts"})
        elif "discarded" in statuses or rank_of is None:
            rows.append(base | _by_whom(user, own) | {"kind": "skip", "ranks": []})
        else:
            rows.append(base | _ranked(answers, rank_of, columns, user, own))
    return rows


def _ranked(answers: list[str], rank_of: dict, columns: dict, user, own: dict) -> dict:
    """The columns of one user's ranking: our own, ties and all, if it stands as we wrote it."""
    empty = {name for name in rank_of if name in columns and name not in answers}
    ranks = ranks_of(answers, {name: rank_of[name] for name in rank_of if name not in empty})
    mine = _by_whom(user, own)
    before = mine.get("ranks")
    if before and len(before) == len(answers):
        if ranks == before or _best_first(answers, before) == _best_first(answers, ranks):
            return mine
    return {"annotator": mine.get("annotator", user), "ranks": ranks}


def _by_whom(user, own: dict) -> dict:
    """Our own columns if this user is our annotator, else just the user."""
    name = own.get("annotator")
    if isinstance(name, str) and user in (None, name, user_id(name)):
        return dict(own)
    return {"annotator": user}


def _own(record: dict) -> dict:
    metadata = record.get("metadata")
    if isinstance(metadata, str):  # version 1 keeps it as JSON in tables
        metadata = json.loads(metadata) if metadata.startswith("{") else None
    for holder in (metadata, record):  # flattening puts it among the record's columns
        if isinstance(holder, dict):
            if own := trusted(holder.get(MARK)) or trusted(holder):
                return own
    return {}


def _by_user(given: list[Given]) -> dict[object, list[Given]]:
    found: dict[object, list[Given]] = {}
    for each in given:
        found.setdefault(each.user, []).append(each)
    return found


# --- the shapes of responses


def _given(record: dict) -> list[Given]:
    responses = record.get("responses")
    if isinstance(responses, list):  # version 1
        return [each for response in responses for each in _of_user(response)]
    if isinstance(responses, dict):  # version 2
        found = []
        for question, entries in responses.items():
            found += [_of_entry(question, entry) for entry in entries or []]
        return found
    return _of_columns(record)


def _of_user(response: dict) -> list[Given]:
    who = (response.get("user_id"), response.get("status"))
    values = response.get("values") or {}
    found = [Given(name, answer["value"], *who) for name, answer in values.items() if answer]
    return found or [Given("", None, *who)]


def _of_entry(question: str, entry: dict) -> Given:
    return Given(question, entry.get("value"), entry.get("user_id"), entry.get("status"))


def _questions_in_columns(record: dict) -> list[str]:
    """The questions of a flattened record: `<name>.responses` in version 2, `<name>` in 1."""
    found = [name.removesuffix(".responses") for name in record if name.endswith(".responses")]
    return found or [name for name, value in record.items() if _entries(value)]


def _entries(value) -> list[dict]:
    """A question of version 1 in a table: [{user_id, value, status}], or a dict of such lists."""
    keys = ("user_id", "value", "status")
    if isinstance(value, dict) and set(keys) <= set(value):
        return [dict(zip(keys, entry)) for entry in zip(*(value[key] or [] for key in keys))]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return value if set(keys) <= set(value[0]) else []
    return []


def _of_columns(record: dict) -> list[Given]:
    found = []
    for question in _questions_in_columns(record):
        column = f"{question}.responses"
        if column not in record:
            found += [_of_entry(question, entry) for entry in _entries(record[question])]
            continue
        values = record[column] or []
        users = record.get(f"{column}.users") or [None] * len(values)
        statuses = record.get(f"{column}.status") or [None] * len(values)
        for value, user, status in zip(values, users, statuses, strict=True):
            found.append(Given(question, value, user, status))
    return found


# --- which question ranks, and what


def _rankings(given: list[Given], columns: dict) -> dict[int, dict[str, int]]:
    """id of a Given → field → rank, of the one question that ranks fields.

    Raises ValueError if there are several, or none though something was said.
    """
    fields = {_plain(name): name for name in columns}
    by_question: dict[str, dict] = {}
    for each in given:
        rank_of = _rank_of(each.value)
        if rank_of and {_plain(name) for name in rank_of} <= set(fields):
            named = {fields[_plain(name)]: rank for name, rank in rank_of.items()}
            by_question.setdefault(each.question, {})[id(each)] = named
    if QUESTION in by_question or len(by_question) == 1:
        return by_question.get(QUESTION) or next(iter(by_question.values()))
    if by_question:
        raise ValueError(
            f"{len(by_question)} questions rank the answers, {', '.join(sorted(by_question))}: "
            f"call the one that counts {QUESTION!r}"
        )
    said = sorted({each.question for each in given if each.value is not None})
    if said:
        raise ValueError(
            f"none of the questions ({', '.join(said)}) ranks the record's fields; ratings and "
            "labels are no ranking"
        )
    return {}


def _plain(name: str) -> str:
    """So that an option `response-1` names the field `response1`."""
    return re.sub(r"[-_ ]", "", name).lower()


def _rank_of(value) -> dict[str, int] | None:
    """Name → rank, of a list of names, or of {value, rank}; None for what is no ranking."""
    if isinstance(value, dict) and {"value", "rank"} <= set(value):  # lists, in tables
        value = [{"value": name, "rank": rank} for name, rank in zip(value["value"], value["rank"])]
    if not isinstance(value, list) or not value:
        return None
    if all(isinstance(entry, str) for entry in value):
        return ranks_by_place(value)
    if not all(isinstance(entry, dict) and isinstance(entry.get("value"), str) for entry in value):
        return None
    by_place = ranks_by_place([entry["value"] for entry in value])
    if all(entry.get("rank") is None for entry in value):
        return by_place
    return {entry["value"]: entry.get("rank") for entry in value}


def _answers(columns: dict, rankings: dict, own: dict) -> list[str]:
    """The fields that are ranked, in the order of their numbers.

    A field that is empty in this record was no answer, whatever rank it got.
    """
    named = {name for rank_of in rankings.values() for name in rank_of}
    texts = [name for name, value in columns.items() if isinstance(value, str | list)]
    if named:
        stems = {stem(name) for name in named if stem(name) != name.lower()}
        found = [name for name in texts if name in named or stem(name) in stems]
    else:
        found = numbered(texts)
    if not own:
        found = [name for name in found if columns[name]]
    return sorted(found, key=lambda name: (len(name), name))
