"""Labels in and out: TRL's preference pairs, whole rankings, and JSON shaped like Argilla's records and Label Studio's tasks.

    rankings       one judgement a line (JSONL or parquet), every column of the store
    pairs          TRL's `prompt`, `chosen`, `rejected` (+ `margin`), with what the judgement needs to be put together again
    argilla        records with `fields`, `responses` and `metadata`
    label_studio   tasks with `data` and `annotations`; buckets named by rank hold ties

Each of them read back gives the same judgements; pairs alone cannot hold a skip or a ranking in which all are tied, and say so.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from datasets import Dataset

from .data import json_records, read_table
from .errors import DataError
from .labels import COLUMNS, IMPORTED, KINDS, LabelStore, check_judgement
from .preferences import item_id, judgements_to_pairs, ranking_to_pairs

FORMATS = ("rankings", "pairs", "argilla", "label_studio")
ABOUT = [column for column in COLUMNS if column not in ("prompt", "responses", "ranks")]  # what is known of a judgement beside its ranking
Bad = tuple[int, str]  # line number from 1 and the reason


def to_rows(judgements: list[dict], format: str = "rankings") -> list[dict]:
    """Judgements (LabelStore.rows) as rows of a format; `datasets.Dataset.from_list` makes a Dataset of them. Raises DataError."""
    if format not in FORMATS:
        raise DataError(f"format={format!r} must be one of {', '.join(FORMATS)}.")
    if format == "pairs":
        return [pair for row in judgements for pair in _pairs(row)]
    make = {"rankings": lambda row: {c: row[c] for c in COLUMNS}, "argilla": _to_argilla, "label_studio": _to_label_studio}[format]
    return [make(row) for row in judgements]


def export_labels(judgements: list[dict], path: Path, format: str = "rankings") -> int:
    """Writes judgements to a file and returns how many it holds: JSONL or, by its suffix, parquet; JSON for Argilla and Label Studio.

    Raises DataError for an unknown format, and for a file that the format cannot be.
    """
    path, rows = Path(path), to_rows(judgements, format)
    suffixes = (".json",) if format in ("argilla", "label_studio") else (".jsonl", ".parquet")
    if path.suffix not in suffixes:
        raise DataError(f"{path.name}: labels as {format!r} go into a file ending in {' or '.join(suffixes)}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return len(judgements) if format != "pairs" else sum(bool(ranking_to_pairs(row["ranks"])) for row in judgements)


def import_labels(source: Path | Dataset, store: LabelStore) -> tuple[int, int, list[Bad]]:
    """Stores the judgements of a file or a Dataset. Returns how many were new, how many were there already, and the bad rows: (line, reason) each.

    The good rows of a file with bad ones are stored: mend the bad ones and import the file again, nothing is stored twice.
    """
    rows, bad = read_labels(source)
    before = {row["uid"] for row in store.rows(kinds=KINDS)}
    for row in rows:
        store.add(**{column: row[column] for column in COLUMNS if column != "schema_version"})
    new = len({row["uid"] for row in rows} - before)
    return new, len(rows) - new, bad


def read_labels(source: Path | Dataset) -> tuple[list[dict], list[Bad]]:
    """The judgements of a file or Dataset in any of the formats, told apart by their columns, and its bad rows with their reasons.

    Raises DataError for a file that is no JSON, JSONL or parquet at all.
    """
    rows, bad, pairs, seen = [], [], {}, Counter()
    for line, record in enumerate(source, 1) if isinstance(source, Dataset) else _records(Path(source)):
        try:
            if isinstance(record, Exception):
                raise record
            if not isinstance(record, dict):
                raise ValueError(f"{str(record)[:60]!r} is no object")
            content = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:24]
            seen[content] += 1
            name = f"{content}/{seen[content]}"  # of a judgement without a uid: the same after other lines were mended
            if "chosen" in record:
                judgement, *pair = _from_pair(record, name)
                pairs.setdefault(judgement["uid"], (line, judgement, []))[2].append(pair)
            else:
                rows += [_checked(row, f"{name}/{number}") for number, row in enumerate(_judgements(record))]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            bad.append((line, f"column {error} is missing" if isinstance(error, KeyError) else str(error)))
    for line, judgement, found in pairs.values():
        try:
            rows.append(_checked(_assembled(judgement, found), judgement["uid"]))
        except ValueError as error:
            bad.append((line, str(error)))
    return rows, sorted(bad)


def _records(path: Path) -> Iterable[tuple[int, object]]:
    return enumerate(read_table(path), 1) if path.suffix == ".parquet" else json_records(path)


def _judgements(record: dict) -> list[dict]:
    if "fields" in record:
        return _from_argilla(record)
    if "annotations" in record:
        return _from_label_studio(record)
    return [record]


def _checked(row: dict, name: str) -> dict:
    """A judgement with every column, the missing ones filled in; `name` becomes its uid where it has none. Raises ValueError, KeyError."""
    prompt, responses = row["prompt"], [str(response) for response in row["responses"]]
    if not isinstance(prompt, str) or not prompt.strip() or not all(isinstance(r, str) for r in row["responses"]):
        raise ValueError(f"prompt={prompt!r:.60} and the responses must be texts, the prompt not empty")
    if len(responses) < 2:
        raise ValueError(f"{len(responses)} responses: at least 2 can be compared")
    prompt.encode()  # half a surrogate pair is no text: the error says so
    ranks, kind = [int(rank) for rank in row["ranks"]], row.get("kind") or "ranking"
    shown = [int(place) for place in row.get("shown_order") or range(len(responses))]
    check_judgement(kind, responses, shown, ranks)
    filled = {"item_id": item_id(prompt, responses), "annotator": "imported", "session": IMPORTED, "note": "", "uid": name} | {
        column: row[column] for column in ABOUT if row.get(column) is not None}
    return {column: None for column in COLUMNS} | filled | {
        "prompt": prompt, "responses": responses, "ranks": ranks, "kind": kind, "flags": list(row.get("flags") or []), "shown_order": shown}


def _about(row: dict) -> dict:
    return {column: row[column] for column in ABOUT}


def _pairs(row: dict) -> list[dict]:
    """TRL's rows of one judgement, each with the places of its two responses and, as JSON, all else that is known of it."""
    places = ranking_to_pairs(row["ranks"])
    return [pair | {"chosen_index": chosen, "rejected_index": rejected, "judgement": json.dumps(_about(row))}
            for pair, (chosen, rejected) in zip(judgements_to_pairs([row]), places)]


def _from_pair(record: dict, name: str) -> tuple:
    """(what is known of the judgement, then (place, text) of the chosen and of the rejected response) of a row of TRL's schema."""
    prompt, chosen, rejected = (_plain(record[column], column) for column in ("prompt", "chosen", "rejected"))
    about = json.loads(record["judgement"]) if record.get("judgement") else {
        "uid": name, "annotator": record.get("annotator") or "imported", "margin": record.get("margin")}
    if chosen == rejected:
        raise ValueError("chosen and rejected are the same text")
    return about | {"prompt": prompt}, (int(record.get("chosen_index") or 0), chosen), (int(record.get("rejected_index", 1)), rejected)


def _plain(value, column: str) -> str:
    """A text, or the last turn of a conversation. Raises ValueError."""
    if isinstance(value, list) and value and isinstance(value[-1], dict) and isinstance(value[-1].get("content"), str):
        value = value[-1]["content"]
    if not isinstance(value, str):
        raise ValueError(f"{column}={value!r:.60} is no text")
    return value


def _assembled(judgement: dict, pairs: list[tuple]) -> dict:
    """The ranking that gave these pairs: a response's rank is 1 more than the number of those that were preferred to it."""
    texts = {place: text for pair in pairs for place, text in pair}
    if sorted(texts) != list(range(len(texts))):
        raise ValueError(f"the pairs of this judgement name the responses {sorted(texts)}: some of its rows are missing")
    better = [{chosen[0] for chosen, rejected in pairs if rejected[0] == place} for place in range(len(texts))]
    return judgement | {"responses": [texts[place] for place in sorted(texts)], "ranks": [1 + len(found) for found in better]}


def _to_argilla(row: dict) -> dict:
    """A record of Argilla 2: a ranking question over the fields response-1, response-2, …"""
    names = [f"response-{n}" for n in range(1, len(row["responses"]) + 1)]
    value = [{"value": name, "rank": rank} for name, rank in zip(names, row["ranks"])]
    return {"id": row["uid"], "status": "completed", "fields": {"prompt": row["prompt"]} | dict(zip(names, row["responses"])),
            "responses": {"ranking": [{"value": value, "user_id": row["annotator"]}]} if value else {}, "metadata": _about(row)}


def _from_argilla(record: dict) -> list[dict]:
    fields, about = record["fields"], record.get("metadata") or {}
    names = sorted((name for name in fields if name.startswith("response")), key=lambda name: int("".join(filter(str.isdigit, name)) or 0))
    base = about | {"prompt": fields["prompt"], "responses": [fields[name] for name in names]}
    answers = [answer for given in (record.get("responses") or {}).values() for answer in given]
    if not answers:
        return [base | {"kind": "skip", "ranks": []}]
    many = len(answers) > 1  # a uid of the file's own is for one judgement only
    return [base | {"annotator": answer.get("user_id") or about.get("annotator"), "uid": None if many else about.get("uid"),
                    "ranks": [{entry["value"]: entry["rank"] for entry in answer["value"]}[name] for name in names]} for answer in answers]


def _to_label_studio(row: dict) -> dict:
    """A task of Label Studio: a List of responses and a Ranker whose buckets are the ranks."""
    buckets: dict[str, list[str]] = {}
    for place, rank in enumerate(row["ranks"]):
        buckets.setdefault(str(rank), []).append(str(place))
    result = [{"from_name": "rank", "to_name": "responses", "type": "ranker", "value": {"ranker": buckets}}] if buckets else []
    return {"data": {"prompt": row["prompt"], "responses": [{"id": str(n), "body": text} for n, text in enumerate(row["responses"])]},
            "annotations": [{"completed_by": row["annotator"], "was_cancelled": not buckets, "result": result}], "meta": _about(row)}


def _from_label_studio(record: dict) -> list[dict]:
    """Rankings by buckets named by rank, or by one list of ids, best first."""
    data, found = record["data"], []
    about = record.get("meta") or {}
    entries = next((value for value in data.values() if isinstance(value, list)), [])
    for annotation in record["annotations"]:
        rankings = [result["value"]["ranker"] for result in annotation["result"] if result["type"] == "ranker"]
        rank_of: dict[str, int] = {}
        for name, ids in (rankings[0].items() if rankings else ()):
            rank_of |= {each: int(name) if name.isdigit() else place for place, each in enumerate(ids, 1)}
        found.append(about | {
            "prompt": data["prompt"], "responses": [entry.get("body") or entry.get("html") or entry.get("title") or "" for entry in entries],
            "kind": about.get("kind") or ("ranking" if rankings else "skip"), "ranks": [rank_of[entry["id"]] for entry in entries] if rankings else [],
            "annotator": str(annotation.get("completed_by") or "imported"), "uid": about.get("uid") if len(record["annotations"]) == 1 else None})
    return found
