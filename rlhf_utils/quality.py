"""How good are the labels? Agreement between annotators and with oneself, time, and what sways them beside the content.

Left out: models of single annotators' skill.
"""

import itertools

import numpy as np
import pandas as pd

from .labels import IMPORTED
from .preferences import ranking_to_pairs
from .show import table


def wilson(successes: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% interval of a proportion (Wilson 1927); (0, 1) where nothing was counted."""
    if count == 0:
        return 0.0, 1.0
    share, spread = successes / count, z * z / count
    middle, half = share + spread / 2, z * np.sqrt(share * (1 - share) / count + spread / (4 * count))
    return float((middle - half) / (1 + spread)), float((middle + half) / (1 + spread))


def clustered_interval(successes: list[float], counts: list[int], seed: int = 0, draws: int = 1000) -> tuple[float, float]:
    """The 95% bootstrap interval of Σ successes / Σ counts over items, whose pairs hang together; (0, 1) for fewer than two items."""
    if sum(count > 0 for count in counts) < 2:
        return 0.0, 1.0
    drawn = np.random.default_rng(seed).integers(len(counts), size=(draws, len(counts)))
    sums = np.array(counts, float)[drawn].sum(1)
    shares = np.array(successes, float)[drawn].sum(1)[sums > 0] / sums[sums > 0]
    return float(np.quantile(shares, 0.025)), float(np.quantile(shares, 0.975))


def _same_order(first: list[int], second: list[int]) -> tuple[int, int]:
    """(pairs ordered alike, pairs that neither tied) of two rankings of the same responses."""
    pairs = [(first[a] < first[b]) == (second[a] < second[b]) for a, b in itertools.combinations(range(len(first)), 2)
             if first[a] != first[b] and second[a] != second[b]]
    return sum(pairs), len(pairs)


def agreement(judgements: list[dict]) -> dict:
    """Krippendorff's ordinal alpha over (item, response) ranks, and how often two annotators order a pair the same way.

    Pairs that one of the two tied are left out of the pairwise figure; its interval is bootstrapped over items. `ceiling` is the accuracy
    a perfect model of the majority could reach if every annotator is right with the same p: agreement = p² + (1 − p)². NaN where no
    item has two annotators.
    """
    import krippendorff

    by_item: dict[str, dict[str, list[int]]] = {}
    for row in judgements:
        by_item.setdefault(row["item_id"], {})[row["annotator"]] = row["ranks"]
    shared = {item: ranks for item, ranks in by_item.items() if len(ranks) > 1}
    names = sorted({name for ranks in shared.values() for name in ranks})
    table = [[r for item in shared.values() for r in item.get(name, [np.nan] * len(next(iter(item.values()))))] for name in names]
    distinct = {r for row in table for r in row if r == r}
    counted = [np.sum([_same_order(a, b) for a, b in itertools.combinations(ranks.values(), 2)], axis=0).tolist() for ranks in shared.values()]
    same, count = (sum(part) for part in zip(*counted)) if counted else (0, 0)
    raw = same / count if count else float("nan")
    return {
        "items_shared": len(shared), "pairs_compared": count,
        "alpha": float(krippendorff.alpha(reliability_data=table, level_of_measurement="ordinal")) if len(distinct) > 1 else float("nan"),
        "pairwise": raw, "pairwise_ci": clustered_interval(*zip(*counted)) if count else (0.0, 1.0),
        "ceiling": 0.5 * (1 + np.sqrt(max(2 * raw - 1, 0.0))) if count else float("nan"),
    }


def biases(judgements: list[dict]) -> dict:
    """How often the longer response (in words) of a pair wins, and how often the response shown first is ranked best.

    The second leaves out what was imported without a session, as that does not say in which order its answers were shown.
    """
    longer, lengths, firsts, by_chance = [], [], [], []
    for row in judgements:
        words = [len(r.split()) for r in row["responses"]]
        pairs = [(words[better] > words[worse]) for better, worse in ranking_to_pairs(row["ranks"]) if words[better] != words[worse]]
        longer.append(sum(pairs))
        lengths.append(len(pairs))
        if row.get("session") != IMPORTED:
            winners = [i for i, rank in enumerate(row["ranks"]) if rank == min(row["ranks"])]
            firsts.append((row["shown_order"][0] in winners) / len(winners))
            by_chance.append(1 / len(row["ranks"]))
    first, count = sum(firsts), len(firsts)
    return {
        "longer_wins": sum(longer) / sum(lengths) if sum(lengths) else float("nan"), "longer_wins_ci": clustered_interval(longer, lengths),
        "first_shown_wins": first / count if count else float("nan"), "first_shown_wins_ci": wilson(first, count),
        "first_shown_by_chance": sum(by_chance) / count if count else float("nan"),
    }


def self_consistency(judgements: list[dict]) -> dict:
    """How often annotators order a pair as they did before, over items that they were asked twice (kind "repeat"); NaN without any."""
    first = {(row["annotator"], row["item_id"]): row["ranks"] for row in judgements if row["kind"] == "ranking"}
    counted = [_same_order(first[key], row["ranks"]) for row in judgements
               if row["kind"] == "repeat" and (key := (row["annotator"], row["item_id"])) in first]
    same, count = (sum(part) for part in zip(*counted)) if counted else (0, 0)
    return {"repeats": len(counted), "consistency": same / count if count else float("nan"),
            "consistency_ci": clustered_interval(*zip(*counted)) if counted else (0.0, 1.0)}


def seconds_each(judgements: list[dict]) -> float:
    """The median of the seconds from showing an item to its submission; NaN without judgements."""
    return float(np.median([row["submitted_at"] - row["shown_at"] for row in judgements])) if judgements else float("nan")


def readout(judgements: list[dict]) -> list[dict]:
    """One row a measure: `measure`, `value`, `interval`, `meaning` (a sentence, with when to worry), `worry` (whether it is time to).

    judgements: of any kind (LabelStore.rows with kinds=KINDS). Values that cannot be known yet are NaN, and no cause to worry.
    """
    ranked = [row for row in judgements if row["kind"] == "ranking"]
    agree, bias, self_, seconds = agreement(ranked), biases(ranked), self_consistency(judgements), seconds_each(ranked)
    chance = bias["first_shown_by_chance"]
    first_low, first_high = bias["first_shown_wins_ci"]
    return [
        {"measure": "Krippendorff's alpha", "value": agree["alpha"], "interval": None, "worry": agree["alpha"] < 0.4,
         "meaning": "1 is perfect agreement, 0 chance; on free-form answers 0.4 to 0.7 is common. Below 0.4: talk about the guidelines."},
        {"measure": "agreement on a pair", "value": agree["pairwise"], "interval": agree["pairwise_ci"], "worry": agree["pairwise_ci"][1] < 0.7,
         "meaning": "How often two people order two answers alike; about 0.73 in published work (Ouyang 2022). Surely below 0.7: too noisy."},
        {"measure": "ceiling for a reward model", "value": agree["ceiling"], "interval": None, "worry": agree["ceiling"] < 0.75,
         "meaning": "The accuracy that this agreement allows at most. A model above it has learned the labels by heart."},
        {"measure": "agreement with oneself", "value": self_["consistency"], "interval": self_["consistency_ci"], "worry": self_["consistency_ci"][1] < 0.8,
         "meaning": "The same item asked twice. Surely below 0.8: the annotator is tired, or the answers are too much alike."},
        {"measure": "seconds a ranking", "value": seconds, "interval": None, "worry": seconds < 3 and any(r["session"] in ("widget", "form") for r in ranked),
         "meaning": "The median. Below 3 seconds nobody has read four answers."},
        {"measure": "longer answer wins", "value": bias["longer_wins"], "interval": bias["longer_wins_ci"],
         "worry": bias["longer_wins_ci"][0] > 0.6 or bias["longer_wins_ci"][1] < 0.4,
         "meaning": "Half the time if length does not matter. Far from it, the reward model learns length, meant or not."},
        {"measure": "first shown wins", "value": bias["first_shown_wins"], "interval": bias["first_shown_wins_ci"],
         "worry": not first_low <= chance <= first_high if ranked else False,
         "meaning": f"{chance:.0%} by chance. Chance outside the interval: the place on the screen sways the ranking." if ranked else "Chance is 1 in k."},
    ]


def by_annotator(judgements: list[dict]) -> list[dict]:
    """One row an annotator: judgements of each kind, flagged items, seconds, agreement with the others and with oneself, biases."""
    rows, by_item = [], {}
    for row in judgements:
        if row["kind"] == "ranking":
            by_item.setdefault(row["item_id"], []).append(row)
    for name in sorted({row["annotator"] for row in judgements}):
        own = [row for row in judgements if row["annotator"] == name]
        ranked = [row for row in own if row["kind"] == "ranking"]
        counted = [_same_order(a["ranks"], b["ranks"]) for a in ranked for b in by_item[a["item_id"]] if b["annotator"] != name]
        count = sum(part[1] for part in counted)
        bias = biases(ranked)
        rows.append({"annotator": name, "ranked": len(ranked), "skipped": sum(r["kind"] == "skip" for r in own), "flagged": sum(bool(r["flags"]) for r in own),
                     "seconds": seconds_each(ranked), "agrees with others": sum(part[0] for part in counted) / count if count else float("nan"),
                     "agrees with oneself": self_consistency(own)["consistency"], "longer wins": bias["longer_wins"], "first shown wins": bias["first_shown_wins"]})
    return rows


def readout_html(judgements: list[dict]) -> str:
    """The read-out and the annotators' table as HTML, every text escaped; measures to worry about are marked, not by colour alone."""
    measures = [{"measure": f"{'⚠ ' if row['worry'] else ''}{row['measure']}", "value": row["value"],
                 "95% interval": "{:.2f} to {:.2f}".format(*row["interval"]) if row["interval"] and row["value"] == row["value"] else "",
                 "what it means": row["meaning"]} for row in readout(judgements)]
    return "<br>".join(table(pd.DataFrame(rows)).data for rows in (measures, by_annotator(judgements)) if rows)
