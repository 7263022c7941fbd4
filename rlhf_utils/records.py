"""The records of files as they come: JSON, CSV, parquet and saved data sets, line by line."""

import csv
import gzip
import io
import itertools
import json
import os
import sys
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from .errors import DataError

READABLE = (
    ".jsonl, .json, .csv or .tsv (each also with .gz), .parquet, or a folder that datasets' "
    "save_to_disk made"
)

BATCH = 1000  # rows of a table that are in memory at once

Numbered = Iterator[tuple[int, object]]  # (line or row number from 1, record or ValueError)

csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a long cell is told by its row, not by csv

# --- show


def printable(text: str, most: int | None = None) -> str:
    """The text for a terminal: control characters as escapes, cut after `most` characters with …"""
    if most is not None and len(text) > most:
        text = text[:most] + "…"
    if text.isprintable():
        return text
    return "".join(_escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    joins = letter in "\u200c\u200d"  # scripts and emojis need these two
    if joins or unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return letter
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")


def shown_name(path: str | Path) -> str:
    return printable(str(path), 200)


def cause_of(error: BaseException) -> str:
    """What lies at the root of an error, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    words = " ".join(str(error).split()).rstrip(".")
    return printable(f"{type(error).__name__}: {words}" if words else type(error).__name__, 300)


# --- open


def records(path: Path) -> Numbered:
    """(line, record) of a file or folder that is READABLE; a bad line gives a ValueError instead.

    Lines are those of the file; the entries of a JSON list or of a table count from 1. Raises
    DataError for what is missing or cannot be read.
    """
    return open_records(path)[1]


def open_records(path: Path, split: str = "train") -> tuple[str, Numbered]:
    """("line" or "row", as the records are counted; the records). `split` is that of a folder."""
    path = Path(path)
    name = shown_name(path)
    if not os.path.exists(path):
        path = shown_name(os.path.abspath(path))
        raise DataError(f"There is no file {path}: give a file that ends in {READABLE}.")
    if path.is_dir():
        return "row", table_records(_saved_data_set(path, split), f"{name} cannot be read")
    ending = Path(path.name.lower().removesuffix(".gz")).suffix
    if ending == ".parquet":
        return "row", table_records(_parquet(path), f"{name} cannot be read as parquet")
    if ending in (".csv", ".tsv"):
        return "line", _csv_records(path, "\t" if ending == ".tsv" else ",")
    if ending in (".jsonl", ".ndjson", ".json"):
        return _json_records(path, ending == ".json")
    raise DataError(f"{name} cannot be read as data: give a file that ends in {READABLE}.")


def _lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, packed by gzip or not, each with its end: \\n, \\r\\n or \\r."""
    name, number = shown_name(path.name), 0
    try:
        with open(path, "rb") as file:
            packed = file.peek(2).startswith(b"\x1f\x8b")
            for number, line in enumerate(gzip.GzipFile(fileobj=file) if packed else file, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield from io.StringIO(text, newline="")  # U+2028 ends no line
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise DataError(f"{name} cannot be unpacked: it is damaged.") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} is not UTF-8 text ({error.reason} in line {number}): save it as UTF-8."
        ) from None
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror}.") from None


# --- JSON


def parse_json(text: str):
    """The value of a JSON text. Raises ValueError, which says why it is none."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        near = text[max(error.pos - 40, 0) : error.pos + 40].strip()
        raise ValueError(f"not JSON ({error.msg}, {line}column {error.colno}: {near!r})") from None
    except RecursionError:
        raise ValueError("not JSON (nested too deeply)") from None


def _object(pairs: list[tuple]) -> dict:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError(f"an object that has {_twice(name for name, _ in pairs)} twice")
    return content


def _twice(names: Iterable[str]) -> str:
    return repr(Counter(names).most_common(1)[0][0])


def _parsed(text: str):
    """The value of a JSON text, or the ValueError that says why it is none."""
    try:
        return parse_json(text)
    except ValueError as error:
        return error


def _json_records(path: Path, one_value: bool) -> tuple[str, Numbered]:
    """Of JSON Lines, or of one list. one_value: it may also be an object with a list in it."""
    numbered = enumerate(_lines(path), 1)
    filled = ((number, line) for number, line in numbered if line.strip())
    start = list(itertools.islice(filled, 2))
    if start and start[0][1].lstrip().startswith("["):
        return _one_value(path, one_value)
    damaged = [isinstance(_parsed(line), ValueError) for _, line in start]
    if one_value and len(start) == 1 or len(start) == 2 and all(damaged):
        return _one_value(path, one_value)
    return "line", ((number, _parsed(line)) for number, line in itertools.chain(start, filled))


def _one_value(path: Path, may_hold_list: bool) -> tuple[str, Numbered]:
    name, value = shown_name(path.name), _parsed("".join(_lines(path)))
    if isinstance(value, ValueError):
        reason = printable(str(value), 200)
        raise DataError(
            f"{name} cannot be read: {reason}. Give one object a line, or one list of objects."
        )
    if may_hold_list and isinstance(value, dict) and not {"fields", "annotations"} & set(value):
        lists = [key for key, entries in value.items() if _are_rows(entries)]
        if len(lists) > 1:
            names = ", ".join(map(repr, lists))
            raise DataError(f"{name} holds several lists, {names}: give a file with one.")
        value = value[lists[0]] if lists else value
    return ("row", enumerate(value, 1)) if isinstance(value, list) else ("line", iter([(1, value)]))


def _are_rows(value) -> bool:
    """Whether it is a list of objects, but not of the messages or parts that a row may hold."""
    whole = isinstance(value, list) and value and all(isinstance(each, dict) for each in value)
    return whole and not {"role", "from", "type"} & set(value[0])


# --- tables


def _csv_records(path: Path, separator: str) -> Numbered:
    """Cells stay the texts that they are. The first line names the columns."""
    name, columns, lines = shown_name(path.name), None, _lines(path)
    start = list(itertools.islice(lines, 1))
    if separator == "," and start and "," not in start[0]:  # so do spreadsheets in half of Europe
        separator = next((other for other in ";\t" if other in start[0]), ",")
    for line, cells in _cells(name, itertools.chain(start, lines), separator):
        if isinstance(cells, ValueError):
            yield line, cells
        elif columns is None:
            columns = _column_names(name, cells)
        else:
            while len(cells) > len(columns) and not cells[-1]:
                cells.pop()
            short = ValueError(f"it has {len(cells)} cells, the header has {len(columns)}")
            yield line, dict(zip(columns, cells)) if len(cells) == len(columns) else short


def _cells(name: str, lines: Iterable[str], separator: str) -> Numbered:
    """(line, its cells or a ValueError) without rows of empty cells, as spreadsheets leave them."""
    reader, begun = csv.reader(lines, delimiter=separator, strict=True), False
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if not begun or "unexpected end" in str(error):
                raise DataError(
                    f"{name}, line {line} cannot be read as a table: {error}. "
                    "Check that each quote that opens a cell is closed."
                ) from None
            cells = ValueError(f"no row of a table ({error})")
        if isinstance(cells, ValueError) or any(cells):
            begun = True
            yield line, cells


def _column_names(name: str, names: list[str]) -> list[str]:
    """The names without those at the end that are empty."""
    last = max(place for place, each in enumerate(names, 1) if each)
    names = [each.strip() or f"column {place}" for place, each in enumerate(names[:last], 1)]
    if len(set(names)) < len(names):
        raise DataError(f"{name} has {_twice(names)} twice among its columns: rename one of them.")
    return names


def _parquet(path: Path) -> Iterator:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        yield from file.iter_batches(BATCH)


def _saved_data_set(path: Path, split: str) -> Iterator:
    """The batches of a folder that save_to_disk made. Raises DataError for any other folder."""
    name = shown_name(path)
    if not any((path / file).is_file() for file in ("state.json", "dataset_dict.json")):
        raise DataError(f"{name} is a folder without data: give a file that ends in {READABLE}.")
    from datasets import DatasetDict, load_from_disk

    found = load_from_disk(str(path))
    if isinstance(found, DatasetDict):
        if split not in found:
            raise DataError(
                f"{name} has no split {split!r}, but {', '.join(map(repr, found))}: "
                "give the folder's name with @ and one of them."
            )
        found = found[split]
    yield from found.with_format("arrow").iter(BATCH)


def table_records(batches: Iterator, failed: str) -> Numbered:
    """The rows of batches of pyarrow. Raises DataError, which begins with `failed`."""
    number = 0
    try:
        for batch in batches:
            if len(set(batch.schema.names)) < batch.num_columns:
                raise DataError(f"{failed}: it has {_twice(batch.schema.names)} twice as a column.")
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except DataError:
        raise
    except Exception as error:  # every library below has errors of its own
        after = f" after row {number:,}" if number else ""
        raise DataError(f"{failed}{after}: {cause_of(error)}. Is it damaged?") from error
