"""The records of files as they come: JSON, CSV, parquet and saved data sets, line by line."""

import csv
import gzip
import itertools
import json
import os
import stat
import sys
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from .errors import DataError

TEXT_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")  # in any letter case, also with .gz
ENDINGS = (*TEXT_ENDINGS, ".parquet")
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
    mode = mode_of(path)
    if mode is None:
        raise DataError(
            f"There is no file {shown_name(os.path.abspath(path))}. "
            f"Give a file that ends in {READABLE}."
        )
    if stat.S_ISDIR(mode):
        return "row", table_records(_saved_data_set(path, split), f"{name} cannot be read")
    ending = path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:]
    ending = ending[0].lower() if ending else ""
    if not stat.S_ISREG(mode):
        raise DataError(f"{name} is neither a file nor a folder.")
    if ending not in (TEXT_ENDINGS if path.suffix.lower() == ".gz" else ENDINGS):
        raise DataError(f"{name} cannot be read as data: give a file that ends in {READABLE}.")
    if ending == ".parquet":
        return "row", table_records(_parquet(path), f"{name} cannot be read as parquet")
    if ending in (".csv", ".tsv"):
        return "line", _csv_records(path, "\t" if ending == ".tsv" else ",")
    return _json_records(path, ending == ".json")


def mode_of(path: Path) -> int | None:
    """The mode of a file or folder; None if there is none or its name cannot be one."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:  # a loop of links, a name too long, a folder that is closed to us
        raise DataError(f"{shown_name(path)} cannot be opened: {error.strerror}.") from None


def _lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, packed or not, each with its line feed; U+2028 ends none."""
    name, number = shown_name(path.name), 0
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as stream:
            for number, line in enumerate(stream, 1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise DataError(f"{name} cannot be unpacked: it is damaged, or not gzip.") from None
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
        raise ValueError(
            f"not JSON ({error.msg}, column {error.colno}): {text.strip()[:80]!r}"
        ) from None
    except RecursionError:
        raise ValueError("not JSON (nested too deeply)") from None
    except ValueError as error:
        if "set_int_max_str_digits" not in str(error):
            raise
        raise ValueError("not JSON (a number of more than 4,000 digits)") from None


def _object(pairs: list[tuple]) -> dict:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError(f"an object that has {_twice(name for name, _ in pairs)} twice")
    return content


def _twice(names: Iterable[str]) -> str:
    return repr(Counter(names).most_common(1)[0][0])


def _json_records(path: Path, one_value: bool) -> tuple[str, Numbered]:
    """Of JSON Lines or of one list.

    one_value: it may also be an object with a list in it, and is damaged if it is none of these.
    """
    numbered = enumerate(_lines(path), 1)
    filled = ((number, line) for number, line in numbered if line.strip())
    start = list(itertools.islice(filled, 2))
    if not start:
        return "line", iter(())
    a_list = start[0][1].lstrip().startswith("[")
    if not a_list and len(start) > 1 and any(_is_json(line) for _, line in start):
        return "line", _json_lines(itertools.chain(start, filled))
    try:
        return _entries_of_value(path, one_value)
    except DataError:
        if a_list or one_value:
            raise
        return "line", _json_lines(itertools.chain(start, filled))


def _is_json(text: str) -> bool:
    try:
        return parse_json(text) is not None
    except ValueError:
        return False


def _json_lines(lines: Iterable[tuple[int, str]]) -> Numbered:
    for number, line in lines:
        try:
            yield number, parse_json(line)
        except ValueError as error:
            yield number, error


def _entries_of_value(path: Path, may_hold_list: bool) -> tuple[str, Numbered]:
    name = shown_name(path.name)
    try:
        value = json.loads("".join(_lines(path)), object_pairs_hook=_object)
    except DataError:
        raise
    except json.JSONDecodeError as error:
        raise DataError(
            f"{name}, line {error.lineno}: this is not JSON ({error.msg}). "
            "Give one object a line, or one list of objects."
        ) from None
    except (ValueError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        reason = "it is nested too deeply" if deep else printable(str(error), 200)
        raise DataError(f"{name} cannot be read as JSON: {reason}.") from None
    if isinstance(value, list):
        return "row", enumerate(value, 1)
    lists = _lists_of_rows(value) if may_hold_list else {}
    if len(lists) > 1:
        raise DataError(
            f"{name} holds several lists, {', '.join(map(repr, lists))}: give a file with one."
        )
    for entries in lists.values():
        return "row", enumerate(entries, 1)
    return "line", iter([(1, value)])


def _lists_of_rows(value) -> dict[str, list]:
    """The lists of an object that hold rows; none if the object is itself a row."""
    if not isinstance(value, dict) or "fields" in value or "annotations" in value:
        return {}  # one record of Argilla or Label Studio
    lists = {}
    for name, entries in value.items():
        whole = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
        if whole and entries and not {"role", "from", "type"} & set(entries[0]):
            lists[name] = entries
    return lists


# --- tables


def _csv_records(path: Path, separator: str) -> Numbered:
    """Cells stay the texts that they are. The first line names the columns."""
    name, lines, start = shown_name(path.name), _lines(path), []
    for line in lines:
        start.append(line)
        if line.strip():
            break
    header = "".join(start)
    if separator == "," and "," not in header:  # as spreadsheets write it in half of Europe
        separator = next((other for other in ";\t" if other in header), ",")
    cells = csv.reader(itertools.chain(start, lines), delimiter=separator, strict=True)
    return _csv_rows(name, cells)


def _csv_rows(name: str, reader) -> Numbered:
    columns = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if columns is None or "unexpected end" in str(error):
                raise DataError(
                    f"{name}, line {line} cannot be read as a table: {error}. "
                    "Check that each quote that opens a cell is closed."
                ) from None
            yield line, ValueError(f"no row of a table ({error})")
            continue
        if columns is None:
            columns = _column_names(name, cells) or None
        elif len(cells) == len(columns):
            yield line, dict(zip(columns, cells))
        elif cells:
            yield line, ValueError(f"it has {len(cells)} cells, the header has {len(columns)}")


def _column_names(name: str, names: list[str]) -> list[str]:
    names = [each.strip() or f"column {place}" for place, each in enumerate(names, 1)]
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
            names = batch.schema.names
            if len(set(names)) < len(names):
                raise DataError(f"{failed}: it has {_twice(names)} twice among its columns.")
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except DataError:
        raise
    except Exception as error:  # every library below has errors of its own
        after = f" after row {number:,}" if number else ""
        raise DataError(f"{failed}{after}: {cause_of(error)}. Is it damaged?") from error
