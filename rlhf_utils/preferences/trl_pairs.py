"""Labels as pairs of TRL's schema: `prompt`, `chosen`, `rejected`, and who judged."""

import hashlib
import json

from ..data.rows import Prompt, recognise
from .label_rows import annotator_in, trusted, whole_row
from .pair_files import pair_row
from .pairs import Item, Judgement, pairs_of, ranking_to_pairs

COLUMNS = ("prompt", "chosen", "rejected", "item_id", "annotator", "margin", "confidence")


def fits(record: dict) -> bool:
    return "chosen" in record or "rejected" in record


def write(judgement: Judgement) -> list[dict]:
    """A row for each pair, each with the whole judgement as JSON."""
    whole, rows = json.dumps(whole_row(judgement)), []
    for pair in pairs_of(judgement, Item(Prompt(judgement.prompt), judgement.answers)):
        row = pair_row(pair)
        rows.append({name: row[name] for name in COLUMNS} | {"judgement": whole})
    return rows


def read(record: dict) -> list[dict]:
    """The judgement that a pair carries; a pair of others ranks its two answers."""
    if own := trusted(record.get("judgement")):
        return [_check_pair(record, own)]
    found = recognise(record, "preferences")
    for column in COLUMNS[:3]:
        if found.get(column) is None:
            raise ValueError(f"column {column!r} is missing")
    prompt, chosen, rejected = (found[column] for column in COLUMNS[:3])
    if chosen == rejected:
        raise ValueError("chosen and rejected are the same text")
    tie = str(found.get("tie")).lower() == "true"  # a .csv file holds texts, and "" for nothing
    row = {"prompt": prompt, "responses": [chosen, rejected], "ranks": [1, 1] if tie else [1, 2]}
    return [row | {"annotator": annotator_in(found), "margin": found.get("margin") or None}]


def _check_pair(record: dict, own: dict) -> dict:
    """The judgement's row, the same for all of its pairs. Raises ValueError if not one of them."""
    held, answers = [], own["responses"]
    for better, worse in ranking_to_pairs(own["ranks"]):
        held.append((own["prompt"], answers[better], answers[worse]))
    if tuple(record.get(column) for column in COLUMNS[:3]) not in held:
        raise ValueError("the judgement of this pair holds no such pair")
    content = hashlib.sha256(record["judgement"].encode()).hexdigest()[:24]
    return own | {"uid": own.get("uid") or content}
