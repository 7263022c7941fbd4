"""TODO: purpose."""

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from .errors import DataError


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's files, without the notes that a stage leaves on itself."""
    result = hashlib.sha256()
    for file in (
        sorted(
            f
            for f in path.rglob("*")
            if f.is_file() and f.name not in ("manifest.json", "progress.json")
        )
        if path.is_dir()
        else [path]
    ):
        result.update(
            f"{file.relative_to(path) if path.is_dir() else file.name}\0{file.stat().st_size}\0".encode()
        )
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                result.update(block)
    return result.hexdigest()


def strict(content):
    """The content with numpy numbers as plain ones and what is not a finite number as null, which is all that strict JSON has."""
    return json.loads(
        json.dumps(content, default=lambda number: number.item()), parse_constant=lambda name: None
    )


def write_json(path: Path, content) -> None:
    """Strict JSON, written as a whole or not at all."""
    write_text(path, json.dumps(strict(content), indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict:
    return json.loads(Path(path).read_text(encoding="utf-8"))


class JsonlLog:
    """Rows that a file has as soon as they come, and `rows` too; with `keep`, what the file already has stays."""

    def __init__(self, path: Path, keep: bool = False):
        self.path = Path(path)
        self.rows = read_file(self.path) if keep and self.path.is_file() else []
        self.cut(len(self.rows))

    def add(self, row: dict) -> None:
        self.rows.append(row)
        self.cut(len(self.rows))

    def cut(self, count: int) -> None:
        """Keeps the first `count` rows: those that a checkpoint still knows of."""
        self.rows = self.rows[:count]
        write_jsonl(self.path, map(strict, self.rows))


def read_file(path: Path) -> list[dict]:
    """The rows of a file of JSON Lines, or any other that `records` reads. Raises DataError as it does, and for a line that is no JSON."""
    rows = list(records(path))
    for line, record in rows:
        if isinstance(record, ValueError):
            raise DataError(
                f"{path.name}, line {line} is {record}. Give one object a line, or one list of objects."
            )
    return [record for _, record in rows]


def records(path: Path) -> Iterator[tuple[int, object]]:
    """(line, record) of JSON Lines, unpacked if the name ends in .gz, or of one JSON list, a .csv or a .parquet file, whose entries count as lines.

    A line that is no JSON gives a ValueError in place of the record. Raises DataError for a file that is none of these.
    """
    if not path.is_file():
        raise DataError(
            f"There is no file {path.resolve()}. Give the path of a .jsonl, .json, .csv or .parquet file, or a hub id."
        )
    if path.suffix in (".csv", ".parquet"):
        kind = path.suffix[1:]
        rows = _load_dataset(
            f"{path.name} cannot be read as {kind}",
            "Check that it is whole and has a header or keys.",
            kind,
            data_files=str(path),
        )
        yield from enumerate(rows, 1)
        return
    try:
        text = (
            gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        ).decode("utf-8-sig")
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise DataError(
            f"{path.name} cannot be unpacked: it is damaged, or no gzip file."
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path.name} is not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8."
        ) from None
    if text.lstrip().startswith("["):
        try:
            yield from enumerate(json.loads(text), 1)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path.name}, line {error.lineno}: the list is not JSON ({error.msg})."
            ) from error
        return
    for line, content in enumerate(
        text.split("\n"), 1
    ):  # splitlines() would also split at U+2028 inside a text
        if content.strip():
            try:
                yield line, json.loads(content)
            except json.JSONDecodeError as error:
                yield line, ValueError(f"not JSON ({error.msg}): {content[:80]!r}")


def _load_dataset(failed: str, advice: str, name: str, **options) -> list[dict]:
    from datasets import load_dataset

    try:
        return list(load_dataset(name, split="train", **options))
    except Exception as error:
        raise DataError(f"{failed}: {type(error).__name__}. {advice}") from error


def write_text(path: Path, text: str) -> None:
    """Writes aside and renames, so that a reader never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
