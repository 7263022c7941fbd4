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

from ..errors import DataError, SettingError
from .pairs import Item, Judgement, item_id

SCHEMA_VERSION = 3  # since 3 no order of the answers changes an item's id
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
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"The folder {self.path.parent} for the labels cannot be made "
                f"({error.strerror}): choose one that can be written to."
            ) from error
        with self._open() as db:
            tables = [row["name"] for row in db.execute("SELECT name FROM sqlite_master")]
            if tables and "judgements" not in tables:
                raise DataError(
                    f"{self.path} is no label store: it holds {tables[0]!r:.60}. It was left as it "
                    "is; give the labels another file."
                )
            db.execute("PRAGMA journal_mode=WAL")
            with db:
                db.execute("BEGIN IMMEDIATE")  # only one process may bring an old file up to date
                self._migrate(db)

    def _migrate(self, db: sqlite3.Connection) -> None:
        """Makes the table, or brings one of an older version up to date. Raises SettingError."""
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
        if version < 3:
            _rename_items(db)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=60)
        # FULL, with a write-ahead log: a commit returns when it is on the disk.
        db.execute(f"PRAGMA synchronous={self._synchronous}")
        db.row_factory = sqlite3.Row
        return db

    @contextmanager
    def _open(self):
        """A connection. Raises DataError for a damaged file, a full disk, a read-only folder."""
        try:
            with closing(self._connect()) as db:
                yield db
        except sqlite3.Error as error:
            raise DataError(_in_words(self.path, error)) from error

    @contextmanager
    def in_bulk(self):
        """For judgements that can be made again: within, nothing waits for the disk.

        A power cut may lose the last of them; a killed process loses none.
        """
        with self._open() as db:
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
        row = _table_row(judgement)
        with self._open() as db, db:
            db.execute(INSERT, row)
            found = db.execute("SELECT id FROM judgements WHERE uid = ?", (row["uid"],))
            return found.fetchone()[0]

    def add_all(self, judgements: list[Judgement]) -> int:
        """Stores all judgements or none, in one transaction, and returns how many were new.

        One whose uid is there already is not stored again. Raises ValueError like Judgement.check,
        and DataError if its uid is that of another judgement.
        """
        rows, new = [_table_row(judgement) for judgement in judgements], 0
        with self._open() as db, db:
            db.execute("BEGIN IMMEDIATE")
            for judgement, row in zip(judgements, rows):
                new += db.execute(INSERT, row).rowcount
                known = db.execute("SELECT * FROM judgements WHERE uid = ?", (row["uid"],))
                if _judgement(known.fetchone()).content() != judgement.content():
                    raise DataError(
                        f"uid={row['uid']!r:.60} of {row['annotator']!r:.60} on "
                        f"{row['prompt']!r:.60} is that of another judgement in {self.path.name}, "
                        "so nothing was stored: take the uid out of the row."
                    )
        return new

    def undo(self, number: int) -> None:
        """Takes a judgement back; its row stays. Raises ValueError if there is none."""
        with self._open() as db, db:
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
        with self._open() as db:
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

        items: if given, only judgements of these, told of their answers in the items' order.
        """
        rows = [row for row in self._not_undone("*") if row["kind"] in kinds]
        if items is None:
            return list(map(_judgement, rows))
        answers = {item.id: item.answers for item in items}
        wanted = [row for row in rows if row["item_id"] in answers]
        return [_judgement(row).in_order_of(answers[row["item_id"]]) for row in wanted]


INSERT = (
    f"INSERT INTO judgements ({', '.join([*COLUMNS])}) "
    f"VALUES ({', '.join(f':{column}' for column in COLUMNS)}) ON CONFLICT (uid) DO NOTHING"
)


def _table_row(judgement: Judgement) -> dict:
    """The checked judgement as a row of the table; what it lacks of times and uid is filled in."""
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
    return row


def _judgement(row: sqlite3.Row) -> Judgement:
    values = {"id": row["id"]}
    for column, field in FIELDS.items():
        value = row[column]
        values[field] = json.loads(value) if column in JSON_COLUMNS else value
    return Judgement(**values)


def _rename_items(db: sqlite3.Connection) -> None:
    """Before schema 3 an item's id depended on the order of its answers."""
    found = db.execute("SELECT id, prompt, responses FROM judgements WHERE prompt IS NOT NULL")
    names = [(item_id(prompt, json.loads(answers)), number) for number, prompt, answers in found]
    db.executemany("UPDATE judgements SET item_id = ? WHERE id = ?", names)


CAUSES = {  # words in SQLite's error → what that means, and what to do
    "disk is full": "cannot be written: the disk is full. Make room",
    "readonly": "cannot be written: it is read-only. Give the labels a folder of your own",
    "unable to open": "cannot be opened: give a file in a folder that can be written to",
    "locked": "is in use by another program. Close that one",
}


def _in_words(path: Path, error: sqlite3.Error) -> str:
    for words, told in CAUSES.items():
        if words in str(error):
            return f"The label store {path} {told}, then run this again. No label in it was lost."
    if type(error) is sqlite3.DatabaseError:
        return (
            f"The label store {path} is damaged, or no label store ({error}). It was left as it "
            "is: move it away, or bring back a copy."
        )
    return f"The label store {path} cannot be used: {error}. It was left as it is."
