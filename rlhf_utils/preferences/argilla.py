"""Labels as records of Argilla, of version 1 and 2, nested or flattened, with any questions.

What is written is a record of Argilla 2: a ranking question over the fields response-1, response-2,
…, a name for each rank. It knows no ties, so the ranks stand in the metadata.
"""

import json
import re
import uuid
from collections import defaultdict
from dataclasses import dataclass

from .label_rows import (
    LEFT_OUT,
    MARK,
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


@dataclass
class Given:
    """What one user said to one question."""

    question: str
    value: object
    user: object = None
    status: str | None = None
    rank_of: dict[str, int] | None = None  # of the fields, if this is the ranking


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


def read(record: dict) -> list[dict | ValueError]:
    """A row for each user: a ranking, a skip where it was discarded, left out where a draft.

    In place of a bad row there is the error.
    """
    columns = record["fields"] if isinstance(record.get("fields"), dict) else record
    given, own = _given(record), _own(record)
    if not given:  # as older versions wrote a skip; of others nobody has judged it
        if not own:
            return [{LEFT_OUT: "not judged yet"}]
        given = [Given(QUESTION, None, own.get("annotator"), "discarded")]
    _find_rankings(given, columns)
    answers = _answers(columns, given, own)
    base = {
        "prompt": find_prompt({name: columns[name] for name in columns if name not in answers}),
        "responses": [columns[name] for name in answers],
    }
    rows = []
    for user, said in _by_user(given).items():
        try:
            rows.append(base | _said(said, answers, _by_whom(user, own)))
        except ValueError as error:
            rows.append(error)
    return rows


def _said(said: list[Given], answers: list[str], who: dict) -> dict:
    """What one user made of the record. Our own columns stay if the ranking is as we wrote it."""
    statuses = {each.status for each in said}
    rank_of = next((each.rank_of for each in said if each.rank_of), None)
    if "draft" in statuses:
        return {LEFT_OUT: "still a draft"}
    if "discarded" in statuses or rank_of is None:
        return who | {"kind": "skip", "ranks": []}
    ranks = ranks_of(answers, rank_of)
    before = who.get("ranks", ranks)  # older versions did not write them
    untouched = len(before) == len(ranks) and (
        ranks == before or _best_first(answers, ranks) == _best_first(answers, before)
    )
    return who | {"ranks": before} if untouched else {"annotator": who["annotator"], "ranks": ranks}


def _by_whom(user, own: dict) -> dict:
    """Our own columns if this user is our annotator, else just the user."""
    name = own.get("annotator")
    if isinstance(name, str) and user in (None, name, user_id(name)):
        return dict(own)
    return {"annotator": user}


def _own(record: dict) -> dict:
    metadata = record.get("metadata")
    if isinstance(metadata, str):  # version 1 keeps it as JSON in tables
        metadata = object_in(metadata)
    holders = [each for each in (metadata, record) if isinstance(each, dict)]
    for holder in holders:  # flattening puts the metadata among the record's columns
        if own := trusted(holder.get(MARK)) or trusted(holder):
            return own
    return {}


def _by_user(given: list[Given]) -> dict[object, list[Given]]:
    found = defaultdict(list)
    for each in given:
        found[each.user].append(each)
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
        if not len(values) == len(users) == len(statuses):
            raise ValueError(f"{column!r:.60}, its .users and its .status are not of one length")
        for value, user, status in zip(values, users, statuses):
            found.append(Given(question, value, user, status))
    return found


# --- which question ranks, and what


def _find_rankings(given: list[Given], columns: dict) -> None:
    """Gives each answer to the one question that ranks fields its `rank_of`.

    Raises ValueError if there are several such questions, or none though something was said.
    """
    fields = {_plain(name): name for name in columns}
    rankings: dict[str, list] = defaultdict(list)  # by question
    for each in given:
        rank_of = _rank_of(each.value)
        if rank_of and {_plain(name) for name in rank_of} <= set(fields):
            named = {fields[_plain(name)]: rank for name, rank in rank_of.items()}
            rankings[each.question].append((each, named))
    if len(rankings) > 1 and QUESTION not in rankings:
        raise ValueError(
            f"{len(rankings)} questions rank the answers, {told(sorted(rankings))}: call the one "
            f"that counts {QUESTION!r}"
        )
    said = sorted({each.question for each in given if each.value is not None})
    if said and not rankings:
        raise ValueError(
            f"none of the questions, {told(said)}, ranks the fields of the record; ratings and "
            "labels are no ranking"
        )
    question = QUESTION if QUESTION in rankings else next(iter(rankings), "")
    for each, named in rankings[question]:
        each.rank_of = named


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


def _answers(columns: dict, given: list[Given], own: dict) -> list[str]:
    """The fields that are ranked, in the order of their numbers.

    A field that is empty in this record was no answer, and loses its rank.
    """
    named = {name for each in given for name in each.rank_of or ()}
    texts = [name for name, value in columns.items() if isinstance(value, str | list)]
    stems = {stem(name) for name in named if stem(name) != name.lower()}
    found = [name for name in texts if name in named or stem(name) in stems] or numbered(texts)
    if not own:
        found = [name for name in found if columns[name]]
    for each in given:
        if each.rank_of:
            filled = {name: rank for name, rank in each.rank_of.items() if name in found}
            each.rank_of = filled
    return sorted(found, key=lambda name: (len(name), name))
