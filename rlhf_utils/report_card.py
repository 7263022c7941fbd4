"""How far a reward model can be trusted: accuracy beside trivial rivals, calibration, and where its mistakes lie.

Rows go in (`prompt`, `chosen`, `rejected`, and what else they carry) with the (N,) rewards of both sides; plain numbers come out,
which go into report.json and into the figures of plots.py. Intervals are bootstrapped by prompt. A finished model is judged by any
file or hub id of preferences, by its column `subset` if it has one:

    python -m rlhf_utils.report_card outputs/demo/reward_model preferences.jsonl

Left out: other people's judges.
"""

import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar

from .errors import DataError
from .evaluate import bootstrap_by_prompt, calibration, correct, longer_of_pairs, margins

MOST_STEPS = 8  # different distances in rank that are told apart; ratings on a fine scale are not


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


def too_long(model, rows: list[dict]) -> dict | None:
    """A finding, as those of `usable_pairs`, on answers whose prompt loses its beginning to max_length; None if there are none."""
    texts = list(
        dict.fromkeys((row["prompt"], row[side]) for row in rows for side in ("chosen", "rejected"))
    )
    lengths = dict(
        zip(texts, map(len, model.tokens([p for p, _ in texts], [a for _, a in texts])[0]))
    )
    long = [
        row["prompt"]
        for row in rows
        if max(lengths[row["prompt"], row[side]] for side in ("chosen", "rejected"))
        > model.max_length
    ]
    return (
        {
            "finding": f"longer than {model.max_length} tokens",
            "pairs": len(long),
            "what happens": "the beginning is cut",
            "example": long[0][:80],
        }
        if long
        else None
    )


def fit_temperature(margins) -> float:
    """T > 0 that makes σ(margin/T) most likely on labelled pairs (Guo 2017, arXiv 1706.04599); fit it on other pairs than it is judged by.

    The likelihood is concave in 1/T; its top is sought between 1/100 and 100.
    """
    margins = np.asarray(margins, dtype=float)
    found = minimize_scalar(
        lambda log_t: np.logaddexp(0, -margins * np.exp(-log_t)).mean(),
        bounds=(-np.log(100), np.log(100)),
        options={"xatol": 1e-9},
    )
    return float(np.exp(found.x))


def accuracy_by(rows: list[dict], margins, name: Callable[[dict], str]) -> list[dict]:
    """One row of `name`, `pairs`, `accuracy`, `ci` for each value of name(row), in order of the values."""
    table = pd.DataFrame(
        {
            "name": [name(row) for row in rows],
            "prompt": [row["prompt"] for row in rows],
            "right": correct(margins),
        }
    )
    return [
        {
            "name": value,
            "pairs": len(few),
            "accuracy": float(few["right"].mean()),
            "ci": bootstrap_by_prompt(few["right"].to_numpy(), few["prompt"].to_list(), 500),
        }
        for value, few in table.groupby("name")
    ]


def length_bin(row: dict) -> str:
    """By how many words the chosen answer is longer than the rejected one; named so that the bins sort from shorter to longer."""
    words = len(row["chosen"].split()) - len(row["rejected"].split())
    return (
        "a: over 8 shorter"
        if words < -8
        else "b: 1–8 shorter"
        if words < 0
        else "c: equal"
        if words == 0
        else "d: 1–8 longer"
        if words <= 8
        else "e: over 8 longer"
    )


def length_correlation(rows: list[dict], chosen, rejected) -> float:
    """Pearson's correlation of reward and words over the different answers, both less their mean for the prompt; NaN without spread."""
    table = {
        (row["prompt"], row[side]): float(reward)
        for side, rewards in (("chosen", chosen), ("rejected", rejected))
        for row, reward in zip(rows, rewards)
    }
    by_prompt: dict[str, list[tuple[int, float]]] = {}
    for (prompt, answer), reward in table.items():
        by_prompt.setdefault(prompt, []).append((len(answer.split()), reward))
    centred = np.concatenate([np.array(few) - np.mean(few, axis=0) for few in by_prompt.values()])
    return float(np.corrcoef(centred.T)[0, 1]) if (centred.std(0) > 0).all() else float("nan")


def bag_of_words(train: list[dict], heldout: list[dict]) -> np.ndarray:
    """(N,) held-out margins of a logistic regression on the difference of the two answers' words and word pairs.

    Whatever this reaches needs no language model: it tells by single words which answer people like.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    if len(train) < 2:
        return np.zeros(len(heldout))
    words = TfidfVectorizer(
        ngram_range=(1, 2), min_df=2, sublinear_tf=True, token_pattern=r"(?u)\b\w+\b|[?!]"
    )
    words.fit([row[side] for row in train for side in ("chosen", "rejected")])
    x, asked = (
        words.transform([row["chosen"] for row in rows])
        - words.transform([row["rejected"] for row in rows])
        for rows in (train, heldout)
    )
    sign = np.where(
        np.arange(len(train)) % 2 == 0, 1, -1
    )  # half of the pairs the other way round, so that both classes are there
    return (
        LogisticRegression(fit_intercept=False, max_iter=1000)
        .fit(x.multiply(sign[:, None]).tocsr(), sign)
        .decision_function(asked)
    )


def build(heldout: list[dict], chosen, rejected, temperature: float, words=None) -> dict:
    """The report card of held-out pairs: everything but what needs the rubric, other categories, or more training.

    temperature: fitted on other pairs. words: (N,) margins of `bag_of_words`.
    """
    margins = np.asarray(chosen, dtype=float) - np.asarray(rejected, dtype=float)
    right, prompts = correct(margins), [row["prompt"] for row in heldout]
    before, after = calibration(margins), calibration(margins / temperature)
    report = {
        "pairs": len(heldout),
        "accuracy": float(right.mean()),
        "accuracy_ci": bootstrap_by_prompt(right, prompts),
        "longer": float(correct(longer_of_pairs(heldout)).mean()),
        "calibration": before,
        "calibration_scaled": after,
        "temperature": temperature,
        "ece": after["ece"],
        "ece_raw": before["ece"],
        "length_correlation": length_correlation(heldout, chosen, rejected),
        "by_length": accuracy_by(heldout, margins, length_bin),
    }
    if words is not None:
        report["bag_of_words"] = float(correct(words).mean())
    if any(row.get("category") for row in heldout):
        report["by_category"] = accuracy_by(
            heldout, margins, lambda row: row.get("category") or "none"
        )
    steps = {row.get("margin") for row in heldout} - {None}
    if 1 < len(steps) <= MOST_STEPS and all(isinstance(step, (int, float)) for step in steps):
        report["by_margin"] = accuracy_by(
            heldout, margins, lambda row: f"margin {row.get('margin') or 0:g}"
        )
    return report


def mistakes(rows: list[dict], margins, count: int = 4) -> list[dict]:
    """The rows that the model is most sure to be labelled the wrong way round, with its margin, one a prompt."""
    found: dict[str, dict] = {}
    for i in np.argsort(np.asarray(margins), kind="stable"):
        if margins[i] >= 0 or len(found) == count:
            break
        found.setdefault(rows[i]["prompt"], {**rows[i], "margin": float(margins[i])})
    return list(found.values())


def by_subset(rows: list[dict], margins) -> dict:
    """Accuracy on any preference rows as RewardBench reports it (Lambert 2024, arXiv 2403.13787): by `subset`, and the subsets' mean."""
    subsets = accuracy_by(rows, margins, lambda row: str(row.get("subset") or "all"))
    return {"accuracy": float(np.mean([s["accuracy"] for s in subsets])), "subsets": subsets}


def main(arguments: list[str]) -> None:
    """Prints how a saved reward model judges a file or hub id of preferences. Raises DataError for other than these two arguments."""
    from . import data, reward

    if len(arguments) != 2:
        raise DataError(
            "Give two arguments: the folder of a reward model, and a file or hub id of preferences."
        )
    judged = [
        row
        for row in usable_pairs(data.load_rows(arguments[1], "preferences"))[0]
        if not row.get("tie")
    ]
    found = by_subset(judged, margins(reward.load_reward_model(arguments[0]), judged).numpy())
    for subset in found["subsets"]:
        print(
            f"{subset['name']:30} {subset['accuracy']:6.1%}  ({subset['ci'][0]:.1%} to {subset['ci'][1]:.1%})  {subset['pairs']} pairs"
        )
    print(f"{'mean of the subsets':30} {found['accuracy']:6.1%}")


if __name__ == "__main__":
    main(sys.argv[1:])
