"""The label store: every judgement is a row of an append-only SQLite table.

A judgement is on the disk before anybody is told that it is saved. Undoing one appends a row, too.
Left out: several machines (SQLite's write-ahead log needs one file system).
"""

import json
import sqlite3
import time
import uuid
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from ..errors import SettingError
from .pairs import Item, Judgement

SCHEMA_VERSION = 2
COLUMNS = {
    "item_id": "TEXT",
    "annotator": "TEXT",
    "session": "TEXT",
    "prompt": "TEXT",
    "responses": "TEXT",  # JSON, like the next two and the flags
    "shown_order": "TEXT",
    "ranks": "TEXT",
    "confidence": "REAL",
    "flags": "TEXT",
    "note": "TEXT",
    "shown_at": "REAL",
    "submitted_at": "REAL",
    "schema_version": "INTEGER",
    "kind": "TEXT NOT NULL DEFAULT 'ranking'",  # this and the next two came with schema 2
    "margin": "REAL",
    "uid": "TEXT",
}
JSON_COLUMNS = ("responses", "shown_order", "ranks", "flags")
OTHER_NAMES = {"responses": "answers", "margin": "strength"}  # column → field of a Judgement
FIELDS = {  # column → field, of all that a judgement knows
    column: OTHER_NAMES.get(column, column) for column in COLUMNS if column != "schema_version"
}


def judgement_row(judgement: Judgement) -> dict:
    """A judgement under the names of the table's columns, which exported files have, too."""
    return {column: getattr(judgement, field) for column, field in FIELDS.items()}


class LabelStore:
    """Every call opens its own connection, so any thread or process may call."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self._synchronous = "FULL"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._connect()) as db:
            db.execute("PRAGMA journal_mode=WAL")
            with db:
                db.execute("BEGIN IMMEDIATE")  # only one process may bring an old file up to date
                self._migrate(db)

    def _migrate(self, db: sqlite3.Connection) -> None:
        """Makes the table, or adds columns that came later. Raises SettingError."""
        db.execute("CREATE TABLE IF NOT EXISTS judgements (id INTEGER PRIMARY KEY, undoes INTEGER)")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise SettingError(
                f"{self.path.name} has schema {version}, but this version knows only "
                f"{SCHEMA_VERSION}: update rlhf_utils."
            )
        there = {row["name"] for row in db.execute("PRAGMA table_info(judgements)")}
        for column, kind in COLUMNS.items():
            if column not in there:
                db.execute(f"ALTER TABLE judgements ADD COLUMN {column} {kind}")
        # Old rows have no uid, and NULLs never clash.
        db.execute("CREATE UNIQUE INDEX IF NOT EXISTS one_uid ON judgements (uid)")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=60)
        # FULL, with a write-ahead log: a commit returns when it is on the disk.
        db.execute(f"PRAGMA synchronous={self._synchronous}")
        db.row_factory = sqlite3.Row
        return db

    @contextmanager
    def in_bulk(self):
        """For judgements that can be made again: within, nothing waits for the disk.

        A power cut may lose the last of them; a killed process loses none.
        """
        with closing(self._connect()) as db:
            # While one connection is open, closing another does not write the log back.
            db.execute("SELECT 1 FROM judgements").fetchone()
            self._synchronous = "NORMAL"
            try:
                yield
            finally:
                self._synchronous = "FULL"

    def add(self, judgement: Judgement) -> int:
        """Stores a judgement and returns its number; durable unless `in_bulk`.

        If its uid is there already, nothing is stored. Raises ValueError like Judgement.check.
        """
        judgement.check()
        now = judgement.submitted_at or time.time()
        stored = replace(
            judgement,
            shown_at=judgement.shown_at or now,
            submitted_at=now,
            uid=judgement.uid or uuid.uuid4().hex,
        )
        row = judgement_row(stored) | {"schema_version": SCHEMA_VERSION}
        for column in JSON_COLUMNS:
            row[column] = json.dumps(row[column])
        insert = (
            f"INSERT INTO judgements ({', '.join(row)}) VALUES ({', '.join('?' * len(row))}) "
            "ON CONFLICT (uid) DO NOTHING"
        )
        with closing(self._connect()) as db, db:
            db.execute(insert, list(row.values()))
            found = db.execute("SELECT id FROM judgements WHERE uid = ?", (stored.uid,))
            return found.fetchone()[0]

    def undo(self, number: int) -> None:
        """Takes a judgement back; its row stays. Raises ValueError if there is none."""
        with closing(self._connect()) as db, db:
            undone = db.execute(
                "INSERT INTO judgements (undoes, submitted_at, schema_version) "
                "SELECT id, ?, ? FROM judgements WHERE id = ? AND undoes IS NULL",
                (time.time(), SCHEMA_VERSION, number),
            )
        if not undone.rowcount:
            raise ValueError(f"There is no judgement {number} to take back.")

    def _not_undone(self, columns: str) -> list[sqlite3.Row]:
        undone = "SELECT undoes FROM judgements WHERE undoes IS NOT NULL"
        stand = f"undoes IS NULL AND id NOT IN ({undone})"
        with closing(self._connect()) as db:
            select = f"SELECT {columns} FROM judgements WHERE {stand} ORDER BY id"
            return db.execute(select).fetchall()

    def progress(self) -> list[tuple[int, str, str, str, str]]:
        """(number, item id, annotator, session, kind) of every judgement that was not taken back.

        Without the texts: cheap enough to ask after each label.
        """
        return [tuple(row) for row in self._not_undone("id, item_id, annotator, session, kind")]

    def judgements(
        self, items: list[Item] | None = None, kinds: tuple[str, ...] = ("ranking",)
    ) -> list[Judgement]:
        """The judgements of these kinds that were not taken back, in the order of submission.

        items: if given, only judgements of these.
        """
        wanted = None if items is None else {item.id for item in items}
        found = []
        for row in self._not_undone(f"id, {', '.join(COLUMNS)}"):
            if row["kind"] in kinds and (wanted is None or row["item_id"] in wanted):
                found.append(_judgement(row))
        return found


def _judgement(row: sqlite3.Row) -> Judgement:
    values = {"id": row["id"]}
    for column, field in FIELDS.items():
        value = row[column]
        values[field] = json.loads(value) if column in JSON_COLUMNS else value
    return Judgement(**values)
