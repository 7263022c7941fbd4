"""One label as a row: its types are checked, and only what this suite wrote is trusted.

Readers of other tools' files make rows of a few columns: `prompt`, `responses`, `ranks`, an
`annotator` and what they understand. Other columns of such a file may have a name of ours and mean
something else.
"""

import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime

from ..data.conversations import ROLES, conversation
from .pairs import IMPORTED, KINDS, Judgement, item_id
from .store import FIELDS, judgement_row

MARK, VERSION = "rlhf_utils", 1  # a column that says: this suite wrote the others
LEFT_OUT = "left_out"  # the column of a row that is no judgement: why it is none
RANKED = ("prompt", "responses", "ranks")
ANNOTATORS = ("annotator", "worker", "user", "annotator_id", "worker_id", "user_id", "labeler")
PROMPTS = (
    "prompt",
    "instruction",
    "question",
    "query",
    "conversation",
    "messages",
    "text",
    "input",
)
LATEST = 4102444800  # 2100-01-01, in seconds since 1970; milliseconds are beyond


# --- what this suite wrote


def whole_row(judgement: Judgement) -> dict:
    """A judgement with the store's columns and the mark."""
    return {MARK: VERSION} | judgement_row(judgement)


def about(judgement: Judgement) -> dict:
    """All but the texts, to go along in another tool's metadata."""
    row = whole_row(judgement)
    return {column: row[column] for column in row if column not in ("prompt", "responses")}


def trusted(row: object) -> dict:
    """The store's columns of a row that this suite wrote, `item_id` left out; else nothing."""
    if isinstance(row, str):
        row = object_in(row)
    if not isinstance(row, dict):
        return {}
    before_the_mark = set(FIELDS) - set(RANKED) <= set(row)  # older versions wrote all columns
    if row.get(MARK) is None and not before_the_mark:
        return {}
    return {column: row[column] for column in FIELDS if column in row and column != "item_id"}


def object_in(text: str) -> object:
    """What a text holds as JSON; None for any other text."""
    try:
        return json.loads(text)
    except ValueError:
        return None


# --- row → judgement


def judgement_of(row: dict) -> Judgement:
    """The judgement of a row. Raises ValueError, which says in words what is wrong."""
    values = {"annotator": "imported", "session": IMPORTED}
    for column in RANKED:
        if row.get(column) is None:
            raise ValueError(f"column {column!r} is missing")
    for column, check in CHECKS.items():
        if row.get(column) is not None:
            values[FIELDS[column]] = check(column, row[column])
    answers = values["answers"]
    values.setdefault("shown_order", list(range(len(answers))))
    judgement = Judgement(item_id=item_id(values["prompt"], answers), **values)
    judgement.check()
    return judgement


def _refuse(column: str, value, must: str) -> ValueError:
    return ValueError(f"{column}={value!r:.60} must be {must}")


def _text(column: str, value) -> str:
    if not isinstance(value, str):
        raise _refuse(column, value, "a text")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{column}={value!r:.60} holds half a character: surrogates come in pairs")
    return value


def _name(column: str, value) -> str:
    """A text without null bytes; whole numbers count as names, since other tools number people."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is int:
        value = str(value)
    if "\0" in _text(column, value):
        raise _refuse(column, value, "a text without null bytes")
    return value


def _prompt(column: str, value) -> str:
    text = _text(column, prompt_text(value))
    if not text.strip():
        raise _refuse(column, text, "a text that is not empty")
    return text


def _answers(column: str, value) -> list[str]:
    if not isinstance(value, list):
        raise _refuse(column, value, "a list of texts")
    answers = []
    for number, answer in enumerate(value, 1):
        answer = answer_text(answer)
        if not isinstance(answer, str):
            raise ValueError(f"the responses must be texts, but number {number} is {answer!r:.60}")
        answers.append(_text(column, answer))
    if len(answers) < 2:
        raise ValueError(f"{len(answers)} responses: at least 2 can be compared")
    return answers


def _texts(column: str, value) -> list[str]:
    if not isinstance(value, list):
        raise _refuse(column, value, "a list of texts")
    return [_text(column, each) for each in value]


def _whole_numbers(column: str, value) -> list[int]:
    """Of floats only whole ones count: pandas and parquet write 1.0 for 1."""
    if not isinstance(value, list):
        raise _refuse(column, value, "a list of whole numbers")
    numbers = []
    for each in value:
        whole = type(each) is int or (isinstance(each, float) and each.is_integer())
        if not whole:
            raise _refuse(column, value, "whole numbers")
        numbers.append(int(each))
    return numbers


def _number(column: str, value) -> float:
    """A finite number; tables of text hold it as text."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise _refuse(column, value, "a number") from None
    whole = type(value) is int and abs(value) < 10**15
    if not whole and not (isinstance(value, float) and math.isfinite(value)):
        raise _refuse(column, value, "a number")
    return float(value)


def _share(column: str, value) -> float:
    if not 0 <= _number(column, value) <= 1:
        raise _refuse(column, value, "from 0 to 1")
    return float(value)


def _seconds(column: str, value) -> float:
    """Seconds since 1970; a date in ISO 8601 counts as UTC unless it says otherwise."""
    must = "seconds since 1970, or a time such as 2026-05-01T10:00:00Z"
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise _refuse(column, value, must) from None
    if isinstance(value, datetime):
        value = (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if not 0 <= _number(column, value) <= LATEST:
        raise _refuse(column, value, must)
    return float(value)


def _kind(column: str, value) -> str:
    if value not in KINDS:
        raise _refuse(column, value, f"one of {', '.join(KINDS)}")
    return value


CHECKS: dict[str, Callable] = {
    "prompt": _prompt,
    "responses": _answers,
    "ranks": _whole_numbers,
    "shown_order": _whole_numbers,
    "annotator": _name,
    "session": _name,
    "note": _text,
    "uid": _name,
    "kind": _kind,
    "flags": _texts,
    "confidence": _share,
    "margin": _number,
    "shown_at": _seconds,
    "submitted_at": _seconds,
}


# --- texts and people in other tools' records


def messages(value) -> list[dict]:
    """A list of messages as {"role", "content"}, their content a text. Raises ValueError."""
    found = []
    for turn in value if isinstance(value, list) else [value]:
        role = turn.get("role") if isinstance(turn, dict) else None
        if role not in ROLES:
            raise ValueError(f"{turn!r:.60} is no message of {', '.join(ROLES)}")
        found.append({"role": role, "content": _content(turn.get("content"))})
    if not found:
        raise ValueError("a conversation has no messages")
    return found


def _content(content) -> str:
    """The text of a message, which may come in parts."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        if all(isinstance(part, str) for part in parts):
            return "\n".join(parts)
    if not isinstance(content, str):
        raise ValueError(f"a message holds {content!r:.60}, which is no text")
    return content


def prompt_text(value):
    """A list of messages as one text; any other value as it is."""
    return conversation(messages(value)) if isinstance(value, list) else value


def answer_text(value):
    """The text of a list of messages of the assistant; any other value as it is."""
    if not isinstance(value, list):
        return value
    turns = messages(value)
    return turns[0]["content"] if len(turns) == 1 else conversation(turns)


def find_prompt(columns: dict) -> str:
    """The prompt among the columns that are no answers. Raises ValueError.

    A system message and the text that a question is about belong to it.
    """
    name = next((name for name in PROMPTS if columns.get(name)), None)
    if name is None:
        raise ValueError(f"column 'prompt' is missing; there are {sorted(columns)}")
    value, system = columns[name], columns.get("system")
    for other in ("input", "context"):
        if other != name and isinstance(value, str) and isinstance(columns.get(other), str):
            value = f"{value}\n\n{columns[other]}".rstrip()
    if isinstance(value, str) and isinstance(system, str) and system:
        value = [{"role": "system", "content": system}, {"role": "user", "content": value}]
    return prompt_text(value)


def annotator_in(record: dict):
    """Who judged, by the first column that tells; None if none does."""
    return next((record[name] for name in ANNOTATORS if record.get(name) not in (None, "")), None)


NUMBER = re.compile(r"([-_ ]?\d+|[-_ ][a-fA-F]|(?<=[a-z])[A-F])$")


def stem(name: str) -> str:
    """What is left of `response-1` or `answer_b` without its number."""
    return NUMBER.sub("", name).lower()


def numbered(names: list[str]) -> list[str]:
    """The names that differ only in a number, in its order; the largest group of them."""
    groups: dict[str, list[str]] = {}
    for name in names:
        if NUMBER.search(name):
            groups.setdefault(stem(name), []).append(name)
    found = max(groups.values(), key=len, default=[])
    return sorted(found, key=lambda name: (len(name), name))  # response-10 after response-9


def told(names) -> str:
    """Names from a file, as an error tells them."""
    return f"{', '.join(repr(name) for name in names):.80}"


def ranks_by_place(names: list) -> dict[str, int]:
    """Name → rank, from names with the best first. Raises ValueError for one that comes twice."""
    rank_of = {str(name): place for place, name in enumerate(names, 1)}
    if len(rank_of) < len(names):
        raise ValueError(f"an answer comes twice in the ranking {names!r:.60}")
    return rank_of


def ranks_of(names: list[str], rank_of: dict[str, int]) -> list[int]:
    """The rank of each answer. Raises ValueError for one without, or one that is not there."""
    missing = [name for name in names if name not in rank_of]
    unknown = [name for name in rank_of if name not in names]
    if missing:
        raise ValueError(f"the ranking leaves out {missing[0]!r:.60}")
    if unknown:
        raise ValueError(f"the ranking names {unknown[0]!r:.60}, which is no answer")
    return [rank_of[name] for name in names]
