"""Rows in: prompts, demonstrations and rows of pairs, built in or from a local file or a hub id.

What can be read: sources.py; forms of rows: formats.py; what is told of bad rows: report.py.
Left out: streaming, images, tools.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DataError
from .conversations import conversation as conversation
from .conversations import messages_of as messages_of
from .formats import recognise as recognise
from .report import Report
from .report import shown_rows as shown_rows
from .sources import open_source

BUILTIN = Path(__file__).parent / "builtin"

OTHER_CATEGORIES = ("computing", "messages")  # only among the built-in held-out prompts

# Of the harmful and look-alike prompts; only among the built-in held-out ones.
UNSEEN_TOPICS = ("weapons", "poison", "animals", "blackmail")


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


def load_prompts(source: str, kind: str = "prompts", strict: bool = False) -> list[Prompt]:
    """The prompts of `source`: "builtin", a file, a folder of save_to_disk, or a hub id.

    `kind` says which built-in file is meant, "prompts" or "heldout". Rows that cannot be used are
    told and left out, as are those that repeat a prompt. Raises DataError if more than 1% cannot
    be used, and with `strict` for the first.
    """
    return [_prompt(row) for row in _rows(source, kind, strict)]


def load_demonstrations(source: str, strict: bool = False) -> list[Demonstration]:
    """The demonstrations of `source`, one of those that load_prompts takes, or "crisp".

    "crisp": the built-in ones as they would be if all who wrote them were brief and sure.
    """
    loaded = []
    for row in _rows("builtin" if source == "crisp" else source, "demonstrations", strict):
        answer, crisp = row.pop("completion"), row.pop("crisp", None)
        answer = crisp or answer if source == "crisp" else answer
        loaded.append(Demonstration(_prompt(row), answer))
    return loaded


def load_pairs_rows(source: str, strict: bool = False) -> list[dict]:
    """Rows with `prompt`, `chosen` and `rejected`, from which pair_files.py makes Pairs."""
    return list(_rows(source, "preferences", strict))


def _prompt(row: dict) -> Prompt:
    known = ("prompt", "category", "key_points")
    others = {column: value for column, value in row.items() if column not in known}
    return Prompt(row["prompt"], row.get("category", ""), row.get("key_points") or [], others)


def _rows(source: str, kind: str, strict: bool) -> Iterator[dict]:
    """The rows that can be used, of one `kind`, a key of formats.REQUIRED."""
    name = str(BUILTIN / f"{kind}.jsonl") if source == "builtin" else source
    unit, records = open_source(name)
    report, first_seen = Report(source, unit, strict), {}
    for number, record in records:
        report.rows += 1
        try:
            if isinstance(record, ValueError):
                raise record
            row = recognise(record, kind, report.notes)
        except ValueError as error:
            report.bad_row(number, error)
            continue
        prompt = row["prompt"]
        if kind in ("prompts", "heldout") and first_seen.setdefault(prompt, number) != number:
            report.repeat(number, f"of row {first_seen[prompt]}, {prompt[:80]!r}")
        else:
            yield row
    report.tell()


# --- use


def columns_of(prompts: list[Prompt]) -> dict[str, list]:
    """What a reward function gets by name: a list a column, None where a row does not have it."""
    columns = {
        "category": [prompt.category for prompt in prompts],
        "key_points": [prompt.key_points for prompt in prompts],
    }
    for prompt in prompts:
        for name in prompt.columns:
            if name not in (*columns, "prompts", "completions"):  # which it gets anyway
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
        self._pass: tuple[int, list] = (-1, [])  # the last that was shuffled: it takes long

    def batch(self, start: int, count: int) -> list:
        """The prompts at the positions start … start + count − 1."""
        size = len(self.prompts)
        found = []
        for epoch in range(start // size, (start + count - 1) // size + 1):
            if epoch != self._pass[0]:
                order = random.Random(f"{self.seed}/{epoch}").sample(self.prompts, size)
                self._pass = epoch, order
            found += self._pass[1]
        return found[start % size :][:count]
