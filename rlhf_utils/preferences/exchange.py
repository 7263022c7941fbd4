"""Labels in and out: files of several formats, each with a module of its own.

    rankings       one judgement a line (JSONL or parquet), with the columns of the store
    pairs          TRL's `prompt`, `chosen`, `rejected`, `margin`, each with its whole judgement
    argilla        JSON of Argilla's records: `fields`, `responses` and `metadata`
    label_studio   JSON of Label Studio's tasks: `data` and `annotations`
    lmarena        votes of LMArena; only read

What is written and read back is the same judgements. Only pairs lose some: a skip and a ranking in
which all are tied make no pair.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset

from ..errors import DataError
from ..files import records, write_text
from . import argilla, label_studio, lmarena, trl_pairs
from .label_rows import LEFT_OUT, judgement_of, trusted, whole_row
from .pairs import Judgement
from .store import LabelStore

Bad = tuple[int, str]  # line number from 1, and the reason
TOLD = 10  # bad rows that an error lists


# --- out


def export_labels(judgements: list[Judgement], path: Path, format: str = "rankings") -> int:
    """Writes judgements to a file and returns how many it holds.

    Raises DataError for an unknown format, and for an ending that it does not have.
    """
    path = Path(path)
    known = [name for name in FORMATS if FORMATS[name].write]
    if format not in known:
        raise DataError(f"format={format!r} must be one of {', '.join(known)}.")
    endings = FORMATS[format].endings
    if path.suffix not in endings:
        raise DataError(
            f"{path.name}: labels as {format!r} go into a file ending in {' or '.join(endings)}."
        )
    rows, count = [], 0
    for judgement in judgements:
        written = FORMATS[format].write(judgement)
        rows += written
        count += bool(written)
    if path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    elif path.suffix == ".json":
        write_text(path, json.dumps(rows, indent=1))
    else:  # as ASCII, so that half a surrogate pair in an answer can be written
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return count


# --- in


@dataclass
class Labels:
    """What a file holds."""

    judgements: list[Judgement] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)
    left_out: Counter = field(default_factory=Counter)  # why no judgement → how many


def import_labels(
    path: Path, store: LabelStore, leave_out_bad: bool = False
) -> tuple[int, int, list[Bad]]:
    """Stores the judgements of a file, all or none: (how many are new, how many known, bad rows).

    Raises DataError, with nothing stored, for bad rows; with `leave_out_bad` they are left out.
    Importing a file again stores nothing twice.
    """
    path = Path(path)
    labels = _read(path)
    if labels.bad and not leave_out_bad:
        raise DataError(_told(path, labels))
    _print_left_out(path, labels)
    new = store.add_all(labels.judgements)
    return new, len(labels.judgements) - new, labels.bad


def read_labels(path: Path) -> tuple[list[Judgement], list[Bad]]:
    """The judgements of a file in any of the formats, and its bad rows.

    Raises DataError for a file that cannot be read at all.
    """
    path = Path(path)
    labels = _read(path)
    _print_left_out(path, labels)
    return labels.judgements, labels.bad


def _told(path: Path, labels: Labels) -> str:
    lines = [f"line {line}: {reason}" for line, reason in labels.bad[:TOLD]]
    if len(labels.bad) > TOLD:
        lines.append(f"and {len(labels.bad) - TOLD} more")
    return (
        f"{path.name} has {len(labels.bad)} rows that cannot be read, so nothing was stored. Mend "
        "them, or leave them out with leave_out_bad=True:\n  " + "\n  ".join(lines)
    )


def _print_left_out(path: Path, labels: Labels) -> None:
    if labels.left_out:
        told = [f"{why}: {count}" for why, count in labels.left_out.items()]
        print(f"{path.name}: {len(labels.judgements)} judgements. Left out, {'; '.join(told)}.")


def _read(path: Path) -> Labels:
    labels = Labels()
    found: dict[str, Judgement] = {}  # by uid: all pairs of a judgement hold the same one
    seen = Counter()  # how often a record came, so that equal ones get uids of their own
    for line, record in records(path):
        for row in _rows(record, seen):
            try:
                if isinstance(row, ValueError):
                    raise row
                if LEFT_OUT in row:
                    labels.left_out[row[LEFT_OUT]] += 1
                    continue
                judgement = judgement_of(row)
                if found.setdefault(judgement.uid, judgement) != judgement:
                    raise ValueError(f"uid={judgement.uid!r:.60} is that of another row, too")
            except ValueError as error:
                labels.bad.append((line, str(error).rstrip(".")))
    labels.judgements = list(found.values())
    return labels


def _rows(record, seen: Counter) -> list[dict | ValueError]:
    """The rows of a record, each with a uid; an error in place of what cannot be read."""
    try:
        uid, rows = _uid(record, seen), _rows_of_format(record)
    except ValueError as error:
        return [error]
    found = []
    for number, row in enumerate(rows):
        if isinstance(row, dict):
            own = row.get("uid") or (uid if trl_pairs.fits(record) else f"{uid}/{number}")
            row = row | {"uid": own}
        found.append(row)
    return found


def _uid(record, seen: Counter) -> str:
    """Made of the content, not the line: it stays when other lines are mended."""
    if isinstance(record, Exception):
        raise record
    if not isinstance(record, dict):
        raise ValueError(f"{str(record)[:60]!r} is no object")
    content = json.dumps(record, sort_keys=True, default=str)  # tables may hold dates
    content = hashlib.sha256(content.encode()).hexdigest()[:24]
    seen[content] += 1
    return f"{content}/{seen[content]}"


def _rows_of_format(record: dict) -> list[dict | ValueError]:
    """The rows of a record in the first format that it fits. Raises ValueError in words."""
    name = "rankings"
    try:
        name = next((name for name, format in FORMATS.items() if format.fits(record)), name)
        return FORMATS[name].read(record)
    except (KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise ValueError(
            f"it looks like {name}, but a part is missing or of another type"
        ) from None


# --- the formats


def _read_ranking(record: dict) -> list[dict]:
    """A row as it stands. A uid counts only in our own files: other tools have other uids."""
    return [trusted(record) or {name: record[name] for name in record if name != "uid"}]


@dataclass
class Format:
    fits: Callable[[dict], bool]  # whether a record is of this format
    read: Callable[[dict], list]  # record → rows with the store's columns, or errors
    write: Callable[[Judgement], list[dict]] | None = None
    endings: tuple[str, ...] = ()  # of files that are written


LINES, WHOLE = (".jsonl", ".parquet"), (".json",)
FORMATS = {  # a record is of the first that it fits
    "pairs": Format(trl_pairs.fits, trl_pairs.read, trl_pairs.write, LINES),
    "lmarena": Format(lmarena.fits, lmarena.read),
    "rankings": Format(
        lambda record: isinstance(record.get("ranks"), list),
        _read_ranking,
        lambda found: [whole_row(found)],
        LINES,
    ),
    "argilla": Format(argilla.fits, argilla.read, argilla.write, WHOLE),
    "label_studio": Format(label_studio.fits, label_studio.read, label_studio.write, WHOLE),
}
