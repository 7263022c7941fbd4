"""Files: read rows of any kind, write a file whole or not at all, and take its digest."""

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from .errors import DataError

NOTES = ("manifest.json", "progress.json")  # what a stage writes about itself

# --- read


def read_json(path: Path) -> dict:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_file(path: Path) -> list[dict]:
    """The rows of a file that `records` can read. Raises DataError for a line that is not JSON."""
    rows = []
    for line, record in records(path):
        if isinstance(record, ValueError):
            raise DataError(
                f"{path.name}, line {line} is {record}. "
                "Give one object a line, or one list of objects."
            )
        rows.append(record)
    return rows


def records(path: Path) -> Iterator[tuple[int, object]]:
    """(line, record) of JSON Lines, of one JSON list, or of a .csv or .parquet file.

    The entries of a list or table count as lines. A name that ends in .gz is unpacked. A line
    that is not JSON gives a ValueError in place of the record. Raises DataError for a file that
    is missing or cannot be read.
    """
    if not path.is_file():
        raise DataError(
            f"There is no file {path.resolve()}. "
            "Give the path of a .jsonl, .json, .csv or .parquet file, or a hub id."
        )
    if path.suffix in (".csv", ".parquet"):
        kind = path.suffix[1:]
        failed, advice = f"{path.name} cannot be read as {kind}", "Check that it is not damaged."
        return enumerate(read_dataset(kind, failed, advice, data_files=str(path)), 1)
    text = _text_of(path)
    if text.lstrip().startswith("["):
        return _list_entries(path, text)
    return _json_lines(text)


def read_dataset(name: str, failed: str, advice: str, **options) -> list[dict]:
    """The rows of a hub data set, or of `data_files` in the format `name`.

    Raises DataError that begins with `failed` and ends with `advice`.
    """
    from datasets import load_dataset

    try:
        return list(load_dataset(name, split="train", **options))
    except Exception as error:
        raise DataError(f"{failed}: {type(error).__name__}. {advice}") from error


def _text_of(path: Path) -> str:
    content = path.read_bytes()
    try:
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise DataError(f"{path.name} cannot be unpacked: it is damaged, or not gzip.") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path.name} is not UTF-8 text ({error.reason} at byte {error.start}): "
            "save it as UTF-8."
        ) from None


def _list_entries(path: Path, text: str) -> Iterator[tuple[int, object]]:
    try:
        return enumerate(json.loads(text), 1)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path.name}, line {error.lineno}: the list is not JSON ({error.msg})."
        ) from None


def _json_lines(text: str) -> Iterator[tuple[int, object]]:
    for line, content in enumerate(text.split("\n"), 1):  # splitlines() also splits at U+2028
        if not content.strip():
            continue
        try:
            yield line, json.loads(content)
        except json.JSONDecodeError as error:
            yield line, ValueError(f"not JSON ({error.msg}): {content[:80]!r}")


# --- write


def write_text(path: Path, text: str) -> None:
    """Writes aside and renames, so that a reader never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def write_json(path: Path, content) -> None:
    write_text(path, json.dumps(strict(content), indent=1, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    write_text(path, "".join(json.dumps(strict(r), ensure_ascii=False) + "\n" for r in rows))


def strict(content):
    """The content in strict JSON: numpy numbers become plain ones, and NaN or infinity null."""
    text = json.dumps(content, default=lambda number: number.item())
    return json.loads(text, parse_constant=lambda name: None)


class JsonlLog:
    """Rows in memory (`rows`) and in a file, which begins empty unless it is to `keep` its rows."""

    def __init__(self, path: Path, keep: bool = False):
        self.path = path
        self.rows = read_file(self.path) if keep and self.path.is_file() else []
        self.cut(len(self.rows))

    def add(self, row: dict) -> None:
        self.rows.append(row)
        self.cut(len(self.rows))

    def cut(self, count: int) -> None:
        """Keeps the first `count` rows: those that a checkpoint still knows of."""
        self.rows = self.rows[:count]
        write_jsonl(self.path, self.rows)


# --- compare


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's files without NOTES.

    What is missing has the digest of an empty folder.
    """
    folder, files = (path.parent, [path]) if path.is_file() else (path, sorted(path.rglob("*")))
    result = hashlib.sha256()
    for file in files:
        if file.is_file() and file.name not in NOTES:
            result.update(f"{file.relative_to(folder)}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as stream:
                hashlib.file_digest(stream, lambda: result)  # goes on with `result`
    return result.hexdigest()
