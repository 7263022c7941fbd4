"""Ranking → pairs: what is judged gets a name, a ranking becomes all its ordered pairs, and pairs the columns that TRL reads."""

import hashlib
import itertools


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
