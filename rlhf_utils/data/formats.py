"""Forms of rows: TRL's, messages, ShareGPT, Alpaca, Dolly, HH, UltraFeedback → the suite's columns.

A row becomes `prompt` (a plain text or a whole conversation) with `completion`, or with `chosen`
and `rejected`; other columns stay. A form that is not known is never guessed: ValueError gives the
reason.
"""

import re
from collections import Counter

from .columns import check_columns
from .conversations import check_letters, conversation, described, turns_of

REQUIRED = {
    "demonstrations": ("prompt", "completion"),
    "prompts": ("prompt",),
    "heldout": ("prompt",),
    "preferences": ("prompt", "chosen", "rejected"),
}

# what others call a column; `input` is a prompt only where nothing else is
ALIASES = {
    "prompt": ("instruction", "question", "query", "input"),
    "completion": ("response", "output", "answer"),
    "chosen": (),
    "rejected": (),
}
CONTEXTS = ("input", "context")  # what an instruction or question is about
SYSTEMS = ("system", "system_prompt")
DIALOGUES = ("messages", "conversations", "conversation")
KTO_LABELS = ("label", "kto_tag")
NO_TEXTS = ("tools", "image", "images", "videos", "audios")
KNOWN = {*ALIASES, *ALIASES["prompt"], *ALIASES["completion"]}
KNOWN |= {*CONTEXTS, *SYSTEMS, *DIALOGUES, *KTO_LABELS, *NO_TEXTS, "history", "category"}


def recognise(row: dict, kind: str, notes: Counter | None = None) -> dict:
    """The row with the columns of its `kind`, a key of REQUIRED, as texts.

    Counts in `notes` what was renamed or put together. Raises ValueError with the reason for a row
    that cannot be used.
    """
    if not isinstance(row, dict):
        raise ValueError(f"it is not an object but {described(row)}")
    notes = Counter() if notes is None else notes
    row = _in_small_letters(row, notes)
    for name in NO_TEXTS:
        if row.get(name) not in (None, "", "[]", []):
            raise ValueError(f"it has {name!r}; only texts can be used")
    _rename(row, kind, notes)
    read = _read_pair if kind == "preferences" else _read_answer
    turns = _after_history(row, read(row, kind, notes), notes)
    turns = _after_system(row, turns, notes)
    if not turns or turns[-1]["role"] != "user":
        raise ValueError("'prompt' does not end with a turn of the user")
    row["prompt"] = conversation(turns)
    check_letters(row["prompt"])
    _check_filled(row | {"prompt": turns[-1]["content"]}, kind)
    return check_columns(row, kind, notes)


def _check_filled(row: dict, kind: str) -> None:
    """Raises ValueError for empty texts, and for two equal answers."""
    sampled = kind == "preferences" and row.get("item_id")  # `usable_pairs` counts what is odd
    for column in ("prompt",) if sampled else REQUIRED[kind]:
        if not row[column].strip():
            raise ValueError(f"{column!r} is empty")
    if kind == "preferences" and not sampled and row["chosen"].strip() == row["rejected"].strip():
        raise ValueError("'chosen' and 'rejected' are equal")


# --- names


def _in_small_letters(row: dict, notes: Counter) -> dict:
    """A copy of the row in which a column such as "Prompt " has the name that is known here."""
    named = {}
    for name, value in row.items():
        small = name.strip().lower()
        if small != name and small in KNOWN:
            notes[f"{name!r} is read as {small!r}"] += 1
            name = small
        if name in named:
            raise ValueError(f"it has {name!r} twice, once in other letters")
        named[name] = value
    return named


def _rename(row: dict, kind: str, notes: Counter) -> None:
    """Gives the columns that the kind must have TRL's names; the answers' first."""
    for column in reversed(REQUIRED[kind]):
        if row.get(column) is not None or (column == "prompt" and _dialogue(row, kind)):
            continue
        found = [name for name in ALIASES[column] if row.get(name) is not None]
        if len(found) > 1 and found[-1] == "input":
            found.pop()
        if len(found) > 1:
            raise ValueError(f"it has {found[0]!r} and {found[1]!r}: name one of them {column!r}")
        if found:
            row[column] = row.pop(found[0])
            notes[f"{found[0]!r} is read as {column!r}"] += 1
            if column == "prompt":
                _add_context(row, notes)
                return
    for name in CONTEXTS:
        if row.get(name):
            notes[f"{name!r} is no part of 'prompt': the model does not see it"] += 1


def _add_context(row: dict, notes: Counter) -> None:
    """Puts what an instruction is about below it; the column stays, for rewards that read it."""
    for column in CONTEXTS:
        context, prompt = row.get(column) or "", row["prompt"]
        if not isinstance(context, str) or (context and not isinstance(prompt, str)):
            kinds = f"{column!r} is {described(context)} and the prompt {described(prompt)}"
            raise ValueError(f"{kinds}: both must be texts")
        if context.strip():
            row["prompt"] = f"{prompt}\n\n{context}" if prompt.strip() else context
            notes[f"{column!r} is put below the prompt, after a blank line"] += 1


def _filled(row: dict, column: str):
    """What a column that must be there holds."""
    if row.get(column) is not None:
        return row[column]
    if column in row:
        raise ValueError(f"{column!r} is empty")
    names = str(sorted(name[:60] for name in row))[:300]
    if column in ("chosen", "rejected"):
        names += "; name the better answer 'chosen' and the other 'rejected'"
    raise ValueError(f"column {column!r} is missing; it has {names}")


# --- turns


def _turns(value, column: str, role: str | None, notes: Counter) -> list[dict]:
    """What a column holds; a text is a turn of `role`, or a dialogue as HH has it."""
    try:
        if isinstance(value, str) and value.lstrip().startswith("Human:"):
            messages = _hh_messages(value)
            if len(messages) > 1 or value.startswith("\n\n"):
                notes[f"{column!r} is read as a dialogue of Human and Assistant"] += 1
                value = messages
        return turns_of(value, role)
    except ValueError as error:
        raise ValueError(f"{column!r}: {error}") from None


def _hh_messages(text: str) -> list[dict]:
    """The messages of "\\n\\nHuman: …\\n\\nAssistant: …"; an answer that is only begun is none."""
    _, *pieces = re.split(r"\n\n(Human|Assistant):", "\n\n" + text.strip())
    messages = []
    for who, said in zip(pieces[::2], pieces[1::2]):
        role = "user" if who == "Human" else "assistant"
        messages.append({"role": role, "content": said.strip()})
    if messages[-1] == {"role": "assistant", "content": ""}:
        messages.pop()
    return messages


def _after_history(row: dict, turns: list[dict], notes: Counter) -> list[dict]:
    """The turns after those of `history`, LlamaFactory's list of [question, answer]."""
    history = row.get("history") or []
    earlier = []
    for pair in history if isinstance(history, list) else [history]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError(f"'history' is {described(history)}, not a list of [question, answer]")
        earlier += _turns(pair[0], "history", "user", notes)
        earlier += _turns(pair[1], "history", "assistant", notes)
    if earlier:
        notes["'history' is put before the prompt"] += 1
    return earlier + turns


def _after_system(row: dict, turns: list[dict], notes: Counter) -> list[dict]:
    """The turns after the system message that a column of the row holds."""
    for column in SYSTEMS:
        if not str(row.get(column) or "").strip():
            continue
        system = _turns(row[column], column, "system", notes)
        if not turns or turns[0]["role"] != "system":
            notes[f"{column!r} is put before the prompt as a system message"] += 1
            turns = system + turns
        elif turns[:1] != system:
            raise ValueError(f"it has a system message and another in {column!r}")
    return turns


# --- what is asked, and answers


def _dialogue(row: dict, kind: str) -> str | None:
    """The column of messages that says what is asked, if no `prompt` does.

    Demonstrations with a `prompt` but no answer have it there, too, as UltraChat does.
    """
    if row.get("prompt") is not None and (kind != "demonstrations" or row.get("completion")):
        return None
    return next((name for name in DIALOGUES if row.get(name)), None)


def _asked(row: dict, kind: str, notes: Counter) -> list[dict]:
    """The turns before the answer. An answer that ends a dialogue goes to `completion`."""
    column = _dialogue(row, kind)
    if not column:
        return _turns(_filled(row, "prompt"), "prompt", "user", notes)
    messages = row.pop(column)
    turns = _turns(messages, column, None, notes)
    said = [turn["content"].strip() for turn in turns]
    for turn in _turns(row["prompt"], "prompt", "user", notes) if row.get("prompt") else []:
        if turn["content"].strip() not in said:
            raise ValueError(f"'prompt' is no part of {column!r}: take one of them out")
    if kind != "preferences" and turns and turns[-1]["role"] == "assistant":
        if row.get("completion") is not None:
            raise ValueError(f"it has an answer in {column!r} and another in 'completion'")
        if isinstance(messages, list) and messages[-1].get("weight") == 0:
            raise ValueError(f"the last answer in {column!r} has the weight 0: none to learn from")
        row["completion"] = turns.pop()["content"]
    elif kind == "demonstrations" and row.get("completion") is None:
        raise ValueError(f"{column!r} does not end with an answer of the assistant")
    return turns


def _read_answer(row: dict, kind: str, notes: Counter) -> list[dict]:
    """The turns before the answer, which goes to `completion`."""
    asked = _asked(row, kind, notes)
    if kind != "demonstrations":
        return asked
    for name in KTO_LABELS:
        if str(row.get(name)).lower() == "false":
            raise ValueError(
                f"its {name!r} is false: an answer that was disliked is none to imitate"
            )
    said = _turns(_filled(row, "completion"), "completion", "assistant", notes)
    *asked, answer = _joined(asked, said, "completion")
    row["completion"] = answer["content"]
    return asked


def _read_pair(row: dict, kind: str, notes: Counter) -> list[dict]:
    """The turns that both sides share; their last turns go to `chosen` and `rejected`."""
    sides = {"chosen": _filled(row, "chosen"), "rejected": _filled(row, "rejected")}
    for column, said in sides.items():
        if row.get("item_id") and isinstance(said, str):  # sampled by 02: it stays as it stands
            sides[column] = [{"role": "assistant", "content": said}]
        else:
            sides[column] = _turns(said, column, "assistant", notes)
    whole = all(side[:1] and side[0]["role"] != "assistant" for side in sides.values())
    asked = [] if whole and row.get("prompt") is None else _asked(row, kind, notes)
    for column, said in sides.items():
        *sides[column], answer = _joined(asked, said, column)
        row[column] = answer["content"]
    if sides["chosen"] != sides["rejected"]:
        raise ValueError("'chosen' and 'rejected' part before their last answers")
    return sides["chosen"]


def _joined(asked: list[dict], said: list[dict], column: str) -> list[dict]:
    """The whole dialogue that ends with an answer; what is said may repeat what was asked."""
    if not said or said[-1]["role"] != "assistant":
        raise ValueError(f"{column!r} does not end with an answer of the assistant")
    if said[0]["role"] == "assistant" or not asked:
        return asked + said
    if asked[0]["role"] == "system" and said[0]["role"] != "system":
        said = [asked[0], *said]
    elif said[0]["role"] == "system" and asked[0]["role"] != "system":
        asked = [said[0], *asked]
    begin = [(turn["role"], turn["content"].strip()) for turn in said[: len(asked)]]
    if begin != [(turn["role"], turn["content"].strip()) for turn in asked]:
        raise ValueError(f"{column!r} is a dialogue that does not begin with the prompt")
    return said
