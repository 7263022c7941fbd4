"""Rows in: prompts, demonstrations and rows of pairs, built in or from a local file or a hub id.

Left out: streaming, images, multi-turn dialogues.
"""

import os
import random
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DataError
from ..files import read_dataset, read_file

BUILTIN = Path(__file__).parent / "builtin"

OTHER_CATEGORIES = ("computing", "messages")  # only among the built-in held-out prompts

# Of the harmful and look-alike prompts; only among the built-in held-out ones.
UNSEEN_TOPICS = ("weapons", "poison", "animals", "blackmail")

FILE_ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet")

REQUIRED = {
    "demonstrations": ("prompt", "completion"),
    "prompts": ("prompt",),
    "heldout": ("prompt",),
    "preferences": ("prompt", "chosen", "rejected"),
}

ALIASES = {"response": "completion", "output": "completion", "instruction": "prompt"}

TURN = "\n\nAssistant:"

MARK = "\u2063"  # invisible; begins each turn of a conversation that is written as one text
ROLES = ("system", "user", "assistant")


@dataclass
class Prompt:
    """What is asked."""

    text: str
    "a plain text, or a whole `conversation`"
    category: str = ""
    key_points: list[str] = field(default_factory=list)
    "what the rubric looks for in an answer; alternatives are separated by |"
    columns: dict = field(default_factory=dict)
    "the row's other columns; a reward function gets them by name"


@dataclass
class Demonstration:
    """A prompt and an answer that a person wrote."""

    prompt: Prompt
    answer: str


# --- load


def load_prompts(source: str, kind: str = "prompts") -> list[Prompt]:
    """The prompts of `source`: "builtin", a .jsonl/.json/.csv/.parquet file, or a hub id.

    `kind` says which built-in file is meant, "prompts" or "heldout". Raises DataError for a prompt
    that comes twice, and for the first row that is not good.
    """
    rows = _load(source, kind)
    first_seen: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        first = first_seen.setdefault(row["prompt"], number)
        if first != number:
            raise DataError(
                f"{source}, row {number} repeats the prompt of row {first}, "
                f"{row['prompt'][:80]!r}: keep one of the two."
            )
    return [prompt_of_row(row) for row in rows]


def load_demonstrations(source: str) -> list[Demonstration]:
    """The demonstrations of `source`, one of those that load_prompts takes, or "crisp".

    "crisp": the built-in ones as they would be if all who wrote them were brief and sure.
    """
    demonstrations = []
    for row in _load("builtin" if source == "crisp" else source, "demonstrations"):
        answer, crisp = row.pop("completion"), row.pop("crisp", None)
        if source == "crisp":
            answer = crisp or answer
        demonstrations.append(Demonstration(prompt_of_row(row), answer))
    return demonstrations


def load_pairs_rows(source: str) -> list[dict]:
    """Rows with `prompt`, `chosen` and `rejected`, from which pair_files.py makes Pairs.

    An answer may still be empty or no text: `usable_pairs` counts those.
    """
    return _load(source, "preferences")


def prompt_of_row(row: dict) -> Prompt:
    known = ("prompt", "category", "key_points")
    others = {column: value for column, value in row.items() if column not in known}
    return Prompt(row["prompt"], row.get("category", ""), row.get("key_points") or [], others)


def _load(source: str, kind: str) -> list[dict]:
    """The recognised rows of one `kind`, a key of REQUIRED."""
    if source == "builtin":
        source = str(BUILTIN / f"{kind}.jsonl")
    path = Path(source).expanduser()
    if path.name.endswith(FILE_ENDINGS):
        rows = read_file(path)
    else:
        advice = "Check the name and the network, or give the path of a local file."
        rows = read_dataset(source, f"Could not load the data set {source!r}", advice)
    if not rows:
        raise DataError(f"{source} holds no rows.")
    return [_check_row(row, kind, f"{source}, row {number}") for number, row in enumerate(rows, 1)]


# --- recognise


def recognise(row: dict, kind: str) -> dict:
    """The row with TRL's column names, and texts where it had messages or whole dialogues."""
    renamed = {}
    for column, value in row.items():
        name = ALIASES.get(column, column)
        renamed[column if name in row else name] = value
    if kind == "preferences" and "prompt" not in renamed:
        renamed = _split_dialogues(renamed)
    for column in REQUIRED[kind]:
        if column in renamed:
            renamed[column] = last_message(renamed[column])
    return renamed


def last_message(value):
    """The content of the last message in TRL's conversational form; any other value unchanged."""
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        return value[-1].get("content")
    return value


def _split_dialogues(row: dict) -> dict:
    """HH-RLHF's form: two whole dialogues ("… Assistant: …") become a prompt and two answers.

    The prompt is all that both share, up to the assistant's last turn in it.
    """
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if not (isinstance(chosen, str) and isinstance(rejected, str)):
        return row
    cut = os.path.commonprefix([chosen, rejected]).rfind(TURN)
    if cut < 0:
        return row
    return row | {
        "prompt": chosen[:cut].removeprefix("\n\nHuman:").strip(),
        "chosen": chosen[cut + len(TURN) :].strip(),
        "rejected": rejected[cut + len(TURN) :].strip(),
    }


def _check_row(row: dict, kind: str, where: str) -> dict:
    if not isinstance(row, dict):
        raise DataError(f"{where} is not an object but {type(row).__name__}.")
    row = recognise(row, kind)
    for column in REQUIRED[kind]:
        if column not in row:
            raise DataError(f"{where} has no column {column!r}; it has {sorted(row)}.")
        if column not in ("chosen", "rejected"):  # usable_pairs counts odd answers
            row[column] = "" if row[column] is None else str(row[column])
            if not row[column].strip():
                raise DataError(f"{where}: {column!r} is empty.")
    if "category" in row:
        row["category"] = str(row["category"] or "")
    points = row.get("key_points") or []
    if not isinstance(points, list) or not all(isinstance(point, str) for point in points):
        raise DataError(f"{where}: 'key_points' is {points!r}, but must be a list of texts.")
    return row


# --- conversations


def conversation(messages: list[dict]) -> str:
    """The messages {"role", "content"} as one text, from which `messages_of` gets them back.

    A single message of a user is its plain text. Several read like a transcript, `User: …`, with
    an invisible MARK before each turn.
    """
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    turns = [f"{MARK}{turn['role'].capitalize()}: {turn['content']}" for turn in messages]
    return "\n\n".join(turns)


def messages_of(text: str) -> list[dict]:
    """The messages of a prompt's text; a plain text is one message of the user."""
    if not text.startswith(MARK):
        return [{"role": "user", "content": text}]
    messages = []
    for turn in text[len(MARK) :].split(f"\n\n{MARK}"):
        role, _, content = turn.partition(": ")
        messages.append({"role": role.lower(), "content": content})
    return messages


# --- use


def columns_of(prompts: list[Prompt]) -> dict[str, list]:
    """What a reward function gets by name: a list a column, None where a row does not have it."""
    columns = {
        "category": [prompt.category for prompt in prompts],
        "key_points": [prompt.key_points for prompt in prompts],
    }
    for prompt in prompts:
        for name in prompt.columns:
            if name not in columns:
                columns[name] = [other.columns.get(name) for other in prompts]
    return columns


def split_by_prompt(things: list, heldout_fraction: float, seed: int) -> tuple[list, list]:
    """(train, held out) of things with a `prompt`; those of one prompt land on the same side.

    Raises DataError if a side would be empty.
    """
    texts = sorted({thing.prompt.text for thing in things})
    random.Random(seed).shuffle(texts)
    count = round(heldout_fraction * len(texts))
    if not 0 < count < len(texts):
        raise DataError(
            f"{len(texts)} prompts cannot be split with heldout_fraction={heldout_fraction}: "
            "one side would be empty."
        )
    heldout = set(texts[:count])
    return (
        [thing for thing in things if thing.prompt.text not in heldout],
        [thing for thing in things if thing.prompt.text in heldout],
    )


def pick(things: list, count: int, seed: int) -> list:
    """`count` Prompts, or things with a `prompt`, in random order; categories in proportion."""
    by_category: dict[str, list] = {}
    for thing in things:
        prompt = thing if isinstance(thing, Prompt) else thing.prompt
        by_category.setdefault(prompt.category, []).append(thing)
    placed = []  # each category spread evenly over 0 … 1
    for category, members in sorted(by_category.items()):
        rng = random.Random(f"{seed}/{category}")
        rng.shuffle(members)
        for position, thing in enumerate(members):
            placed.append(((position + rng.random()) / len(members), thing))
    placed.sort(key=lambda entry: entry[0])
    chosen = [thing for _, thing in placed[:count]]
    random.Random(seed).shuffle(chosen)
    return chosen


def in_parts(items: list, size: int) -> list[list]:
    """The items in lists of `size`; the last list may be shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]


class Endless:
    """Prompts without end, in a fresh random order each pass; a resumed run sees the same."""

    def __init__(self, prompts: list, seed: int):
        self.prompts, self.seed = prompts, seed

    def batch(self, start: int, count: int) -> list:
        """The prompts at the positions start … start + count − 1."""
        size = len(self.prompts)
        found = []
        for epoch in range(start // size, (start + count - 1) // size + 1):
            found += random.Random(f"{self.seed}/{epoch}").sample(self.prompts, size)
        return found[start % size :][:count]
