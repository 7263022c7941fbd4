"""Labels in and out: TRL's preference pairs, whole rankings, and JSON shaped like Argilla's records and Label Studio's tasks.

    rankings       one judgement a line (JSONL or parquet), every column of the store
    pairs          TRL's `prompt`, `chosen`, `rejected` (+ `margin`), each with its whole judgement as JSON
    argilla        records with `fields`, `responses` and `metadata`
    label_studio   tasks with `data` and `annotations`; buckets named by rank hold ties

Each of them read back gives the same judgements; pairs alone cannot hold a skip or a ranking in which all are tied, and say so.
"""

import hashlib
import json
from collections import Counter
from pathlib import Path

from datasets import Dataset

from ..data.rows import last_message
from ..errors import DataError
from ..files import records
from .pairs import item_id, judgements_to_pairs
from .store import COLUMNS, IMPORTED, LabelStore, check_judgement

ABOUT = [
    column for column in COLUMNS if column not in ("prompt", "responses", "ranks")
]  # what is known of a judgement beside its ranking
Bad = tuple[int, str]  # line number from 1 and the reason


def to_rows(judgements: list[dict], format: str = "rankings") -> list[dict]:
    """Judgements (LabelStore.rows) as rows of a format; `datasets.Dataset.from_list` makes a Dataset of them. Raises DataError."""
    rows = [{column: row[column] for column in COLUMNS} for row in judgements]
    if format == "rankings":
        return rows
    if format == "pairs":
        return [
            pair | {"judgement": json.dumps(row)}
            for row in rows
            for pair in judgements_to_pairs([row])
        ]
    if format in ("argilla", "label_studio"):
        return [(_to_argilla if format == "argilla" else _to_label_studio)(row) for row in rows]
    raise DataError(f"format={format!r} must be one of rankings, pairs, argilla, label_studio.")


def export_labels(judgements: list[dict], path: Path, format: str = "rankings") -> int:
    """Writes judgements to a file and returns how many it holds: JSONL or, by its suffix, parquet; JSON for Argilla and Label Studio.

    Raises DataError for an unknown format, and for a file that the format cannot be.
    """
    path, rows = Path(path), to_rows(judgements, format)
    suffixes = (".json",) if format in ("argilla", "label_studio") else (".jsonl", ".parquet")
    if path.suffix not in suffixes:
        raise DataError(
            f"{path.name}: labels as {format!r} go into a file ending in {' or '.join(suffixes)}."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return len({row["judgement"] for row in rows}) if format == "pairs" else len(rows)


def import_labels(source: Path | Dataset, store: LabelStore) -> tuple[int, int, list[Bad]]:
    """Stores the judgements of a file or a Dataset. Returns how many were new, how many were there already, and the bad rows: (line, reason) each.

    The good rows of a file with bad ones are stored: mend the bad ones and import the file again, nothing is stored twice.
    """
    rows, bad = read_labels(source)
    before = len(store.progress())
    for row in rows:
        store.add(**{column: row[column] for column in COLUMNS if column != "schema_version"})
    new = len(store.progress()) - before
    return new, len(rows) - new, bad


def read_labels(source: Path | Dataset) -> tuple[list[dict], list[Bad]]:
    """The judgements of a file or Dataset in any of the formats, told apart by their columns, and its bad rows with their reasons.

    Raises DataError for a file that is no JSON, JSONL or parquet at all.
    """
    rows, bad, seen = {}, [], Counter()  # rows by uid: all pairs of a judgement hold the same
    for line, record in (
        enumerate(source, 1) if isinstance(source, Dataset) else records(Path(source))
    ):
        try:
            if isinstance(record, Exception):
                raise record
            if not isinstance(record, dict):
                raise ValueError(f"{str(record)[:60]!r} is no object")
            content = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:24]
            seen[content] += 1
            name = f"{content}/{seen[content]}"  # of a judgement without a uid: the same after other lines were mended
            found = [
                _checked(row, f"{name}/{number}")
                for number, row in enumerate(_judgements(record, name))
            ]
            for row in found:
                rows.setdefault(row["uid"], row)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            bad.append(
                (line, f"column {error} is missing" if isinstance(error, KeyError) else str(error))
            )
    return list(rows.values()), bad


def _judgements(record: dict, name: str) -> list[dict]:
    """What one record of any format says, not yet checked."""
    if "chosen" in record:
        return [_from_pair(record, name)]
    if "fields" in record:
        about, found = record.get("metadata") or {}, _from_argilla(record)
    elif "annotations" in record:
        about, found = record.get("meta") or {}, _from_label_studio(record)
    else:
        return [record]
    uid = (
        about.get("uid") if len(found) == 1 else None
    )  # a uid of the file's own is for one judgement only
    return [
        about | {key: value for key, value in row.items() if value is not None} | {"uid": uid}
        for row in found
    ]


def _checked(row: dict, name: str) -> dict:
    """A judgement with every column, the missing ones filled in; `name` becomes its uid where it has none. Raises ValueError, KeyError."""
    prompt, responses = row["prompt"], list(row["responses"])
    if (
        not isinstance(prompt, str)
        or not prompt.strip()
        or not all(isinstance(response, str) for response in responses)
    ):
        raise ValueError(
            f"prompt={prompt!r:.60} and the responses must be texts, the prompt not empty"
        )
    if len(responses) < 2:
        raise ValueError(f"{len(responses)} responses: at least 2 can be compared")
    prompt.encode()  # half a surrogate pair is no text: the error says so
    ranks, kind = [int(rank) for rank in row["ranks"]], row.get("kind") or "ranking"
    shown = [int(place) for place in row.get("shown_order") or range(len(responses))]
    check_judgement(kind, responses, shown, ranks)
    filled = {
        "item_id": item_id(prompt, responses),
        "annotator": "imported",
        "session": IMPORTED,
        "note": "",
        "flags": [],
        "uid": name,
    }
    known = {column: row[column] for column in ABOUT if row.get(column) is not None}
    return (
        dict.fromkeys(COLUMNS)
        | filled
        | known
        | {
            "prompt": prompt,
            "responses": responses,
            "ranks": ranks,
            "kind": kind,
            "shown_order": shown,
        }
    )


def _about(row: dict) -> dict:
    return {column: row[column] for column in ABOUT}


def _from_pair(record: dict, name: str) -> dict:
    """The judgement that a row of TRL's schema holds, or a ranking of its two texts, whose uid `name` becomes. Raises ValueError, KeyError."""
    pair = {column: last_message(record[column]) for column in ("prompt", "chosen", "rejected")}
    for column, text in pair.items():
        if not isinstance(text, str):
            raise ValueError(f"{column}={text!r:.60} is no text")
    if record.get("judgement"):
        judgement = json.loads(record["judgement"])
        if not any(pair.items() <= made.items() for made in judgements_to_pairs([judgement])):
            raise ValueError("the judgement of this pair holds no such pair")
        return judgement | {
            "uid": judgement.get("uid")
            or hashlib.sha256(record["judgement"].encode()).hexdigest()[:24]
        }  # of schema 1: none
    if pair["chosen"] == pair["rejected"]:
        raise ValueError("chosen and rejected are the same text")
    return {
        "uid": name,
        "annotator": record.get("annotator"),
        "margin": record.get("margin"),
        "prompt": pair["prompt"],
        "responses": [pair["chosen"], pair["rejected"]],
        "ranks": [1, 2],
    }


def _to_argilla(row: dict) -> dict:
    """A record of Argilla 2: a ranking question over the fields response-1, response-2, …"""
    names = [f"response-{n}" for n in range(1, len(row["responses"]) + 1)]
    value = [{"value": name, "rank": rank} for name, rank in zip(names, row["ranks"])]
    return {
        "id": row["uid"],
        "status": "completed",
        "fields": {"prompt": row["prompt"]} | dict(zip(names, row["responses"])),
        "responses": {"ranking": [{"value": value, "user_id": row["annotator"]}]} if value else {},
        "metadata": _about(row),
    }


def _from_argilla(record: dict) -> list[dict]:
    fields = record["fields"]
    names = sorted(
        (name for name in fields if name.startswith("response")),
        key=lambda name: int("".join(filter(str.isdigit, name)) or 0),
    )
    base = {"prompt": fields["prompt"], "responses": [fields[name] for name in names]}
    answers = [answer for given in (record.get("responses") or {}).values() for answer in given]
    if not answers:
        return [base | {"kind": "skip", "ranks": []}]
    return [
        base
        | {
            "annotator": answer.get("user_id"),
            "ranks": [
                {entry["value"]: entry["rank"] for entry in answer["value"]}[name] for name in names
            ],
        }
        for answer in answers
    ]


def _to_label_studio(row: dict) -> dict:
    """A task of Label Studio: a List of responses and a Ranker whose buckets are the ranks."""
    buckets: dict[str, list[str]] = {}
    for place, rank in enumerate(row["ranks"]):
        buckets.setdefault(str(rank), []).append(str(place))
    result = (
        [
            {
                "from_name": "rank",
                "to_name": "responses",
                "type": "ranker",
                "value": {"ranker": buckets},
            }
        ]
        if buckets
        else []
    )
    return {
        "data": {
            "prompt": row["prompt"],
            "responses": [{"id": str(n), "body": text} for n, text in enumerate(row["responses"])],
        },
        "annotations": [
            {"completed_by": row["annotator"], "was_cancelled": not buckets, "result": result}
        ],
        "meta": _about(row),
    }


def _from_label_studio(record: dict) -> list[dict]:
    """Rankings by buckets named by rank, or by one list of ids, best first."""
    data, found = record["data"], []
    entries = next((value for value in data.values() if isinstance(value, list)), [])
    responses = [
        entry.get("body") or entry.get("html") or entry.get("title") or "" for entry in entries
    ]
    for annotation in record["annotations"]:
        rankings = [
            result["value"]["ranker"]
            for result in annotation["result"]
            if result["type"] == "ranker"
        ]
        rank_of: dict[str, int] = {}
        for name, ids in rankings[0].items() if rankings else ():
            rank_of |= {
                each: int(name) if name.isdigit() else place for place, each in enumerate(ids, 1)
            }
        found.append(
            {
                "prompt": data["prompt"],
                "responses": responses,
                "annotator": str(annotation.get("completed_by") or "imported"),
                "kind": None if rankings else "skip",
                "ranks": [rank_of[entry["id"]] for entry in entries] if rankings else [],
            }
        )
    return found
