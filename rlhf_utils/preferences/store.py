"""The label store: every judgement is one row of an append-only SQLite table, on disk before anybody is told that it is saved.

Undoing a judgement appends a tombstone. A judgement carries a `uid` that its maker chose, so that sending it twice stores it once.
Left out: who may write; several machines (SQLite's write-ahead log wants one file system).
"""

import json
import sqlite3
import time
import uuid
from contextlib import closing, contextmanager
from pathlib import Path

from ..errors import SettingError

SCHEMA_VERSION = 2
COLUMNS = dict.fromkeys(
    ("item_id", "annotator", "session", "prompt", "responses", "shown_order", "ranks"), "TEXT"
) | {
    "confidence": "REAL",
    "flags": "TEXT",
    "note": "TEXT",
    "shown_at": "REAL",
    "submitted_at": "REAL",
    "schema_version": "INTEGER",
    "kind": "TEXT NOT NULL DEFAULT 'ranking'",
    "margin": "REAL",
    "uid": "TEXT",
}  # the last three came with schema 2
JSON_COLUMNS = ("responses", "shown_order", "ranks", "flags")
IMPORTED = "import"  # the session of a judgement from a file that names none
KINDS = (
    "ranking",
    "repeat",
    "skip",
)  # a repeat is a second judgement by the same annotator; a skip has no ranks
STANDS = "undoes IS NULL AND id NOT IN (SELECT undoes FROM judgements WHERE undoes IS NOT NULL)"  # was not taken back


def check_judgement(
    kind: str, responses: list[str], shown_order: list[int], ranks: list[int]
) -> None:
    """Raises ValueError for an unknown kind, and for ranks (a skip has none) or an order that do not fit the responses."""
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} must be one of {', '.join(KINDS)}.")
    count = 0 if kind == "skip" else len(responses)
    if len(ranks) != count or not all(type(rank) is int and rank >= 1 for rank in ranks):
        raise ValueError(
            f"ranks={ranks} must be {count} whole numbers, 1 for the best; equal numbers are ties."
        )
    if sorted(shown_order) != list(range(len(responses))):
        raise ValueError(
            f"shown_order={shown_order} must hold each of 0 to {len(responses) - 1} once."
        )


class LabelStore:
    """Judgements in SQLite. Every call opens its own connection, so that any thread or process may call; nothing is overwritten."""

    def __init__(self, path: Path):
        self.path, self._synchronous = Path(path), "FULL"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._connect()) as db:
            db.execute("PRAGMA journal_mode=WAL")
            with db:
                db.execute(
                    "BEGIN IMMEDIATE"
                )  # of several processes that open an old file, one brings it up to date
                self._migrate(db)

    def _migrate(self, db: sqlite3.Connection) -> None:
        """Makes the table, or adds what later versions added. Raises SettingError for a file of a version yet to come."""
        db.execute("CREATE TABLE IF NOT EXISTS judgements (id INTEGER PRIMARY KEY, undoes INTEGER)")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise SettingError(
                f"{self.path.name} was written by a newer version of this suite (schema {version}, this one knows {SCHEMA_VERSION}): update it."
            )
        there = {row["name"] for row in db.execute("PRAGMA table_info(judgements)")}
        for column in COLUMNS:
            if column not in there:
                db.execute(f"ALTER TABLE judgements ADD COLUMN {column} {COLUMNS[column]}")
        db.execute(
            "CREATE UNIQUE INDEX IF NOT EXISTS one_uid ON judgements (uid)"
        )  # NULLs, as old rows have, never clash
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=60)
        db.execute(
            f"PRAGMA synchronous={self._synchronous}"
        )  # FULL, with a write-ahead log: a commit returns when it is on the disk
        db.row_factory = sqlite3.Row
        return db

    @contextmanager
    def in_bulk(self):
        """Within, judgements do not wait for the disk: a power cut may lose the last of them, a killed process none. For those that can be made again."""
        with closing(self._connect()) as db:
            db.execute(
                "SELECT 1 FROM judgements"
            ).fetchone()  # while one connection is open, the end of another does not write the log back
            self._synchronous = "NORMAL"
            try:
                yield
            finally:
                self._synchronous = "FULL"

    def add(
        self,
        item_id: str,
        annotator: str,
        prompt: str,
        responses: list[str],
        shown_order: list[int],
        ranks: list[int],
        session: str = "",
        confidence: float | None = None,
        flags: list[str] = (),
        note: str = "",
        shown_at: float | None = None,
        kind: str = "ranking",
        margin: float | None = None,
        uid: str | None = None,
        submitted_at: float | None = None,
    ) -> int:
        """Stores one judgement, durably unless `in_bulk`, and returns its id; one whose `uid` is there already is not stored again.

        Raises ValueError as check_judgement does.
        """
        check_judgement(kind, responses, shown_order, ranks)
        now, uid = submitted_at or time.time(), uid or uuid.uuid4().hex
        row = (
            item_id,
            annotator,
            session,
            prompt,
            responses,
            shown_order,
            ranks,
            confidence,
            list(flags),
            note,
            shown_at or now,
            now,
            SCHEMA_VERSION,
            kind,
            margin,
            uid,
        )
        values = [json.dumps(v) if c in JSON_COLUMNS else v for c, v in zip(COLUMNS, row)]
        with closing(self._connect()) as db, db:
            db.execute(
                f"INSERT INTO judgements ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) ON CONFLICT (uid) DO NOTHING",
                values,
            )
            return db.execute("SELECT id FROM judgements WHERE uid = ?", (uid,)).fetchone()[0]

    def undo(self, judgement_id: int) -> None:
        """Takes a judgement back by a tombstone; the row itself stays. Raises ValueError for an id that is no judgement."""
        with closing(self._connect()) as db, db:
            if not db.execute(
                "SELECT 1 FROM judgements WHERE id = ? AND undoes IS NULL", (judgement_id,)
            ).fetchone():
                raise ValueError(f"There is no judgement {judgement_id} to take back.")
            db.execute(
                "INSERT INTO judgements (undoes, submitted_at, schema_version) VALUES (?, ?, ?)",
                (judgement_id, time.time(), SCHEMA_VERSION),
            )

    def _standing(self, columns: str) -> list[sqlite3.Row]:
        with closing(self._connect()) as db:
            return db.execute(
                f"SELECT {columns} FROM judgements WHERE {STANDS} ORDER BY id"
            ).fetchall()

    def progress(self) -> list[tuple[int, str, str, str, str]]:
        """(id, item, annotator, session, kind) of every judgement that stands, without its texts: cheap enough to ask after each label."""
        return [tuple(row) for row in self._standing("id, item_id, annotator, session, kind")]

    def rows(
        self, items: list[dict] | None = None, kinds: tuple[str, ...] = ("ranking",)
    ) -> list[dict]:
        """The judgements that were not taken back, in the order of submission; with `items` (each with `id`) only those of these items."""
        wanted = None if items is None else {item["id"] for item in items}
        return [
            dict(row) | {column: json.loads(row[column]) for column in JSON_COLUMNS}
            for row in self._standing(f"id, {', '.join(COLUMNS)}")
            if row["kind"] in kinds and (wanted is None or row["item_id"] in wanted)
        ]
