"""One label as a row: its types are checked, and only what this suite wrote is trusted.

Readers of other tools' files make rows of a few columns: `prompt`, `responses`, `ranks`, an
`annotator` and what they understand. Other columns of such a file may have a name of ours and mean
something else.
"""

import ast
import json
import re
import warnings
from collections.abc import Callable
from datetime import UTC, datetime

from ..data.columns import number
from ..data.conversations import (
    check_letters,
    conversation,
    described,
    turn_of,
    turns_of,
)
from .pairs import IMPORTED, KINDS, Judgement, item_id
from .store import FIELDS, judgement_row

ENDINGS = (".jsonl", ".parquet")
MARK, VERSION = "rlhf_utils", 1  # a column that says: this suite wrote the others
Row = dict | str | ValueError  # of one label; why there is none; or what is wrong with it
RANKED = ("prompt", "responses", "ranks")
PEOPLE = ("annotator", "worker", "user", "labeler", "rater", "participant", "judge", "prolific_pid")
ASKED = ("prompt", "instruction", "question", "query")
PROMPTS = (*ASKED, "conversation", "messages", "chat", "text", "input")
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
LATEST = 4102444800  # 2100-01-01, in seconds since 1970; milliseconds are beyond


# --- what this suite wrote


def write(judgement: Judgement) -> list[dict]:
    """One row: the store's columns and the mark."""
    return [{MARK: VERSION} | judgement_row(judgement)]


def about(judgement: Judgement) -> dict:
    """All but the texts, to go along in another tool's metadata."""
    (row,) = write(judgement)
    return {column: row[column] for column in row if column not in ("prompt", "responses")}


def fits(record: dict) -> bool:
    return True


def read(record: dict) -> list[Row]:
    """A row as it stands. A uid counts only in our own files: other tools have other uids.

    In tables nothing is an empty text.
    """
    others = {name: value for name, value in record.items() if name != "uid" and value != ""}
    return [trusted(record) or others]


def trusted(row: object) -> dict:
    """The store's columns of a row that this suite wrote, `item_id` left out; else nothing."""
    row = object_in(row)
    if not isinstance(row, dict):
        return {}
    before_the_mark = set(FIELDS) - set(RANKED) <= set(row)  # older versions wrote all columns
    if not row.get(MARK) and not before_the_mark:
        return {}
    return {column: row[column] for column in FIELDS if column in row and column != "item_id"}


def object_in(value: object) -> object:
    """The list or object that a text holds, as JSON or as Python writes it; else the value."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        with warnings.catch_warnings(action="ignore"):  # of the compiler, about other texts
            return _parsed(value, json.loads, ast.literal_eval)
    return value


def _parsed(text: str, *parsers: Callable) -> object:
    """What the first parser that can makes of a text; else the text."""
    for parse in parsers:
        try:
            return parse(text)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            pass
    return text


# --- row → judgement


def judgement_of(row: dict) -> Judgement:
    """The judgement of a row. Raises ValueError, which says in words what is wrong."""
    for column in RANKED:
        if row.get(column) is None:
            there = told(sorted(map(str, row)))
            raise ValueError(f"column {column!r} is missing; there are {there}")
    values = {"annotator": "imported", "session": IMPORTED} | fields_of(row)
    answers = values["answers"]
    values.setdefault("shown_order", list(range(len(answers))))
    judgement = Judgement(item_id=item_id(values["prompt"], answers), **values)
    judgement.check()
    return judgement


def fields_of(row: dict) -> dict:
    """Fields of a Judgement, from the columns of the store that a row has. Raises ValueError."""
    fields = {}
    for column, read in READERS.items():
        if row.get(column) is not None:
            fields[FIELDS[column]] = read(column, row[column])
    return fields


def _refuse(column: str, value, must: str) -> ValueError:
    return ValueError(f"{column}={value!r:.60} must be {must}")


def _text(column: str, value) -> str:
    if not isinstance(value, str):
        raise _refuse(column, value, "a text")
    try:
        check_letters(value)
    except ValueError as error:
        raise ValueError(f"{column}: {error}") from None
    return value


def _name(column: str, value) -> str:
    """A text that steers no terminal; whole numbers are names, since other tools number people."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is int:
        value = str(value)
    if CONTROL.search(_text(column, value)):
        raise _refuse(column, value, "a text without control characters")
    return value


def _prompt(column: str, value) -> str:
    text = _text(column, prompt_text(value))
    if not text.strip():
        raise _refuse(column, text, "a text that is not empty")
    turns_of(text, "user")  # refuses marks that are not ours
    return text


def _list(column: str, value, of: str) -> list:
    found = object_in(value)  # tables hold it as text
    if not isinstance(found, list):
        raise _refuse(column, value, f"a list of {of}")
    return found


def _answers(column: str, value) -> list[str]:
    answers = [_answer(each) for each in _list(column, value, "texts")]
    for answer in answers:  # a model may write NUL
        _text("a response", answer.replace("\0", "") if isinstance(answer, str) else answer)
    if len(answers) < 2:
        raise ValueError(f"{len(answers)} responses: at least 2 can be compared")
    return answers


def _answer(value):
    """The text of a list with one message of the assistant; any other value as it is."""
    if not isinstance(value, list):
        return value
    turns = dialogue(value)
    if [turn["role"] for turn in turns] != ["assistant"]:
        raise ValueError("a response must be one message of the assistant")
    return turns[0]["content"]


def _texts(column: str, value) -> list[str]:
    return [_text(column, each) for each in _list(column, value, "texts")]


def _whole_numbers(column: str, value) -> list[int]:
    """Of floats only whole ones count: pandas and parquet write 1.0 for 1."""
    numbers = _list(column, value, "whole numbers")
    for each in numbers:
        if type(each) is not int and not (isinstance(each, float) and each.is_integer()):
            raise _refuse(column, value, "whole numbers")
    return [int(each) for each in numbers]


def _seconds(column: str, value) -> float:
    """Seconds since 1970; a date in ISO 8601 counts as UTC unless it says otherwise."""
    time = _parsed(value, float, datetime.fromisoformat) if isinstance(value, str) else value
    if isinstance(time, datetime):
        time = (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    if type(time) not in (int, float) or not 0 <= time <= LATEST:
        raise _refuse(column, value, "seconds since 1970, or a time such as 2026-05-01T10:00:00Z")
    return float(time)


def _kind(column: str, value) -> str:
    if value not in KINDS:
        raise _refuse(column, value, f"one of {', '.join(KINDS)}")
    return value


READERS: dict[str, Callable] = {
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
    "confidence": lambda column, value: number(value, column),
    "margin": lambda column, value: number(value, column),
    "shown_at": _seconds,
    "submitted_at": _seconds,
}


# --- texts and people in other tools' records


def dialogue(value) -> list[dict]:
    """A list of messages as {"role", "content"}. Raises ValueError."""
    value = object_in(value)
    if not isinstance(value, list) or not value or not all(isinstance(m, dict) for m in value):
        raise ValueError(f"a conversation is {described(value)}, not a list of messages")
    return [turn_of(message) for message in value]


def prompt_text(value):
    """A list of messages as one text; any other value as it is."""
    return conversation(dialogue(value)) if isinstance(value, list) else value


def find_prompt(columns: dict) -> str:
    """The prompt among the columns that are no answers. Raises ValueError.

    A system message and the text that a question is about belong to it.
    """
    name = next((name for name in PROMPTS if columns.get(name)), None)
    if name is None:
        raise ValueError(f"column 'prompt' is missing; there are {told(sorted(columns))}")
    value, system = columns[name], columns.get("system")
    for other in ("input", "context"):
        if other != name and isinstance(value, str) and isinstance(columns.get(other), str):
            value = f"{value}\n\n{columns[other]}".rstrip()
    if isinstance(value, str) and isinstance(system, str) and system:
        value = [{"role": "system", "content": system}, {"role": "user", "content": value}]
    return prompt_text(value)


def annotator_in(record: dict):
    """Who judged, by the first column that tells, such as `Worker ID`; None if none does."""
    found = {}
    for name, value in record.items():
        if value not in (None, ""):
            plain = re.sub(r"[-_ ]+", "_", str(name).strip().lower())
            found.setdefault(re.sub("_(id|hash|name)$", "", plain), value)
    return next((found[name] for name in PEOPLE if name in found), None)


NUMBER = re.compile(r"([-_ ]?\d+|[-_ ][a-fA-F]|(?<=[a-z])[A-F]|(?:^|[-_ ])(?:left|right))$")


def stem(name: str) -> str:
    """What is left of `response-1`, `answer_b` or `text_left` without its number."""
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
