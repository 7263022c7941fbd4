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
from pathlib import Path

from pyarrow import Table
from pyarrow.parquet import write_table

from ..errors import DataError, SettingError
from ..files import printable, records, write_text
from . import argilla, label_rows, label_studio, lmarena, trl_pairs
from .label_rows import Row, judgement_of
from .pairs import Judgement
from .store import LabelStore

Bad = tuple[int, str]  # line number from 1, and the reason
TOLD = 10  # bad rows that an error lists
FORMATS = {  # a record is of the first that it fits: what people said comes before mere columns
    "argilla": argilla,
    "label_studio": label_studio,
    "pairs": trl_pairs,
    "lmarena": lmarena,
    "rankings": label_rows,
}


# --- out


def export_labels(judgements: list[Judgement], path: Path, format: str = "rankings") -> int:
    """Writes judgements to a file and returns how many it holds.

    Raises DataError for an unknown format, and for an ending that it does not have.
    """
    path = Path(path)
    known = [name for name in FORMATS if name != "lmarena"]
    if format not in known:
        raise DataError(f"format={format!r} must be one of {', '.join(known)}.")
    endings = FORMATS[format].ENDINGS
    if path.suffix not in endings:
        raise DataError(
            f"{path.name}: labels as {format!r} go into a file ending in {' or '.join(endings)}."
        )
    written = [FORMATS[format].write(judgement) for judgement in judgements]
    rows = [row for rows in written for row in rows]
    if path.suffix == ".parquet":
        write_table(Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        write_text(path, json.dumps(rows, indent=1))
    else:  # as ASCII, so that half a surrogate pair in an answer can be written
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return sum(map(bool, written))


# --- in


def import_labels(
    path: Path, store: LabelStore, leave_out_bad: bool = False
) -> tuple[int, int, list[Bad]]:
    """Stores the judgements of a file, all or none: (how many are new, how many known, bad rows).

    Raises DataError, with nothing stored, for bad rows; with `leave_out_bad` they are left out.
    Importing a file again, or a later export that holds more, stores nothing twice.
    """
    judgements, bad = read_labels(path)
    if bad and not leave_out_bad:
        lines = [f"line {line}: {reason}" for line, reason in bad[:TOLD]]
        if len(bad) > TOLD:
            lines.append(f"and {len(bad) - TOLD} more")
        raise DataError(
            f"{Path(path).name} has {len(bad)} rows that cannot be read, so nothing was stored. "
            "Mend them, or leave them out with leave_out_bad=True:\n  " + "\n  ".join(lines)
        )
    new = store.add_all(judgements)
    return new, len(judgements) - new, bad


def read_rankings(path: Path) -> list[Judgement]:
    """The rankings of a file that ranks in place of annotators.

    Raises SettingError for a bad row, and if there is no ranking.
    """
    judgements, bad = read_labels(path)
    if bad:
        line, reason = bad[0]
        raise SettingError(
            f"annotator={str(path)!r}: {len(bad)} rows cannot be read, the first in line {line}: "
            f"{reason}."
        )
    rankings = [judgement for judgement in judgements if judgement.kind == "ranking"]
    if not rankings:
        raise SettingError(f"annotator={str(path)!r} holds no ranking.")
    return rankings


def read_labels(path: Path) -> tuple[list[Judgement], list[Bad]]:
    """The judgements of a file in any of the formats, and its bad rows.

    Prints what is left out. Raises DataError for a file that cannot be read at all.
    """
    found: dict[str, Judgement] = {}  # by uid: all pairs of a judgement hold the same one
    bad, left_out, seen = [], Counter(), Counter()
    for line, record in records(Path(path)):
        for row in _rows(record):
            try:
                if isinstance(row, ValueError):
                    raise row
                if isinstance(row, str):
                    left_out[row] += 1
                    continue
                judgement = judgement_of(row)
                judgement.uid = judgement.uid or _uid(judgement, seen)
                if found.setdefault(judgement.uid, judgement) != judgement:
                    raise ValueError(f"uid={judgement.uid!r:.60} is that of another row, too")
            except ValueError as error:
                bad.append((line, printable(str(error).rstrip("."), 300)))
    if left_out:
        told = "; ".join(f"{why}: {count}" for why, count in left_out.items())
        print(f"{printable(Path(path).name)}: {len(found)} judgements. Left out, {told}.")
    return list(found.values()), bad


def _uid(judgement: Judgement, seen: Counter) -> str:
    """Made of what it says: it stays when other lines are mended or other people judge, too.

    seen: how often each content came, so that equal ones get uids of their own.
    """
    content = hashlib.sha256(json.dumps(judgement.content()).encode()).hexdigest()[:24]
    seen[content] += 1
    return f"{content}/{seen[content]}"


def _rows(record) -> list[Row]:
    """The rows of a record in the first format that it fits."""
    name = "rankings"
    try:
        if isinstance(record, ValueError):
            raise record
        if not isinstance(record, dict):
            raise ValueError(f"{str(record)[:60]!r} is no object")
        name = next(name for name, format in FORMATS.items() if format.fits(record))
        return FORMATS[name].read(record)
    except ValueError as error:
        return [error]
    except (KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return [ValueError(f"it looks like {name}, but a part is missing or of another type")]
