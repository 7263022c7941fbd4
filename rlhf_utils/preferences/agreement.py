"""How good are the labels? Agreement with others and with oneself, time, and what sways annotators.

Left out: models of single annotators' skill.
"""

import itertools
from collections.abc import Iterable

import krippendorff
import numpy as np
import pandas as pd

from ..stats import answer_length, clustered_interval, wilson
from .pairs import IMPORTED, Judgement, ranking_to_pairs

Ranks = list[int]
Rankings = dict[str, Ranks]  # of one item, by annotator
Counted = tuple[float, int]  # (successes, how many were counted)


def annotator_agreement(judgements: list[Judgement]) -> dict:
    """Krippendorff's ordinal alpha, and how often two annotators order a pair the same way.

    Both over items that two or more have ranked; NaN if there are none. `pairwise` leaves out pairs
    that one of the two tied; its interval is bootstrapped over items. `ceiling` is the accuracy of
    a perfect model of the majority if every annotator is right with the same probability p:
    agreement = p² + (1 − p)².
    """
    by_item = _by_item(in_one_order(judgements))
    shared = [rankings for rankings in by_item.values() if len(rankings) > 1]
    counted = []
    for rankings in shared:
        counted.append(_same_order(itertools.combinations(rankings.values(), 2)))
    pairwise = _share(counted)
    return {
        "items_shared": len(shared),
        "pairs_compared": sum(count for _, count in counted),
        "alpha": _alpha(shared),
        "pairwise": pairwise,
        "pairwise_ci": _interval(counted),
        "ceiling": 0.5 * (1 + np.sqrt(np.maximum(2 * pairwise - 1, 0.0))),
    }


def in_one_order(judgements: list[Judgement]) -> list[Judgement]:
    """All judgements of an item, told of its answers in the order of the first of them."""
    order: dict[str, list[str]] = {}
    found = []
    for judgement in judgements:
        answers = order.setdefault(judgement.item_id, judgement.answers)
        found.append(judgement.in_order_of(answers))
    return found


def _by_item(judgements: list[Judgement]) -> dict[str, Rankings]:
    by_item: dict[str, Rankings] = {}
    for judgement in judgements:
        by_item.setdefault(judgement.item_id, {})[judgement.annotator] = judgement.ranks
    return by_item


def _alpha(shared: list[Rankings]) -> float:
    """Krippendorff's ordinal alpha over (item, answer) ranks; NaN if all ranks are the same."""
    names = sorted({name for rankings in shared for name in rankings})
    rows = []  # one for each annotator, NaN for items that others ranked
    for name in names:
        row = []
        for rankings in shared:
            answers = len(next(iter(rankings.values())))
            row += rankings.get(name, [np.nan] * answers)
        rows.append(row)
    table = np.array(rows)
    if len(np.unique(table[~np.isnan(table)])) < 2:
        return float("nan")
    return float(krippendorff.alpha(reliability_data=table, level_of_measurement="ordinal"))


def _same_order(couples: Iterable[tuple[Ranks, Ranks]]) -> Counted:
    """(pairs ordered alike, pairs that neither tied) over couples of rankings of one item."""
    alike = compared = 0
    for first, second in couples:
        for a, b in itertools.combinations(range(len(first)), 2):
            if first[a] != first[b] and second[a] != second[b]:
                compared += 1
                alike += (first[a] < first[b]) == (second[a] < second[b])
    return alike, compared


def _share(counted: list[Counted]) -> float:
    """Σ successes / Σ counts; NaN if nothing was counted."""
    successes = sum(success for success, _ in counted)
    count = sum(count for _, count in counted)
    return successes / count if count else float("nan")


def _interval(counted: list[Counted]) -> tuple[float, float]:
    return clustered_interval(*zip(*counted)) if counted else (0.0, 1.0)


def biases(judgements: list[Judgement]) -> dict:
    """How often the longer answer (by `answer_length`) of a pair wins, and the answer shown first.

    The second leaves out imported judgements without a session: nobody knows in which order their
    answers were shown. Answers that share the best rank share the win.
    """
    longer, first, by_chance = [], [], []  # (successes, count) of each judgement
    for judgement in judgements:
        ranks = judgement.ranks
        longer.append(_longer_wins(judgement))
        if judgement.session != IMPORTED:
            first_rank = ranks[judgement.shown_order[0]]
            first.append(((first_rank == min(ranks)) / ranks.count(min(ranks)), 1))
            by_chance.append((1 / len(ranks), 1))
    return {
        "longer_wins": _share(longer),
        "longer_wins_ci": _interval(longer),
        "first_shown_wins": _share(first),
        "first_shown_wins_ci": wilson(sum(wins for wins, _ in first), len(first)),
        "first_shown_by_chance": _share(by_chance),
    }


def _longer_wins(judgement: Judgement) -> Counted:
    """(pairs that the longer answer wins, pairs of different lengths)."""
    length = [answer_length(answer) for answer in judgement.answers]
    wins = count = 0
    for better, worse in ranking_to_pairs(judgement.ranks):
        if length[better] != length[worse]:
            count += 1
            wins += length[better] > length[worse]
    return wins, count


def self_consistency(judgements: list[Judgement]) -> dict:
    """How often annotators order a pair as before, over items they ranked twice; NaN without any.

    judgements: rankings and repeats.
    """
    first, judgements = {}, in_one_order(judgements)
    for judgement in judgements:
        if judgement.kind == "ranking":
            first[judgement.annotator, judgement.item_id] = judgement.ranks
    counted = []
    for judgement in judgements:
        before = first.get((judgement.annotator, judgement.item_id))
        if judgement.kind == "repeat" and before:
            counted.append(_same_order([(before, judgement.ranks)]))
    return {
        "repeats": len(counted),
        "consistency": _share(counted),
        "consistency_ci": _interval(counted),
    }


def seconds_each(judgements: list[Judgement]) -> float:
    """The median time from showing an item to its submission, in seconds; NaN without any.

    Of an imported judgement without times the store knows only when it was imported.
    """
    seconds = []
    for judgement in judgements:
        shown, submitted = judgement.shown_at, judgement.submitted_at
        known = shown is not None and submitted is not None
        if known and (judgement.session != IMPORTED or shown != submitted):
            seconds.append(submitted - shown)
    return pd.Series(seconds, dtype=float).median()


MEANINGS = {
    "Krippendorff's alpha": "1 is perfect agreement, 0 chance; on free-form answers 0.4 to 0.7 is "
    "common. Below 0.4: talk about the guidelines.",
    "agreement on a pair": "How often two people order two answers alike; about 0.73 in published "
    "work (Ouyang 2022). Surely below 0.7: too noisy.",
    "ceiling for a reward model": "The accuracy that this agreement allows at most. A model above "
    "it has learned the labels by heart.",
    "agreement with oneself": "The same item asked twice. Surely below 0.8: the annotator is "
    "tired, or the answers are too much alike.",
    "seconds a ranking": "The median. Below 3 seconds nobody has read four answers.",
    "longer answer wins": "Half the time if length does not matter. Far from it, the reward model "
    "learns length, meant or not.",
    "first shown wins": "1 in k by chance, with k answers. Chance outside the interval: the place "
    "on the screen sways the ranking.",
}


def readout(judgements: list[Judgement]) -> pd.DataFrame:
    """What judgements of any kind say of themselves: measures, and what each one means.

    ⚠ marks what should worry you, so that it is not told by colour alone. A value is NaN while it
    cannot be known, which is no cause to worry.
    """
    ranked = [judgement for judgement in judgements if judgement.kind == "ranking"]
    by_people = any(judgement.session in ("widget", "form") for judgement in ranked)
    found = annotator_agreement(ranked) | self_consistency(judgements) | biases(ranked)
    found["seconds"] = seconds_each(ranked)
    longer_low, longer_high = found["longer_wins_ci"]
    first_low, first_high = found["first_shown_wins_ci"]
    chance = found["first_shown_by_chance"]
    measures = [  # name, key of what was found, whether to worry
        ("Krippendorff's alpha", "alpha", found["alpha"] < 0.4),
        ("agreement on a pair", "pairwise", found["pairwise_ci"][1] < 0.7),
        ("ceiling for a reward model", "ceiling", found["ceiling"] < 0.75),
        ("agreement with oneself", "consistency", found["consistency_ci"][1] < 0.8),
        ("seconds a ranking", "seconds", found["seconds"] < 3 and by_people),
        ("longer answer wins", "longer_wins", longer_low > 0.6 or longer_high < 0.4),
        ("first shown wins", "first_shown_wins", chance < first_low or chance > first_high),
    ]
    rows = []
    for name, key, worry in measures:
        interval = found.get(f"{key}_ci")
        known = interval and not np.isnan(found[key])
        row = {
            "measure": f"⚠ {name}" if worry else name,
            "value": found[key],
            "95% interval": "{:.2f} to {:.2f}".format(*interval) if known else "",
            "what it means": MEANINGS[name],
        }
        rows.append(row)
    return pd.DataFrame(rows)


def by_annotator(judgements: list[Judgement]) -> pd.DataFrame:
    """A row for each annotator: counts, seconds, agreement with others and oneself, biases."""
    judgements = in_one_order(judgements)
    by_item = _by_item([judgement for judgement in judgements if judgement.kind == "ranking"])
    rows = []
    for name in sorted({judgement.annotator for judgement in judgements}):
        own = [judgement for judgement in judgements if judgement.annotator == name]
        ranked = [judgement for judgement in own if judgement.kind == "ranking"]
        couples = []
        for mine in ranked:
            for other, ranks in by_item[mine.item_id].items():
                if other != name:
                    couples.append((mine.ranks, ranks))
        found = biases(ranked) | self_consistency(own)
        row = {
            "annotator": name,
            "ranked": len(ranked),
            "skipped": sum(judgement.kind == "skip" for judgement in own),
            "flagged": sum(bool(judgement.flags) for judgement in own),
            "seconds": seconds_each(ranked),
            "agrees with others": _share([_same_order(couples)]),
            "agrees with oneself": found["consistency"],
            "longer wins": found["longer_wins"],
            "first shown wins": found["first_shown_wins"],
        }
        rows.append(row)
    return pd.DataFrame(rows)
