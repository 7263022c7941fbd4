"""Rows in: demonstrations, prompts and preferences from the built-in files, a local file or a hub id.

Rows are plain dicts with TRL's column names: `prompt`/`completion`, `prompt`/`chosen`/`rejected`. Prompts also carry
`category` and `key_points` where the rubric can use them. Left out: streaming, images, multi-turn dialogues.
"""

import os
import random
from pathlib import Path

from ..errors import DataError
from ..files import _load_dataset, read_file

BUILTIN = Path(__file__).parent / "builtin"


OOD_CATEGORIES = ("computing", "messages")


REQUIRED = {
    "demonstrations": ("prompt", "completion"),
    "prompts": ("prompt",),
    "heldout": ("prompt",),
    "preferences": ("prompt", "chosen", "rejected"),
}


TURN = "\n\nAssistant:"


ALIASES = {"response": "completion", "output": "completion", "instruction": "prompt"}


def load_rows(source: str, kind: str) -> list[dict]:
    """Rows of one `kind` (a key of `REQUIRED`) from `source`: "builtin", a .jsonl/.json/.csv/.parquet file, or a hub id.

    Raises DataError for a missing file, a column that is not there, a broken line, or an empty text, naming the row.
    """
    if source == "builtin":
        source = str(BUILTIN / f"{kind}.jsonl")
    path = Path(source).expanduser()
    if path.name.endswith((".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet")):
        rows = read_file(path)
    else:
        rows = _load_dataset(
            f"Could not load the data set {source!r}",
            "Check the name and the network, or give the path of a local file.",
            source,
        )
    return check_rows(rows, kind, source)


def check_rows(rows: list[dict], kind: str, source: str = "data") -> list[dict]:
    """The rows with TRL's column names.

    Raises DataError on the first row that lacks a column, has an empty text or key points that are no list of texts, and on the
    first prompt that comes twice among prompts, because answers are gathered by prompt.
    """
    if not rows:
        raise DataError(f"{source} holds no rows.")
    checked, seen = [], {}
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{source}, row {number} is not an object but {type(row).__name__}.")
        row = {
            key if ALIASES.get(key, key) in row else ALIASES[key]: value
            for key, value in row.items()
        }
        row = _whole_dialogues(row) if kind == "preferences" and "prompt" not in row else row
        for column in REQUIRED[kind]:
            if column not in row:
                raise DataError(
                    f"{source}, row {number} has no column {column!r}; it has {sorted(row)}."
                )
            if kind == "preferences" and column != "prompt" and not isinstance(row[column], list):
                continue  # odd answers are counted and told with the whole, by report_card.usable_pairs
            text = last_message(row[column])
            row[column] = "" if text is None else str(text)
            if not row[column].strip():
                raise DataError(f"{source}, row {number}: {column!r} is empty.")
        if (
            kind in ("prompts", "heldout")
            and (first := seen.setdefault(row["prompt"], number)) != number
        ):
            raise DataError(
                f"{source}, row {number} repeats the prompt of row {first}, {row['prompt'][:80]!r}: keep one of the two."
            )
        if "category" in row:
            row["category"] = str(row["category"] or "")
        points = row.get("key_points")
        if points is not None and not (
            isinstance(points, list) and all(isinstance(point, str) for point in points)
        ):
            raise DataError(
                f"{source}, row {number}: 'key_points' is {points!r}, but must be a list of texts."
            )
        checked.append(row)
    return checked


def _whole_dialogues(row: dict) -> dict:
    """Two whole dialogues ("… Assistant: …", as HH-RLHF has them) as the prompt that they share and two last answers; others stay as they are."""
    sides = [row.get("chosen"), row.get("rejected")]
    shared = os.path.commonprefix([side if isinstance(side, str) else "" for side in sides])
    cut = shared.rfind(TURN)
    if cut < 0:
        return row
    chosen, rejected = (side[cut + len(TURN) :].strip() for side in sides)
    return {
        **row,
        "prompt": shared[:cut].removeprefix("\n\nHuman:").strip(),
        "chosen": chosen,
        "rejected": rejected,
    }


def last_message(value):
    """The content of the last message of TRL's conversational form; any other value as it is."""
    return (
        value[-1].get("content")
        if isinstance(value, list) and value and isinstance(value[-1], dict)
        else value
    )


def split_by_prompt(
    rows: list[dict], heldout_fraction: float, seed: int
) -> tuple[list[dict], list[dict]]:
    """(train, held-out) rows; all rows of one prompt land on the same side. Raises DataError if a side would be empty."""
    prompts = sorted({row["prompt"] for row in rows})
    random.Random(seed).shuffle(prompts)
    count = round(heldout_fraction * len(prompts))
    if not 0 < count < len(prompts):
        raise DataError(
            f"{len(prompts)} prompts cannot be split with heldout_fraction={heldout_fraction}: one side would be empty."
        )
    heldout = set(prompts[:count])
    return [r for r in rows if r["prompt"] not in heldout], [
        r for r in rows if r["prompt"] in heldout
    ]


def pick(rows: list[dict], count: int, seed: int) -> list[dict]:
    """`count` rows in random order with the categories in proportion, so that small runs see every category."""
    by_category: dict[str, list[dict]] = {}
    for row in rows:
        by_category.setdefault(row.get("category", ""), []).append(row)
    keyed = []
    for category, members in sorted(by_category.items()):
        rng = random.Random(f"{seed}/{category}")
        rng.shuffle(members)
        keyed += [
            ((position + rng.random()) / len(members), row) for position, row in enumerate(members)
        ]
    chosen = [row for _, row in sorted(keyed, key=lambda pair: pair[0])[:count]]
    random.Random(seed).shuffle(chosen)
    return chosen


def in_parts(items: list, size: int) -> list[list]:
    """The items in lists of `size`, the last of what is left."""
    return [items[start : start + size] for start in range(0, len(items), size)]


class Endless:
    """Rows in a fresh random order each pass; `batch` depends on the position only, so that a resumed run sees the same rows."""

    def __init__(self, rows: list[dict], seed: int):
        self.rows, self.seed = rows, seed

    def batch(self, start: int, count: int) -> list[dict]:
        size = len(self.rows)
        passes = range(start // size, (start + count - 1) // size + 1)
        rows = [
            row
            for epoch in passes
            for row in random.Random(f"{self.seed}/{epoch}").sample(self.rows, size)
        ]
        return rows[start % size :][:count]
