"""Ranking → pairs: what is judged gets a name, a ranking becomes all its ordered pairs, and pairs the columns that TRL reads."""

import hashlib
import itertools

from ..errors import DataError


def ranking_to_pairs(ranks: list[int]) -> list[tuple[int, int]]:
    """All ordered pairs (better, worse) of a ranking in which 1 is best and equal ranks are ties, which give no pair."""
    return [(a, b) for a, b in itertools.permutations(range(len(ranks)), 2) if ranks[a] < ranks[b]]


def item_id(prompt: str, responses: list[str]) -> str:
    """A name for what is judged, from its content: a judgement of other answers to the same prompt never counts for these."""
    return hashlib.sha256(
        "\0".join([prompt, *responses]).encode("utf-8", "backslashreplace")
    ).hexdigest()[:16]


def judgements_to_pairs(judgements: list[dict]) -> list[dict]:
    """Rows of TRL's preference schema (`prompt`, `chosen`, `rejected`), with `item_id`, `annotator`, `confidence` and `margin`.

    margin: how much better an annotator said that the chosen answer is; where nobody asked, the difference in rank.
    """
    pairs = []
    for row in judgements:
        for better, worse in ranking_to_pairs(row["ranks"]):
            margin = row.get("margin") or row["ranks"][worse] - row["ranks"][better]
            pairs.append(
                {
                    "prompt": row["prompt"],
                    "chosen": row["responses"][better],
                    "rejected": row["responses"][worse],
                    "item_id": row["item_id"],
                    "annotator": row["annotator"],
                    "margin": margin,
                    "confidence": row.get("confidence"),
                }
            )
    return pairs


def usable_pairs(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """(rows that can be learned from, what was found): one row of `finding`, `pairs`, `what happens`, `example` for each kind of oddity.

    Pairs of equal answers and pairs with an answer that is no text, or an empty one, are left out; ties and contradictions stay.
    Raises DataError if nothing is left.
    """
    kept, kinds, texts = (
        [],
        {},
        [[row[name] for name in ("prompt", "chosen", "rejected")] for row in rows],
    )
    judged = {tuple(of_row) for of_row in texts if all(isinstance(text, str) for text in of_row)}
    for row, (prompt, chosen, rejected) in zip(rows, texts):
        if not all(isinstance(text, str) for text in (prompt, chosen, rejected)):
            kind = "not text", "left out"
        elif not (chosen.strip() and rejected.strip()):
            kind = "an empty answer", "left out"
        elif chosen.strip() == rejected.strip():
            kind = "both answers equal", "left out"
        elif row.get("tie"):
            kind = "a tie", "half a pair each way; not in the report card"
        else:
            kind = (
                ("judged both ways", "kept")
                if (prompt, rejected, chosen) in judged
                else ("", "kept")
            )
        if kind[1] != "left out":
            kept.append(row)
        kinds.setdefault(kind, []).append(row)
    kinds.pop(("", "kept"), None)  # nothing odd
    if not kept:
        raise DataError(
            f"None of {len(rows)} pairs can be used: {', '.join(f'{len(few)} {kind}' for (kind, _), few in kinds.items()) or 'there are none'}."
        )
    found = [
        {
            "finding": kind,
            "pairs": len(few),
            "what happens": fate,
            "example": str(few[0]["prompt"])[:80],
        }
        for (kind, fate), few in kinds.items()
    ]
    return kept, found


def check_split(train: list[dict], heldout: list[dict]) -> None:
    """Raises DataError if a prompt is on both sides: its answers would be known already."""
    both = {row["prompt"] for row in train} & {row["prompt"] for row in heldout}
    if both:
        raise DataError(
            f"{len(both)} prompts are both in the training and in the held-out pairs, such as {min(both)[:80]!r}: keep each on one side."
        )
