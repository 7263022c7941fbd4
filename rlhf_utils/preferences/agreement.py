"""How good are the labels? Agreement between annotators and with oneself, time, and what sways them beside the content.

Left out: models of single annotators' skill.
"""

import itertools
from collections.abc import Iterable

import numpy as np

from ..stats import clustered_interval, wilson
from .pairs import ranking_to_pairs
from .store import IMPORTED


def _same_order(rankings: Iterable[tuple[list[int], list[int]]]) -> tuple[int, int]:
    """(pairs ordered alike, pairs that neither tied) over couples of rankings of the same responses."""
    pairs = [
        (first[a] < first[b]) == (second[a] < second[b])
        for first, second in rankings
        for a, b in itertools.combinations(range(len(first)), 2)
        if first[a] != first[b] and second[a] != second[b]
    ]
    return sum(pairs), len(pairs)


def _share(counted: list[tuple[float, int]]) -> float:
    """Σ successes / Σ counts; NaN where nothing was counted."""
    successes, count = (sum(part) for part in zip(*counted)) if counted else (0, 0)
    return successes / count if count else float("nan")


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
    table = [
        [
            r
            for item in shared.values()
            for r in item.get(name, [np.nan] * len(next(iter(item.values()))))
        ]
        for name in names
    ]
    distinct = {r for row in table for r in row if r == r}
    counted = [_same_order(itertools.combinations(ranks.values(), 2)) for ranks in shared.values()]
    raw = _share(counted)
    return {
        "items_shared": len(shared),
        "pairs_compared": sum(count for _, count in counted),
        "alpha": float(krippendorff.alpha(reliability_data=table, level_of_measurement="ordinal"))
        if len(distinct) > 1
        else float("nan"),
        "pairwise": raw,
        "pairwise_ci": clustered_interval(*zip(*counted)) if counted else (0.0, 1.0),
        "ceiling": 0.5 * (1 + np.sqrt(np.maximum(2 * raw - 1, 0.0))),
    }


def biases(judgements: list[dict]) -> dict:
    """How often the longer response (in words) of a pair wins, and how often the response shown first is ranked best.

    The second leaves out what was imported without a session, as that does not say in which order its answers were shown.
    """
    longer, first, by_chance = [], [], []  # (successes, count) of each judgement
    for row in judgements:
        words, ranks = [len(response.split()) for response in row["responses"]], row["ranks"]
        wins = [
            words[better] > words[worse]
            for better, worse in ranking_to_pairs(ranks)
            if words[better] != words[worse]
        ]
        longer.append((sum(wins), len(wins)))
        if row.get("session") != IMPORTED:
            first.append(
                ((ranks[row["shown_order"][0]] == min(ranks)) / ranks.count(min(ranks)), 1)
            )
            by_chance.append((1 / len(ranks), 1))
    return {
        "longer_wins": _share(longer),
        "longer_wins_ci": clustered_interval(*zip(*longer)) if longer else (0.0, 1.0),
        "first_shown_wins": _share(first),
        "first_shown_wins_ci": wilson(sum(wins for wins, _ in first), len(first)),
        "first_shown_by_chance": _share(by_chance),
    }


def self_consistency(judgements: list[dict]) -> dict:
    """How often annotators order a pair as they did before, over items that they were asked twice (kind "repeat"); NaN without any."""
    first = {
        (row["annotator"], row["item_id"]): row["ranks"]
        for row in judgements
        if row["kind"] == "ranking"
    }
    counted = [
        _same_order([(first[key], row["ranks"])])
        for row in judgements
        if row["kind"] == "repeat" and (key := (row["annotator"], row["item_id"])) in first
    ]
    return {
        "repeats": len(counted),
        "consistency": _share(counted),
        "consistency_ci": clustered_interval(*zip(*counted)) if counted else (0.0, 1.0),
    }


def seconds_each(judgements: list[dict]) -> float:
    """The median of the seconds from showing an item to its submission; NaN without judgements."""
    return (
        float(np.median([row["submitted_at"] - row["shown_at"] for row in judgements]))
        if judgements
        else float("nan")
    )


def readout(judgements: list[dict]) -> list[dict]:
    """One row a measure: `measure`, `value`, `interval`, `meaning` (a sentence, with when to worry), `worry` (whether it is time to).

    judgements: of any kind (LabelStore.rows with kinds=KINDS). Values that cannot be known yet are NaN, and no cause to worry.
    """
    ranked = [row for row in judgements if row["kind"] == "ranking"]
    agree, bias, self_, seconds = (
        agreement(ranked),
        biases(ranked),
        self_consistency(judgements),
        seconds_each(ranked),
    )
    low, high = bias["longer_wins_ci"]
    first_low, first_high = bias["first_shown_wins_ci"]
    chance = bias["first_shown_by_chance"]
    measures = [
        (
            "Krippendorff's alpha",
            agree["alpha"],
            None,
            agree["alpha"] < 0.4,
            "1 is perfect agreement, 0 chance; on free-form answers 0.4 to 0.7 is common. Below 0.4: talk about the guidelines.",
        ),
        (
            "agreement on a pair",
            agree["pairwise"],
            agree["pairwise_ci"],
            agree["pairwise_ci"][1] < 0.7,
            "How often two people order two answers alike; about 0.73 in published work (Ouyang 2022). Surely below 0.7: too noisy.",
        ),
        (
            "ceiling for a reward model",
            agree["ceiling"],
            None,
            agree["ceiling"] < 0.75,
            "The accuracy that this agreement allows at most. A model above it has learned the labels by heart.",
        ),
        (
            "agreement with oneself",
            self_["consistency"],
            self_["consistency_ci"],
            self_["consistency_ci"][1] < 0.8,
            "The same item asked twice. Surely below 0.8: the annotator is tired, or the answers are too much alike.",
        ),
        (
            "seconds a ranking",
            seconds,
            None,
            seconds < 3 and any(r["session"] in ("widget", "form") for r in ranked),
            "The median. Below 3 seconds nobody has read four answers.",
        ),
        (
            "longer answer wins",
            bias["longer_wins"],
            bias["longer_wins_ci"],
            low > 0.6 or high < 0.4,
            "Half the time if length does not matter. Far from it, the reward model learns length, meant or not.",
        ),
        (
            "first shown wins",
            bias["first_shown_wins"],
            bias["first_shown_wins_ci"],
            chance < first_low or chance > first_high,
            f"{chance:.0%} by chance. Chance outside the interval: the place on the screen sways the ranking."
            if chance == chance
            else "Chance is 1 in k.",
        ),
    ]
    return [
        dict(zip(("measure", "value", "interval", "worry", "meaning"), row)) for row in measures
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
        alike = _same_order(
            (a["ranks"], b["ranks"])
            for a in ranked
            for b in by_item[a["item_id"]]
            if b["annotator"] != name
        )
        bias = biases(ranked)
        rows.append(
            {
                "annotator": name,
                "ranked": len(ranked),
                "skipped": sum(r["kind"] == "skip" for r in own),
                "flagged": sum(bool(r["flags"]) for r in own),
                "seconds": seconds_each(ranked),
                "agrees with others": _share([alike]),
                "agrees with oneself": self_consistency(own)["consistency"],
                "longer wins": bias["longer_wins"],
                "first shown wins": bias["first_shown_wins"],
            }
        )
    return rows
