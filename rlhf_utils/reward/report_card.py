"""How far a reward model can be trusted: its accuracy beside trivial rivals, and its mistakes.

Pairs go in, with the (N,) rewards of both answers or their margins; plain numbers come out, which
go into report.json and into figures. Intervals are bootstrapped by prompt. A finished model is
judged by any file or hub id of preferences:

    python -m rlhf_utils.reward.report_card outputs/demo/reward_model preferences.jsonl

Calibration is in calibration.py, refusals in refusals.py. Left out: the judges of others.
"""

import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from ..errors import DataError
from ..preferences.pairs import Pair, read_pairs, usable_pairs
from ..preferences.rubric import gold_score
from ..stats import bootstrap_by_prompt, correct
from .calibration import calibration
from .model import RewardModel, load_reward_model

MOST_GAPS = 8  # different rank gaps that are told apart; with a fine scale, none are


# --- rewards and margins of pairs


def pair_rewards(score, pairs: list[Pair]) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) rewards of the chosen answers, and (N,) of the rejected ones.

    score: (prompts, answers) → numbers, such as the `raw` of a RewardModel. Each different answer
    is scored once.
    """
    chosen = [(pair.prompt.text, pair.chosen) for pair in pairs]
    rejected = [(pair.prompt.text, pair.rejected) for pair in pairs]
    texts = list(dict.fromkeys(chosen + rejected))
    scores = score([prompt for prompt, _ in texts], [answer for _, answer in texts])
    rewards = dict(zip(texts, torch.as_tensor(scores).tolist()))
    return (
        torch.tensor([rewards[text] for text in chosen]),
        torch.tensor([rewards[text] for text in rejected]),
    )


def margins(score, pairs: list[Pair]) -> torch.Tensor:
    """(N,) r_chosen − r_rejected; positive where the model agrees with the label."""
    chosen, rejected = pair_rewards(score, pairs)
    return chosen - rejected


def longer_of_pairs(pairs: list[Pair]) -> np.ndarray:
    """(N,) words of chosen minus words of rejected: the margins of "the longer answer wins"."""
    return np.array([len(pair.chosen.split()) - len(pair.rejected.split()) for pair in pairs])


def gold_of_pairs(pairs: list[Pair]) -> np.ndarray:
    """(N,) gold of chosen minus gold of rejected; above 0 where the rubric agrees with the label.

    Needs prompts with their category and key points.
    """
    gains = []
    for pair in pairs:
        chosen, rejected = (
            gold_score(pair.prompt, pair.chosen),
            gold_score(pair.prompt, pair.rejected),
        )
        gains.append(chosen - rejected)
    return np.array(gains)


def bag_of_words(train: list[Pair], heldout: list[Pair]) -> np.ndarray:
    """(N,) held-out margins of a logistic regression on single words and word pairs.

    What this reaches needs no language model: single words tell which answer people like.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    if len(train) < 2:
        return np.zeros(len(heldout))
    words = TfidfVectorizer(
        ngram_range=(1, 2), min_df=2, sublinear_tf=True, token_pattern=r"(?u)\b\w+\b|[?!]"
    )
    words.fit([answer for pair in train for answer in (pair.chosen, pair.rejected)])

    def difference(pairs: list[Pair]):
        chosen = words.transform([pair.chosen for pair in pairs])
        return chosen - words.transform([pair.rejected for pair in pairs])

    # Every other pair is turned round, so that there are two classes.
    sign = np.where(np.arange(len(train)) % 2 == 0, 1, -1)
    regression = LogisticRegression(fit_intercept=False, max_iter=1000)
    regression.fit(difference(train).multiply(sign[:, None]).tocsr(), sign)
    return regression.decision_function(difference(heldout))


# --- where it is right


def accuracy_by(pairs: list[Pair], margins, name: Callable[[Pair], str]) -> list[dict]:
    """One row of `name`, `pairs`, `accuracy` and `ci` for each value of name(pair), sorted."""
    table = pd.DataFrame(
        {
            "name": [name(pair) for pair in pairs],
            "prompt": [pair.prompt.text for pair in pairs],
            "right": correct(margins),
        }
    )
    rows = []
    for value, few in table.groupby("name"):
        row = {
            "name": value,
            "pairs": len(few),
            "accuracy": float(few["right"].mean()),
            "ci": bootstrap_by_prompt(few["right"].to_numpy(), few["prompt"].to_list(), 500),
        }
        rows.append(row)
    return rows


def by_subset(pairs: list[Pair], margins) -> dict:
    """The accuracy of each subset, and their mean (RewardBench: Lambert 2024, arXiv 2403.13787)."""
    subsets = accuracy_by(pairs, margins, lambda pair: pair.subset or "all")
    return {"accuracy": float(np.mean([row["accuracy"] for row in subsets])), "subsets": subsets}


def length_bin(pair: Pair) -> str:
    """How many words longer the chosen answer is; the names sort from shorter to longer."""
    words = len(pair.chosen.split()) - len(pair.rejected.split())
    if words < -8:
        return "a: over 8 shorter"
    if words < 0:
        return "b: 1–8 shorter"
    if words == 0:
        return "c: equal"
    return "d: 1–8 longer" if words <= 8 else "e: over 8 longer"


def length_correlation(pairs: list[Pair], chosen, rejected) -> float:
    """Pearson's correlation of reward and words over the different answers; NaN without spread.

    Both are taken less their mean for the prompt.
    """
    rewards: dict[tuple[str, str], float] = {}
    for pair, of_chosen, of_rejected in zip(pairs, chosen, rejected):
        rewards[pair.prompt.text, pair.chosen] = float(of_chosen)
        rewards[pair.prompt.text, pair.rejected] = float(of_rejected)
    table = pd.DataFrame(
        {
            "prompt": [prompt for prompt, _ in rewards],
            "words": [len(answer.split()) for _, answer in rewards],
            "reward": list(rewards.values()),
        }
    )
    centred = table[["words", "reward"]] - table.groupby("prompt").transform("mean")
    if (centred.std() == 0).any():
        return float("nan")
    return float(centred["words"].corr(centred["reward"]))


def mistakes(pairs: list[Pair], margins, count: int = 4) -> list[dict]:
    """The labels that the model most surely takes for wrong, with its margin, one a prompt."""
    rows: dict[str, dict] = {}
    for place in np.argsort(np.asarray(margins), kind="stable"):
        if margins[place] >= 0 or len(rows) == count:
            break
        pair = pairs[place]
        row = {
            "prompt": pair.prompt.text,
            "chosen": pair.chosen,
            "rejected": pair.rejected,
            "annotator": pair.annotator,
            "rank_gap": pair.rank_gap,
            "margin": float(margins[place]),
        }
        rows.setdefault(pair.prompt.text, row)
    return list(rows.values())


def too_long(model: RewardModel, pairs: list[Pair]) -> dict | None:
    """A finding, like those of `usable_pairs`, on pairs that lose their beginning to max_length.

    None if there are no such pairs.
    """
    most = model.reader.max_length
    texts = {
        (pair.prompt.text, answer) for pair in pairs for answer in (pair.chosen, pair.rejected)
    }
    long = set()
    for text in model.reader.tokenize(sorted(texts)):
        if len(text) > most:
            long.add((text.prompt, text.answer))
    cut = []
    for pair in pairs:
        if {(pair.prompt.text, pair.chosen), (pair.prompt.text, pair.rejected)} & long:
            cut.append(pair)
    if not cut:
        return None
    return {
        "finding": f"longer than {most} tokens",
        "pairs": len(cut),
        "what happens": "the beginning is cut",
        "example": cut[0].prompt.text[:80],
    }


# --- all of it


def report_of_pairs(heldout: list[Pair], chosen, rejected, temperature: float, words=None) -> dict:
    """The report card, but for what needs the rubric, other categories or more training.

    chosen, rejected: (N,) rewards. temperature: fitted on other pairs. words: (N,) margins of
    `bag_of_words`.
    """
    margins = np.asarray(chosen, dtype=float) - np.asarray(rejected, dtype=float)
    right, prompts = correct(margins), [pair.prompt.text for pair in heldout]
    as_trained, scaled = calibration(margins), calibration(margins / temperature)
    report = {
        "pairs": len(heldout),
        "accuracy": float(right.mean()),
        "accuracy_ci": bootstrap_by_prompt(right, prompts),
        "longer": float(correct(longer_of_pairs(heldout)).mean()),
        "temperature": temperature,
        "calibration": as_trained,
        "calibration_scaled": scaled,
        "ece_raw": as_trained["ece"],
        "ece": scaled["ece"],
        "length_correlation": length_correlation(heldout, chosen, rejected),
        "by_length": accuracy_by(heldout, margins, length_bin),
    }
    if words is not None:
        report["bag_of_words"] = float(correct(words).mean())
    if any(pair.prompt.category for pair in heldout):
        report["by_category"] = accuracy_by(
            heldout, margins, lambda pair: pair.prompt.category or "none"
        )
    gaps = {pair.rank_gap for pair in heldout} - {None}
    if 1 < len(gaps) <= MOST_GAPS:
        report["by_rank_gap"] = accuracy_by(
            heldout, margins, lambda pair: f"rank gap {pair.rank_gap or 0:g}"
        )
    return report


def main(arguments: list[str]) -> None:
    """Prints how a saved reward model judges preferences. Raises DataError for other arguments."""
    if len(arguments) != 2:
        raise DataError(
            "Give two arguments: the folder of a reward model, and a file or hub id of preferences."
        )
    folder, source = arguments
    pairs = [pair for pair in usable_pairs(read_pairs(source))[0] if not pair.tie]
    report = by_subset(pairs, margins(load_reward_model(folder).raw, pairs))
    for row in report["subsets"]:
        low, high = row["ci"]
        interval = f"({low:.1%} to {high:.1%})"
        print(f"{row['name']:30} {row['accuracy']:6.1%}  {interval}  {row['pairs']} pairs")
    print(f"{'mean of the subsets':30} {report['accuracy']:6.1%}")


if __name__ == "__main__":
    main(sys.argv[1:])
