"""Labels in and out: files of four formats, each with a writer and a reader side by side.

    rankings       one judgement a line (JSONL or parquet), with the columns of the store
    pairs          TRL's `prompt`, `chosen`, `rejected`, `margin`, each with its whole judgement
    argilla        JSON like Argilla's records: `fields`, `responses` and `metadata`
    label_studio   JSON like Label Studio's tasks: `data` and `annotations`

What is written and read back is the same judgements. Only pairs lose some: a skip and a ranking in
which all are tied make no pair.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from ..data.rows import Prompt, recognise
from ..errors import DataError
from ..files import records, write_text
from .pair_files import pair_row
from .pairs import IMPORTED, Item, Judgement, pairs_of, ranking_to_pairs
from .store import FIELDS, LabelStore, judgement_row

Bad = tuple[int, str]  # line number from 1, and the reason


def export_labels(judgements: list[Judgement], path: Path, format: str = "rankings") -> int:
    """Writes judgements to a file and returns how many it holds.

    Raises DataError for an unknown format, and for an ending that it does not have.
    """
    path = Path(path)
    if format not in FORMATS:
        raise DataError(f"format={format!r} must be one of {', '.join(FORMATS)}.")
    endings = FORMATS[format].endings
    if path.suffix not in endings:
        raise DataError(
            f"{path.name}: labels as {format!r} go into a file ending in {' or '.join(endings)}."
        )
    rows, count = [], 0
    for judgement in judgements:
        written = FORMATS[format].write(judgement)
        rows += written
        count += bool(written)
    if path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    elif path.suffix == ".json":
        write_text(path, json.dumps(rows, indent=1))
    else:  # as ASCII, so that half a surrogate pair in an answer can be written
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return count


def import_labels(path: Path, store: LabelStore) -> tuple[int, int, list[Bad]]:
    """Stores the judgements of a file. Returns how many are new, how many known, and bad rows.

    Mend the bad rows and import the file again: nothing is stored twice.
    """
    judgements, bad = read_labels(path)
    before = len(store.progress())
    for judgement in judgements:
        store.add(judgement)
    new = len(store.progress()) - before
    return new, len(judgements) - new, bad


def read_labels(path: Path) -> tuple[list[Judgement], list[Bad]]:
    """The judgements of a file in any of the formats, and its bad rows.

    Raises DataError for a file that cannot be read at all.
    """
    found: dict[str, Judgement] = {}  # by uid: all pairs of a judgement hold the same one
    bad, seen = [], Counter()
    for line, record in records(Path(path)):
        try:
            for judgement in _read_record(record, seen):
                found.setdefault(judgement.uid, judgement)
        except KeyError as error:
            bad.append((line, f"column {error} is missing"))
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            bad.append((line, str(error)))
    return list(found.values()), bad


def _read_record(record, seen: Counter) -> list[Judgement]:
    """The judgements of one record. `seen` counts equal records, so that each gets its own uid.

    A uid comes from the content, not the line: it stays when other lines are mended.
    """
    if isinstance(record, Exception):
        raise record
    if not isinstance(record, dict):
        raise ValueError(f"{str(record)[:60]!r} is no object")
    content = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:24]
    seen[content] += 1
    uid = f"{content}/{seen[content]}"
    format = next((each for each in FORMATS.values() if each.column in record), FORMATS["rankings"])
    rows = format.read(record)
    if "chosen" in record:
        return [_judgement(rows[0], uid)]
    if len(rows) > 1:  # a uid in the record can be that of a single judgement only
        rows = [row | {"uid": None} for row in rows]
    return [_judgement(row, f"{uid}/{number}") for number, row in enumerate(rows)]


def _judgement(row: dict, uid: str) -> Judgement:
    """The judgement of a row with the store's columns; `uid` is for a row without one."""
    prompt, answers = row["prompt"], list(row["responses"])
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"prompt={prompt!r:.60} must be a text that is not empty")
    prompt.encode()  # half a surrogate pair is no text: the error says so
    if not all(isinstance(answer, str) for answer in answers):
        raise ValueError("the responses must be texts")
    if len(answers) < 2:
        raise ValueError(f"{len(answers)} responses: at least 2 can be compared")
    values = {
        "item_id": Item(Prompt(prompt), answers).id,
        "annotator": "imported",
        "session": IMPORTED,
        "uid": uid,
    }
    for column, field in FIELDS.items():
        if row.get(column) is not None:
            values[field] = row[column]
    shown_order = row.get("shown_order") or range(len(answers))
    values |= {
        "annotator": str(values["annotator"]),  # other tools number people
        "answers": answers,
        "ranks": [int(rank) for rank in row["ranks"]],
        "shown_order": [int(place) for place in shown_order],
    }
    judgement = Judgement(**values)
    judgement.check()
    return judgement


# --- pairs, as TRL reads them

PAIR_COLUMNS = ("prompt", "chosen", "rejected", "item_id", "annotator", "margin", "confidence")


def write_trl(judgement: Judgement) -> list[dict]:
    whole, rows = json.dumps(judgement_row(judgement)), []
    for pair in pairs_of(judgement, Item(Prompt(judgement.prompt), judgement.answers)):
        row = pair_row(pair)
        rows.append({name: row[name] for name in PAIR_COLUMNS} | {"judgement": whole})
    return rows


def read_trl(record: dict) -> list[dict]:
    """The judgement that a pair carries; a plain pair of TRL's schema ranks its two answers."""
    record = recognise(record, "preferences")
    prompt, chosen, rejected = (record[column] for column in PAIR_COLUMNS[:3])
    if whole := record.get("judgement"):
        row = json.loads(whole)
        held = []
        for better, worse in ranking_to_pairs(row["ranks"]):
            held.append((row["prompt"], row["responses"][better], row["responses"][worse]))
        if (prompt, chosen, rejected) not in held:
            raise ValueError("the judgement of this pair holds no such pair")
        uid = hashlib.sha256(whole.encode()).hexdigest()[:24]  # the same for all of its pairs
        return [row | {"uid": row.get("uid") or uid}]
    if chosen == rejected:
        raise ValueError("chosen and rejected are the same text")
    row = {"prompt": prompt, "responses": [chosen, rejected], "ranks": [1, 2]}
    return [row | {"annotator": record.get("annotator"), "margin": record.get("margin")}]


# --- Argilla 2: a ranking question over the fields response-1, response-2, …


def write_argilla(judgement: Judgement) -> list[dict]:
    names = [f"response-{number}" for number in range(1, len(judgement.answers) + 1)]
    value = [{"value": name, "rank": rank} for name, rank in zip(names, judgement.ranks)]
    given = {"ranking": [{"value": value, "user_id": judgement.annotator}]}
    record = {
        "id": judgement.uid,
        "status": "completed",
        "fields": {"prompt": judgement.prompt} | dict(zip(names, judgement.answers)),
        "responses": given if value else {},
        "metadata": _about(judgement),
    }
    return [record]


def read_argilla(record: dict) -> list[dict]:
    """A row for each user; no response at all is a skip."""
    fields = record["fields"]
    names = [name for name in fields if name.startswith("response")]
    names.sort(key=lambda name: (len(name), name))  # response-10 comes after response-9
    texts = {"prompt": fields["prompt"], "responses": [fields[name] for name in names]}
    base = (record.get("metadata") or {}) | texts
    rows = []
    for responses in (record.get("responses") or {}).values():
        for response in responses:
            rank_of = {entry["value"]: entry["rank"] for entry in response["value"]}
            annotator = response.get("user_id") or base.get("annotator")
            ranks = [rank_of[name] for name in names]
            rows.append(base | {"annotator": annotator, "ranks": ranks})
    return rows or [base | {"kind": "skip", "ranks": []}]


def _about(judgement: Judgement) -> dict:
    row = judgement_row(judgement)
    return {name: row[name] for name in row if name not in ("prompt", "responses", "ranks")}


# --- Label Studio: a List of answers and a Ranker whose buckets are named by rank, so ties fit


def write_label_studio(judgement: Judgement) -> list[dict]:
    buckets: dict[str, list[str]] = {}
    for number, rank in enumerate(judgement.ranks):
        buckets.setdefault(str(rank), []).append(str(number))
    ranker = {"from_name": "rank", "to_name": "responses", "type": "ranker"}
    annotation = {
        "completed_by": judgement.annotator,
        "was_cancelled": not buckets,
        "result": [ranker | {"value": {"ranker": buckets}}] if buckets else [],
    }
    entries = [{"id": str(number), "body": text} for number, text in enumerate(judgement.answers)]
    record = {
        "data": {"prompt": judgement.prompt, "responses": entries},
        "annotations": [annotation],
        "meta": _about(judgement),
    }
    return [record]


def read_label_studio(record: dict) -> list[dict]:
    """A row for each annotation; one without a ranking is a skip."""
    data = record["data"]
    entries = next((value for value in data.values() if isinstance(value, list)), [])
    texts = []
    for entry in entries:
        texts.append(entry.get("body") or entry.get("html") or entry.get("title") or "")
    base = (record.get("meta") or {}) | {"prompt": data["prompt"], "responses": texts}
    rows = []
    for annotation in record["annotations"]:
        row = base | {"annotator": annotation.get("completed_by") or base.get("annotator")}
        rank_of = _ranks_of_buckets(annotation["result"])
        if rank_of is None:
            rows.append(row | {"kind": "skip", "ranks": []})
        else:
            rows.append(row | {"ranks": [rank_of[entry["id"]] for entry in entries]})
    return rows


def _ranks_of_buckets(results: list[dict]) -> dict[str, int] | None:
    """Answer id → rank, from buckets named by rank or one list, best first; None if neither."""
    for result in results:
        if result["type"] == "ranker":
            rank_of = {}
            for name, ids in result["value"]["ranker"].items():
                for place, each in enumerate(ids, 1):
                    rank_of[each] = int(name) if name.isdigit() else place
            return rank_of
    return None


@dataclass
class Format:
    column: str  # a record that has it is of this format
    endings: tuple[str, ...]  # of files
    write: Callable[[Judgement], list[dict]]
    read: Callable[[dict], list[dict]]  # record → rows with the store's columns


LINES, WHOLE = (".jsonl", ".parquet"), (".json",)
FORMATS = {
    "pairs": Format("chosen", LINES, write_trl, read_trl),
    "argilla": Format("fields", WHOLE, write_argilla, read_argilla),
    "label_studio": Format("annotations", WHOLE, write_label_studio, read_label_studio),
    "rankings": Format(
        "ranks", LINES, lambda judgement: [judgement_row(judgement)], lambda row: [row]
    ),
}
