"""Files: read rows of any kind, write a file whole or not at all, and take its digest."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from .errors import DataError
from .records import cause_of, parse_json, shown_name
from .records import printable as printable
from .records import records as records

NOTES = ("manifest.json", "progress.json")  # what a stage writes about itself

# --- read


def read_json(path: Path) -> dict:
    """The object of a JSON file. Raises DataError for a file that is missing or damaged."""
    name = shown_name(path)
    try:
        content = parse_json(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"There is no file {name}.") from None
    except OSError as error:
        raise DataError(f"{name} cannot be read: {cause_of(error)}.") from None
    except ValueError as error:
        raise DataError(f"{name} is damaged: {error}.") from None
    if not isinstance(content, dict):
        raise DataError(f"{name} is damaged: it holds no object but {type(content).__name__}.")
    return content


def read_file(path: Path) -> list[dict]:
    """The rows of a file that `records` can read. Raises DataError for a line that is not JSON."""
    rows = []
    for line, record in records(path):
        if isinstance(record, ValueError):
            raise DataError(f"{shown_name(path.name)}, line {line}: {printable(str(record))}.")
        rows.append(record)
    return rows


# --- write


def write_text(path: Path, text: str) -> None:
    """Writes aside and renames, so that a reader never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # hidden, for `digest`, and no other process has this name
    aside = path.with_name(f".{path.name[:200]}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_json(path: Path, content) -> None:
    write_text(path, json.dumps(strict(content), indent=1, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    write_text(path, "".join(json.dumps(strict(r), ensure_ascii=False) + "\n" for r in rows))


def strict(content):
    """The content in strict JSON: numpy numbers become plain ones, and NaN or infinity null."""
    text = json.dumps(content, default=lambda number: number.item())
    return json.loads(text, parse_constant=lambda name: None)


class JsonlLog:
    """Rows in memory (`rows`) and in a file, which begins with these rows alone."""

    def __init__(self, path: Path, rows: Iterable[dict] = ()):
        self.path, self.rows = path, list(rows)
        self.cut(len(self.rows))

    def add(self, row: dict) -> None:
        self.rows.append(row)
        self.cut(len(self.rows))

    def cut(self, count: int) -> None:
        """Keeps the first `count` rows."""
        self.rows = self.rows[:count]
        write_jsonl(self.path, self.rows)


# --- compare


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of the `files_below` a folder.

    What is missing has the digest of an empty folder.
    """
    folder, files = (path.parent, [path]) if path.is_file() else (path, files_below(path))
    result = hashlib.sha256()
    for file in files:
        result.update(f"{file.relative_to(folder)}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            hashlib.file_digest(stream, lambda: result)  # goes on with `result`
    return result.hexdigest()


def files_below(folder: Path) -> list[Path]:
    """A folder's files, without NOTES and hidden ones (.DS_Store, .ipynb_checkpoints/…)."""
    found = []
    for file in sorted(folder.rglob("*")) if folder.is_dir() else []:
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if file.is_file() and not hidden and file.name not in NOTES:
            found.append(file)
    return found
