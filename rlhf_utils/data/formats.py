"""Forms of rows: TRL's, messages, ShareGPT, Alpaca, Dolly, HH, UltraFeedback → the suite's columns.

A row becomes `prompt` (a plain text or a whole conversation) with `completion`, or with `chosen`
and `rejected`; other columns stay. What a row says in a form that is not known is never guessed:
ValueError gives the reason.
"""

import re
from collections import Counter

from .columns import check_columns
from .conversations import (
    MARK,
    are_messages,
    check_letters,
    conversation,
    described,
    is_message,
    text_of,
    turns_of,
    written_turns,
)

REQUIRED = {
    "demonstrations": ("prompt", "completion"),
    "prompts": ("prompt",),
    "heldout": ("prompt",),
    "preferences": ("prompt", "chosen", "rejected"),
}

# what others call a column; `input` asks only where nothing else does
ALIASES = {
    "prompt": ("instruction", "question", "query"),
    "completion": ("response", "output", "answer"),
    "chosen": (),
    "rejected": (),
}
CONTEXTS = ("input", "context")  # what an instruction or question is about
SYSTEMS = ("system", "system_prompt")
DIALOGUES = ("messages", "conversations", "conversation")

HH_TURN = re.compile(r"\n\n(Human|Assistant):")


def recognise(row: dict, kind: str) -> dict:
    """The row with the columns of its `kind`, a key of REQUIRED, as texts.

    Answers may still be empty. Raises ValueError with the reason for a row of no known form.
    """
    return read_row(row, kind, Counter())


def read_row(row: dict, kind: str, notes: Counter) -> dict:
    """As `recognise`; counts in `notes` what was renamed or put together."""
    if not isinstance(row, dict):
        raise ValueError(f"it is not an object but {described(row)}")
    if row.get("tools") not in (None, "", "[]", []):
        raise ValueError("it has tools; only texts can be used")
    if kind == "demonstrations" and str(row.get("label")).lower() == "false":
        raise ValueError("its 'label' is false: an answer that was disliked is none to imitate")
    row = _renamed(row, kind, notes)
    if kind == "preferences":
        turns = _read_pair(row, notes)
    else:
        turns = _read_answer(row, kind, notes)
    turns = _after_system(row, _after_history(row, turns, notes), notes)
    if not turns or turns[-1]["role"] != "user":
        raise ValueError("'prompt' does not end with a turn of the user")
    if not turns[-1]["content"].strip():
        raise ValueError("'prompt' is empty")
    row["prompt"] = conversation(turns)
    check_letters(row["prompt"])
    return check_columns(row, kind, notes)


def _no_column(row: dict, column: str) -> ValueError:
    if column in row:
        return ValueError(f"{column!r} is empty")
    for name in DIALOGUES:
        if column == "prompt" and name in row:
            return ValueError(f"{name!r} is {described(row[name])}, not a list of messages")
    names = sorted(str(name)[:60] for name in row)
    return ValueError(f"column {column!r} is missing; it has {str(names)[:300]}")


# --- names


def _renamed(row: dict, kind: str, notes: Counter) -> dict:
    """A copy of the row with TRL's names for the columns that its kind must have."""
    row = dict(row)
    for name in CONTEXTS:
        if row.get("prompt") is not None and isinstance(row.get(name), str) and row[name].strip():
            notes[f"{name!r} is no part of 'prompt': the model does not see it"] += 1
    as_written: dict[str, list] = {}  # "prompt" → names such as "Prompt"
    for name in row:
        as_written.setdefault(str(name).strip().lower(), []).append(name)
    for column in REQUIRED[kind]:
        if row.get(column) is not None or (column == "prompt" and _dialogue(row, kind)):
            continue
        name = _other_name(row, column, as_written)
        if name is None and column == "prompt":
            name = next((each for each in as_written.get("input", ()) if row.get(each)), None)
        if name is not None:
            row[column] = row.pop(name)
            notes[f"{name!r} is read as {column!r}"] += 1
            if column == "prompt":
                _add_context(row, notes)
    return row


def _other_name(row: dict, column: str, as_written: dict[str, list]):
    """The name under which the row has `column`, or None."""
    found = []
    for alias in (column, *ALIASES[column]):
        for name in as_written.get(alias, ()):
            if row.get(name) is not None:
                found.append(name)
    if len(found) > 1:
        raise ValueError(f"it has {found[0]!r} and {found[1]!r}: name one of them {column!r}")
    return found[0] if found else None


def _add_context(row: dict, notes: Counter) -> None:
    """Puts what an instruction is about below it: the text in Alpaca's `input`, Dolly's `context`.

    The column stays, for rewards that read it.
    """
    for column in CONTEXTS:
        context = row.get(column)
        if context is None or context == "":
            continue
        if not isinstance(context, str) or not isinstance(row["prompt"], str):
            raise ValueError(
                f"{column!r} is {described(context)} and the prompt {described(row['prompt'])}: "
                "both must be texts"
            )
        if context.strip():
            row["prompt"] = f"{row['prompt']}\n\n{context}"
            notes[f"{column!r} is put below the prompt, after a blank line"] += 1


# --- what is asked


def _dialogue(row: dict, kind: str) -> str | None:
    """The column of messages that says what is asked, if no `prompt` does.

    Demonstrations with a `prompt` but no answer have it there, too, as UltraChat does.
    """
    answers = ("completion", *ALIASES["completion"])
    lacks_answer = kind == "demonstrations" and not any(row.get(name) for name in answers)
    if row.get("prompt") is None or lacks_answer:
        for name in DIALOGUES:
            if isinstance(row.get(name), list) and row[name]:
                return name
    return None


def _asked(row: dict, notes: Counter) -> list[dict]:
    """The turns of the column `prompt`."""
    prompt = row.get("prompt")
    if prompt is None:
        raise _no_column(row, "prompt")
    if isinstance(prompt, str) and prompt.lstrip().startswith("Human:") and "\n\n" in prompt:
        dialogue = _hh_messages(prompt)
        if len(dialogue) > 1 or prompt.startswith("\n\n"):
            notes["'prompt' is read as a dialogue of Human and Assistant"] += 1
            open_end = dialogue[-1]["role"] == "assistant" and not dialogue[-1]["content"]
            return _turns(dialogue[:-1] if open_end else dialogue, "prompt")
    return _turns(prompt, "prompt")


def _turns(value, column: str) -> list[dict]:
    """The turns of a text, a message or a list of them; a text is a turn of its column's role."""
    try:
        if is_message(value):
            value = [value]
        if are_messages(value):
            return turns_of(value)
        text = text_of(value)
        if column == "prompt":
            return written_turns(text)
        if MARK in text:
            raise ValueError("it holds the invisible character U+2063, which marks turns here")
        return [{"role": "assistant", "content": text}]
    except ValueError as error:
        raise ValueError(f"{column!r}: {error}") from None


def _after_history(row: dict, turns: list[dict], notes: Counter) -> list[dict]:
    """The turns after those of `history`, LlamaFactory's list of [question, answer]."""
    history = row.get("history")
    if not isinstance(history, list) or not history:
        return turns
    earlier = []
    for pair in history:
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError("'history' must be a list of [question, answer]")
        for role, text in zip(("user", "assistant"), pair):
            earlier.append({"role": role, "content": _turns(text, "history")[0]["content"]})
    notes["'history' is put before the prompt"] += 1
    return earlier + turns


def _after_system(row: dict, turns: list[dict], notes: Counter) -> list[dict]:
    """The turns after the system message that a column of the row holds."""
    for column in SYSTEMS:
        text = row.get(column)
        if text is None or text == "":
            continue
        if not isinstance(text, str):
            raise ValueError(f"{column!r} is {described(text)}, not a text")
        system = {"role": "system", "content": _turns(text, column)[0]["content"]}
        if not turns or turns[0]["role"] != "system":
            notes[f"{column!r} is put before the prompt as a system message"] += 1
            turns = [system, *turns]
        elif turns[0] != system:
            raise ValueError(f"it has a system message and another in {column!r}")
    return turns


# --- answers


def _read_answer(row: dict, kind: str, notes: Counter) -> list[dict]:
    """The turns before the answer; the answer goes to `completion`."""
    if column := _dialogue(row, kind):
        asked = _turns(row.pop(column), column)
        if asked[-1:] and asked[-1]["role"] == "assistant":
            if kind == "demonstrations" and row.get("completion") is not None:
                raise ValueError(f"it has an answer in {column!r} and another in 'completion'")
            row["completion"] = asked[-1]["content"]
            return asked[:-1]
    else:
        asked = _asked(row, notes)
    if kind != "demonstrations":
        return asked
    if row.get("completion") is None:
        where = f"{column!r} does not end with an answer of the assistant"
        raise ValueError(where) if column else _no_column(row, "completion")
    whole = _joined(asked, _turns(row["completion"], "completion"), "completion")
    if not whole[-1]["content"].strip():
        raise ValueError("'completion' is empty")
    row["completion"] = whole[-1]["content"]
    return whole[:-1]


def _read_pair(row: dict, notes: Counter) -> list[dict]:
    """The turns that both sides share; their last turns go to `chosen` and `rejected`."""
    for column in ("chosen", "rejected"):
        if row.get(column) is None:
            raise _no_column(row, column)
    if column := _dialogue(row, "preferences"):
        asked = _turns(row.pop(column), column)
    else:
        asked = None if _whole_dialogues(row, notes) else _asked(row, notes)
    sides = []
    for column in ("chosen", "rejected"):
        sides.append(_joined(asked, _turns(row[column], column), column))
    shared = 0
    for one, other in zip(sides[0][:-1], sides[1][:-1]):
        if one != other:
            break
        shared += 1
    if any(len(side) != shared + 1 for side in sides):
        raise ValueError("'chosen' and 'rejected' part before their last answers")
    row["chosen"], row["rejected"] = (side[-1]["content"] for side in sides)
    return sides[0][:-1]


def _whole_dialogues(row: dict, notes: Counter) -> bool:
    """Whether the answers hold the prompt: messages, or HH's texts, which become messages."""
    if "prompt" in row:
        return False
    sides = row["chosen"], row["rejected"]
    if all(isinstance(side, str) and "\n\nAssistant:" in side for side in sides):
        row["chosen"], row["rejected"] = map(_hh_messages, sides)
        notes["'chosen' and 'rejected' are read as dialogues of Human and Assistant"] += 1
        return True
    return all(map(are_messages, sides))


def _hh_messages(text: str) -> list[dict]:
    """The messages of "\\n\\nHuman: …\\n\\nAssistant: …"."""
    _, *pieces = HH_TURN.split("\n\n" + text.strip())
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[who], "content": said.strip()}
        for who, said in zip(pieces[::2], pieces[1::2])
    ]


def _joined(asked: list[dict] | None, said: list[dict], column: str) -> list[dict]:
    """The whole dialogue that ends with an answer; what is said may repeat what was asked."""
    if not said or said[-1]["role"] != "assistant":
        raise ValueError(f"{column!r} does not end with an answer of the assistant")
    if asked is None:
        return said
    if said[0]["role"] == "assistant":
        return asked + said
    if asked[0]["role"] == "system" and said[0]["role"] != "system":
        said = [asked[0], *said]
    elif said[0]["role"] == "system" and asked[0]["role"] != "system":
        asked = [said[0], *asked]
    if len(said) <= len(asked) or not all(map(_same, asked, said)):
        raise ValueError(f"{column!r} is a dialogue that does not begin with the prompt")
    return said


def _same(one: dict, other: dict) -> bool:
    return one["role"] == other["role"] and one["content"].strip() == other["content"].strip()
