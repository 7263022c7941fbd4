"""Files of pairs, with TRL's columns (`margin` is the rank gap), and of items."""

from collections.abc import Iterable
from pathlib import Path

from ..data.rows import Prompt, load_pairs_rows
from ..errors import DataError
from ..files import read_file, write_jsonl
from .pairs import Item, Pair


def prompt_columns(prompt: Prompt) -> dict:
    return {"prompt": prompt.text, "category": prompt.category, "key_points": prompt.key_points}


def pair_row(pair: Pair) -> dict:
    """A pair with TRL's column names."""
    row = vars(pair) | prompt_columns(pair.prompt)
    row["margin"] = row.pop("rank_gap")
    return row


def write_pairs(path: Path, pairs: Iterable[Pair]) -> None:
    write_jsonl(path, map(pair_row, pairs))


def read_pairs(source: str | Path, strict: bool = False) -> list[Pair]:
    """Pairs of a file or hub id. Only `prompt`, `chosen` and `rejected` must be there.

    Raises DataError as load_pairs_rows does.
    """
    pairs = []
    for row in load_pairs_rows(str(source), strict):
        pair = Pair(
            Prompt(row["prompt"], row.get("category") or "", row.get("key_points") or []),
            chosen=row["chosen"],
            rejected=row["rejected"],
            split={"ood": "other", "": "train"}.get(row.get("split", ""), row.get("split")),
            annotator=str(row.get("annotator") or ""),
            item_id=str(row.get("item_id") or ""),
            rank_gap=row.get("margin"),
            confidence=row.get("confidence"),
            tie=row.get("tie", False),
            subset=str(row.get("subset") or ""),
        )
        pairs.append(pair)
    return pairs


def write_items(path: Path, items: Iterable[Item]) -> None:
    rows = []
    for item in items:
        answers = {"id": item.id, "answers": item.answers, "split": item.split}
        rows.append(prompt_columns(item.prompt) | {"columns": item.prompt.columns} | answers)
    write_jsonl(path, rows)


def read_items(path: Path) -> list[Item]:
    """Raises DataError for a file of an older version, or one that is damaged."""
    items = []
    for number, row in enumerate(read_file(path), 1):
        try:
            prompt = Prompt(row["prompt"], row["category"], row["key_points"], row["columns"])
            items.append(Item(prompt, row["answers"], row["split"]))
        except (KeyError, TypeError, IndexError) as error:
            missing = f"has no column {error}" if isinstance(error, KeyError) else "is no object"
            raise DataError(
                f"{path.name}, row {number} {missing}: it was written by an older version or is "
                "damaged. Run 02_preferences again."
            ) from None
    return items
