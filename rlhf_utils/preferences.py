"""Rankings → pairs; the label store; how much annotators agree, and which surface features sway them.

A judgement is one row of an append-only SQLite table; undoing one appends a tombstone. Left out: choosing what to ask next.
"""

import hashlib
import itertools
import json
import random
import sqlite3
import time
from contextlib import closing
from dataclasses import is_dataclass
from pathlib import Path

import numpy as np

SCHEMA_VERSION = 1
COLUMNS = ("item_id", "annotator", "session", "prompt", "responses", "shown_order", "ranks", "confidence", "flags", "note",
           "shown_at", "submitted_at", "schema_version")
NUMBERS = {"confidence": "REAL", "shown_at": "REAL", "submitted_at": "REAL", "schema_version": "INTEGER"}
JSON_COLUMNS = ("responses", "shown_order", "ranks", "flags")


def ranking_to_pairs(ranks: list[int]) -> list[tuple[int, int]]:
    """All ordered pairs (better, worse) of a ranking in which 1 is best and equal ranks are ties, which give no pair."""
    return [(a, b) for a, b in itertools.permutations(range(len(ranks)), 2) if ranks[a] < ranks[b]]


def check_ranks(ranks: list[int], count: int) -> None:
    """Raises ValueError unless there is one whole number of at least 1 for each of `count` responses."""
    if len(ranks) != count or not all(isinstance(r, int) and not isinstance(r, bool) and r >= 1 for r in ranks):
        raise ValueError(f"ranks={ranks} must be {count} whole numbers, 1 for the best; equal numbers are ties.")


def item_id(prompt: str, responses: list[str]) -> str:
    """A name for what is judged, from its content: a judgement of other answers to the same prompt never counts for these."""
    return hashlib.sha256("\0".join([prompt, *responses]).encode()).hexdigest()[:16]


class LabelStore:
    """Judgements in SQLite. Every call opens its own connection, so that any thread or process may call; nothing is overwritten."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fields = ", ".join(f"{c} TEXT" if c not in NUMBERS else f"{c} {NUMBERS[c]}" for c in COLUMNS)
        with closing(self._connect()) as db, db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute(f"CREATE TABLE IF NOT EXISTS judgements (id INTEGER PRIMARY KEY, undoes INTEGER, {fields})")

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=30)
        db.execute("PRAGMA synchronous=FULL")
        db.row_factory = sqlite3.Row
        return db

    def add(self, item_id: str, annotator: str, prompt: str, responses: list[str], shown_order: list[int], ranks: list[int],
            session: str = "", confidence: float | None = None, flags: list[str] = (), note: str = "",
            shown_at: float | None = None) -> int:
        """Stores one judgement durably and returns its id. Raises ValueError for ranks that do not fit the responses."""
        check_ranks(ranks, len(responses))
        now = time.time()
        row = (item_id, annotator, session, prompt, responses, shown_order, ranks, confidence, list(flags), note, shown_at or now, now, SCHEMA_VERSION)
        values = [json.dumps(v, ensure_ascii=False) if c in JSON_COLUMNS else v for c, v in zip(COLUMNS, row)]
        with closing(self._connect()) as db, db:
            return db.execute(f"INSERT INTO judgements ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})", values).lastrowid

    def undo(self, judgement_id: int) -> None:
        """Takes a judgement back by a tombstone; the row itself stays. Raises ValueError for an id that is no judgement."""
        with closing(self._connect()) as db, db:
            if not db.execute("SELECT 1 FROM judgements WHERE id = ? AND undoes IS NULL", (judgement_id,)).fetchone():
                raise ValueError(f"There is no judgement {judgement_id} to take back.")
            db.execute("INSERT INTO judgements (undoes, submitted_at, schema_version) VALUES (?, ?, ?)", (judgement_id, time.time(), SCHEMA_VERSION))

    def rows(self, items: list[dict] | None = None) -> list[dict]:
        """The judgements that were not taken back, in the order of submission; with `items` (each with `id`) only those of these items."""
        with closing(self._connect()) as db:
            found = db.execute("SELECT * FROM judgements WHERE undoes IS NULL AND id NOT IN "
                               "(SELECT undoes FROM judgements WHERE undoes IS NOT NULL) ORDER BY id").fetchall()
        wanted = None if items is None else {item["id"] for item in items}
        return [{k: json.loads(row[k]) if k in JSON_COLUMNS else row[k] for k in row.keys() if k != "undoes"}
                for row in found if wanted is None or row["item_id"] in wanted]


def judge(items: list[dict], annotators: list, store: LabelStore, overlap: float, seed: int, track=iter) -> list[dict]:
    """Lets annotators rank items (`id`, `prompt`, `responses`, …): the first `overlap` share by all of them, the others in turn.

    Returns these judgements. Those that the store already has are not asked for again, so that a stopped run goes on; the session
    names the annotator's settings and the seed, so that judgements made under others do not count.
    """
    kept = {(row["item_id"], row["annotator"], row["session"]) for row in store.rows(items)}
    shared, asked = round(overlap * len(items)), set()
    for number, item in enumerate(track(items)):
        for annotator in annotators if number < shared else [annotators[number % len(annotators)]]:
            settings = repr(annotator) if is_dataclass(annotator) else annotator.name
            session = "headless " + hashlib.sha256(f"{seed}/{settings}".encode()).hexdigest()[:12]
            asked.add(key := (item["id"], annotator.name, session))
            if key in kept:
                continue
            rng = random.Random(f"{seed}/{item['id']}/{annotator.name}")
            shown = rng.sample(range(len(item["responses"])), len(item["responses"]))
            ranks = annotator.rank(item, item["responses"], shown, rng)
            store.add(item["id"], annotator.name, item["prompt"], item["responses"], shown, ranks, session)
    return [row for row in store.rows(items) if (row["item_id"], row["annotator"], row["session"]) in asked]


def judgements_to_pairs(judgements: list[dict]) -> list[dict]:
    """Rows of TRL's preference schema (`prompt`, `chosen`, `rejected`), with `item_id`, `annotator` and `margin`, the difference in rank."""
    pairs = []
    for row in judgements:
        for better, worse in ranking_to_pairs(row["ranks"]):
            pairs.append({"prompt": row["prompt"], "chosen": row["responses"][better], "rejected": row["responses"][worse],
                          "item_id": row["item_id"], "annotator": row["annotator"], "margin": row["ranks"][worse] - row["ranks"][better]})
    return pairs


def wilson(successes: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% interval of a proportion (Wilson 1927); (0, 1) where nothing was counted."""
    if count == 0:
        return 0.0, 1.0
    share, spread = successes / count, z * z / count
    middle, half = share + spread / 2, z * np.sqrt(share * (1 - share) / count + spread / (4 * count))
    return float((middle - half) / (1 + spread)), float((middle + half) / (1 + spread))


def agreement(judgements: list[dict]) -> dict:
    """Krippendorff's ordinal alpha over (item, response) ranks, and how often two annotators order a pair the same way.

    Pairs that one of the two tied are left out of the pairwise figure. `ceiling` is the accuracy a perfect model of the majority
    could reach if every annotator is right with the same p: agreement = p² + (1 − p)². NaN where no item has two annotators.
    The interval takes pairs for independent; those of one prompt are not, so it is somewhat too narrow.
    """
    import krippendorff

    by_item: dict[str, dict[str, list[int]]] = {}
    for row in judgements:
        by_item.setdefault(row["item_id"], {})[row["annotator"]] = row["ranks"]
    shared = {item: ranks for item, ranks in by_item.items() if len(ranks) > 1}
    names = sorted({name for ranks in shared.values() for name in ranks})
    table = [[r for item in shared.values() for r in item.get(name, [np.nan] * len(next(iter(item.values()))))] for name in names]
    distinct = {r for row in table for r in row if r == r}
    same = count = 0
    for ranks in shared.values():
        for first, second in itertools.combinations(ranks.values(), 2):
            for a, b in itertools.combinations(range(len(first)), 2):
                if first[a] != first[b] and second[a] != second[b]:
                    count += 1
                    same += (first[a] < first[b]) == (second[a] < second[b])
    raw = same / count if count else float("nan")
    return {
        "items_shared": len(shared), "pairs_compared": count,
        "alpha": float(krippendorff.alpha(reliability_data=table, level_of_measurement="ordinal")) if len(distinct) > 1 else float("nan"),
        "pairwise": raw, "pairwise_ci": wilson(same, count),
        "ceiling": 0.5 * (1 + np.sqrt(max(2 * raw - 1, 0.0))) if count else float("nan"),
    }


def biases(judgements: list[dict]) -> dict:
    """How often the longer response (in words) of a pair wins, and how often the response shown first is ranked best."""
    longer = lengths = first = 0
    for row in judgements:
        words = [len(r.split()) for r in row["responses"]]
        for better, worse in ranking_to_pairs(row["ranks"]):
            lengths += words[better] != words[worse]
            longer += words[better] > words[worse]
        best = min(row["ranks"])
        winners = [i for i, rank in enumerate(row["ranks"]) if rank == best]
        first += (row["shown_order"][0] in winners) / len(winners)
    count = len(judgements)
    by_chance = np.mean([1 / len(row["ranks"]) for row in judgements]) if count else float("nan")
    return {
        "longer_wins": longer / lengths if lengths else float("nan"), "longer_wins_ci": wilson(longer, lengths),
        "first_shown_wins": first / count if count else float("nan"), "first_shown_wins_ci": wilson(first, count),
        "first_shown_by_chance": float(by_chance),
    }
