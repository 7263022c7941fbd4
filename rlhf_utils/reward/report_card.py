"""How far a reward model can be trusted: accuracy beside trivial rivals, calibration, and where its mistakes lie.

Rows go in (`prompt`, `chosen`, `rejected`, and what else they carry) with the (N,) rewards of both sides; plain numbers come out,
which go into report.json and into the figures of plots.py. Intervals are bootstrapped by prompt. A finished model is judged by any
file or hub id of preferences, by its column `subset` if it has one:

    python -m rlhf_utils.reward.report_card outputs/demo/reward_model preferences.jsonl

Left out: other people's judges.
"""

import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize_scalar

from ..data.rows import load_rows
from ..errors import DataError
from ..preferences.pairs import usable_pairs
from ..preferences.rubric import gold_score, refuses
from ..stats import bootstrap_by_prompt, correct
from .model import load_reward_model

MOST_STEPS = 8  # different distances in rank that are told apart; ratings on a fine scale are not


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

    if len(arguments) != 2:
        raise DataError(
            "Give two arguments: the folder of a reward model, and a file or hub id of preferences."
        )
    judged = [
        row for row in usable_pairs(load_rows(arguments[1], "preferences"))[0] if not row.get("tie")
    ]
    found = by_subset(judged, margins(load_reward_model(arguments[0]), judged).numpy())
    for subset in found["subsets"]:
        print(
            f"{subset['name']:30} {subset['accuracy']:6.1%}  ({subset['ci'][0]:.1%} to {subset['ci'][1]:.1%})  {subset['pairs']} pairs"
        )
    print(f"{'mean of the subsets':30} {found['accuracy']:6.1%}")


if __name__ == "__main__":
    main(sys.argv[1:])


"""TODO: purpose."""


def pair_rewards(model, pairs: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) raw rewards of the chosen and (N,) of the rejected answers of preference rows; each different answer is read once."""
    both = model.raw(
        [row["prompt"] for row in pairs] * 2,
        [row[side] for side in ("chosen", "rejected") for row in pairs],
    )
    return both[: len(pairs)], both[len(pairs) :]


def margins(model, pairs: list[dict]) -> torch.Tensor:
    """(N,) r_chosen − r_rejected of preference rows; positive where the model agrees with the label."""
    chosen, rejected = pair_rewards(model, pairs)
    return chosen - rejected


def calibration(margins, bins: int = 8) -> dict:
    """How sure the model is, σ(|margin|), against how often it is right, in bins of equal count; and the expected calibration error.

    ECE = Σ_bins (share of pairs)·|mean confidence − accuracy| (Naeini 2015; Guo 2017, arXiv 1706.04599).
    """
    margins = np.asarray(margins, dtype=float)
    confidence, right = 1 / (1 + np.exp(-np.abs(margins))), correct(margins)
    order = np.argsort(confidence, kind="stable")
    groups = [g for g in np.array_split(order, bins) if len(g)]
    rows = [
        {
            "confidence": float(confidence[g].mean()),
            "accuracy": float(right[g].mean()),
            "count": len(g),
        }
        for g in groups
    ]
    ece = sum(r["count"] * abs(r["confidence"] - r["accuracy"]) for r in rows) / max(
        len(margins), 1
    )
    return {"ece": float(ece), "bins": rows}


def gold_of_pairs(pairs: list[dict], items: dict[str, dict]) -> np.ndarray:
    """(N,) gold score of chosen minus rejected; where it is above 0 the label is what the rubric says."""
    return np.array(
        [
            gold_score(items[r["prompt"]], r["chosen"])
            - gold_score(items[r["prompt"]], r["rejected"])
            for r in pairs
        ]
    )


def longer_of_pairs(pairs: list[dict]) -> np.ndarray:
    """(N,) words of chosen minus words of rejected: the margin of the always-longer baseline."""
    return np.array([len(r["chosen"].split()) - len(r["rejected"].split()) for r in pairs])


def declining_leads(
    score, items: list[dict], declining: str = "I can't help with that."
) -> list[dict]:
    """One row of `prompt`, `category`, `lead` a prompt: how much more `declining` scores than the mean of the answers that do not decline.

    score: (prompts, completions) → (N,) numbers. Prompts whose answers all decline are left out: there is nothing to compare with.
    """
    rows = [
        (item, [declining, *(r for r in item["responses"] if not refuses(r))]) for item in items
    ]
    rows = [(item, texts) for item, texts in rows if len(texts) > 1]
    scores = iter(
        np.asarray(
            score(
                [item["prompt"] for item, texts in rows for _ in texts],
                [text for _, texts in rows for text in texts],
            ),
            dtype=float,
        ).tolist()
    )
    found = []
    for item, texts in rows:
        declined, *others = [next(scores) for _ in texts]
        found.append(
            {
                "prompt": item["prompt"],
                "category": item.get("category", ""),
                "lead": declined - sum(others) / len(others),
            }
        )
    return found


def prefers_declining(leads: list[dict]) -> list[dict]:
    """By category, the share of prompts on which declining leads. Near 1 on harmful and near 0 on others, a judge knows *when* to decline."""
    table = pd.DataFrame(leads, columns=["category", "lead"])
    return [
        {"category": name, "prompts": len(few), "declining is preferred": float((few > 0).mean())}
        for name, few in table.groupby("category")["lead"]
    ]


def declining_auc(leads: list[dict]) -> float:
    """The chance that declining leads by more on a harmful prompt than on a harmless one that looks harmful; NaN without both kinds."""
    harmful, harmless = (
        np.array([row["lead"] for row in leads if row["category"] == name])
        for name in ("harmful", "benign_lookalike")
    )
    return (
        float(correct(harmful[:, None] - harmless[None]).mean())
        if len(harmful) and len(harmless)
        else float("nan")
    )
