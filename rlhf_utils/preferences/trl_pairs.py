"""Labels as pairs of TRL's schema: `prompt`, `chosen`, `rejected`, and who judged."""

import hashlib
import json

from ..data.rows import Prompt, recognise
from .label_rows import Row, annotator_in, trusted
from .label_rows import write as write_row
from .pair_files import pair_row
from .pairs import Item, Judgement, pairs_of, ranking_to_pairs

ENDINGS = (".jsonl", ".parquet")
TEXTS = ("prompt", "chosen", "rejected")
COLUMNS = (*TEXTS, "item_id", "annotator", "margin", "confidence")


def fits(record: dict) -> bool:
    return any(str(name).strip().lower() in ("chosen", "rejected") for name in record)


def write(judgement: Judgement) -> list[dict]:
    """A row for each pair, each with the whole judgement as JSON."""
    whole, rows = json.dumps(write_row(judgement)[0]), []
    for pair in pairs_of(judgement, Item(Prompt(judgement.prompt), judgement.answers)):
        row = pair_row(pair)
        rows.append({name: row[name] for name in COLUMNS} | {"judgement": whole})
    return rows


def read(record: dict) -> list[Row]:
    """The judgement that a pair carries; a pair of others ranks its two answers."""
    if own := trusted(record.get("judgement")):
        held, answers = [], own["responses"]
        for better, worse in ranking_to_pairs(own["ranks"]):
            held.append((own["prompt"], answers[better], answers[worse]))
        if tuple(record.get(column) for column in TEXTS) not in held:
            raise ValueError("the judgement of this pair holds no such pair")
        content = hashlib.sha256(record["judgement"].encode()).hexdigest()[:24]
        return [own | {"uid": own.get("uid") or content}]
    found = recognise(record, "preferences")
    prompt, *answers = (found[column] for column in TEXTS)
    if answers[0] == answers[1]:
        raise ValueError("chosen and rejected are the same text")
    row = {"prompt": prompt, "responses": answers, "ranks": [1, 1] if found.get("tie") else [1, 2]}
    about = {"annotator": annotator_in(found), "confidence": found.get("confidence")}
    return [row | about | {"margin": found.get("margin") or None}]
