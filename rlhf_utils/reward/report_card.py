"""How far a reward model can be trusted: accuracy, baselines, mistakes.

Pairs go in, with the (N,) rewards of both answers or their margins; plain numbers come out.
A finished model is judged by any file or hub id of preferences:

    python -m rlhf_utils.reward.report_card outputs/demo/reward_model preferences.jsonl
"""

import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from ..errors import DataError, ExplainedError
from ..preferences.filler import filler
from ..preferences.pair_files import read_pairs
from ..preferences.pairs import Item, Pair, usable_pairs
from ..preferences.rubric import gold_score
from ..stats import UNSPACED, answer_length, bootstrap_by_prompt, correct
from .calibration import calibration, fit_temperature
from .model import load_reward_model
from .probe import hackability
from .refusals import refusal_report

FEWEST_PAIRS = 50  # with fewer, nothing is said about how sure the model may be
MOST_GAPS = 8  # different rank gaps that are told apart; with a fine scale, none are
LENGTHS = ("a: over 8 shorter", "b: 1–8 shorter", "c: equal", "d: 1–8 longer", "e: over 8 longer")


# --- rewards and margins of pairs


def pair_rewards(score, pairs: list[Pair]) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) rewards of the chosen answers, and (N,) of the rejected ones.

    score: (prompts, answers) → numbers, such as RewardModel.raw, which reads each answer once.
    """
    prompts = [pair.prompt.text for pair in pairs]
    answers = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    return torch.as_tensor(score(prompts * 2, answers)).chunk(2)


def margins(score, pairs: list[Pair]) -> torch.Tensor:
    """(N,) r_chosen − r_rejected; positive where the model agrees with the label."""
    chosen, rejected = pair_rewards(score, pairs)
    return chosen - rejected


def share_right(margins) -> float:
    """The mean of `correct`; NaN of no margins."""
    right = correct(margins)
    return float(right.mean()) if len(right) else float("nan")


def longer_of_pairs(pairs: list[Pair]) -> np.ndarray:
    """(N,) length of chosen minus length of rejected: the margins of "the longer answer wins"."""
    return np.array([answer_length(pair.chosen) - answer_length(pair.rejected) for pair in pairs])


def gold_of_pairs(pairs: list[Pair]) -> np.ndarray:
    """(N,) gold of chosen minus gold of rejected: the margins of the rubric."""
    texts = {}  # each answer once, because it stands in many pairs
    for pair in pairs:
        for answer in (pair.chosen, pair.rejected):
            texts[pair.prompt.text, answer] = pair.prompt
    gold = {text: gold_score(prompt, text[1]) for text, prompt in texts.items()}
    leads = [gold[p.prompt.text, p.chosen] - gold[p.prompt.text, p.rejected] for p in pairs]
    return np.array(leads)


def bag_of_words(train: list[Pair], heldout: list[Pair]) -> np.ndarray:
    """(N,) held-out margins of a logistic regression on single words and word pairs.

    Where a script has no spaces, a character is a word. NaN with one pair, or where no two answers
    share a word.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    words = TfidfVectorizer(
        preprocessor=lambda answer: UNSPACED.sub(r" \g<0> ", answer.lower()),
        ngram_range=(1, 2),
        min_df=2,
        sublinear_tf=True,
        token_pattern=r"(?u)\b\w+\b|[?!]",
    )
    unknown = np.full(len(heldout), np.nan)
    if len(train) < 2:
        return unknown
    try:
        words.fit([answer for pair in train for answer in (pair.chosen, pair.rejected)])
    except ValueError:  # no word is left
        return unknown

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
        accuracy = float(few["right"].mean())
        ci = bootstrap_by_prompt(few["right"], few["prompt"], 500)
        rows.append({"name": value, "pairs": len(few), "accuracy": accuracy, "ci": ci})
    return rows


def length_bin(pair: Pair) -> str:
    """By how many words the chosen answer is longer."""
    return LENGTHS[np.digitize(longer_of_pairs([pair])[0], [-8, 0, 1, 9])]


def length_correlation(pairs: list[Pair], chosen, rejected) -> float:
    """Pearson's correlation of reward and length, each less its mean over the prompt's answers.

    NaN without spread.
    """
    rows = []
    for pair, of_chosen, of_rejected in zip(pairs, chosen, rejected):
        rows.append((pair.prompt.text, pair.chosen, float(of_chosen)))
        rows.append((pair.prompt.text, pair.rejected, float(of_rejected)))
    table = pd.DataFrame(rows, columns=["prompt", "answer", "reward"])
    table = table.drop_duplicates(["prompt", "answer"])
    table["length"] = table.pop("answer").map(answer_length).astype(int)
    centred = table[["length", "reward"]] - table.groupby("prompt").transform("mean")
    return float(centred["length"].corr(centred["reward"]))


def directness(pairs: list[Pair], margins) -> dict:
    """Of the pairs where one answer alone has filler: in how many is the other one preferred?

    `prefers_direct` by the model and `labels_prefer_direct` by the labels (shares; NaN without such
    pairs), and how many `direct_pairs` there are.
    """
    texts = {answer for pair in pairs for answer in (pair.chosen, pair.rejected)}
    wordy = {answer: bool(filler(answer)) for answer in texts}
    signs = np.array([wordy[pair.rejected] - wordy[pair.chosen] for pair in pairs], dtype=int)
    told = signs != 0  # +1 where the label prefers the answer without filler
    return {
        "prefers_direct": share_right(np.asarray(margins, dtype=float)[told] * signs[told]),
        "labels_prefer_direct": share_right(signs[told]),
        "direct_pairs": int(told.sum()),
    }


def mistakes(pairs: list[Pair], margins) -> list[dict]:
    """The four labels that the model most surely takes for wrong, one a prompt."""
    rows: dict[str, dict] = {}
    for margin, pair in sorted(zip(margins, pairs), key=lambda row: row[0]):
        row = {
            "prompt": pair.prompt.text,
            "chosen": pair.chosen,
            "rejected": pair.rejected,
            "annotator": pair.annotator,
            "rank_gap": pair.rank_gap,
            "margin": float(margin),
        }
        if margin < 0:
            rows.setdefault(pair.prompt.text, row)
    return list(rows.values())[:4]


# --- all of it


def report_of_pairs(heldout: list[Pair], chosen, rejected, temperature: float) -> dict:
    """The report card, but for what needs the rubric, other pairs or more training.

    chosen, rejected: (N,) rewards. temperature: fitted on other pairs. Of fewer than FEWEST_PAIRS
    pairs there is no calibration.
    """
    margins = np.asarray(chosen, dtype=float) - np.asarray(rejected, dtype=float)
    right, prompts = correct(margins), [pair.prompt.text for pair in heldout]
    told = margins if len(heldout) >= FEWEST_PAIRS else margins[:0]
    as_trained, scaled = calibration(told), calibration(told / temperature)
    report = {
        "pairs": len(heldout),
        "accuracy": float(right.mean()),
        "accuracy_ci": bootstrap_by_prompt(right, prompts),
        "longer": share_right(longer_of_pairs(heldout)),
        "temperature": temperature,
        "calibration": as_trained,
        "calibration_scaled": scaled,
        "ece_raw": as_trained["ece"],
        "ece": scaled["ece"],
        "length_correlation": length_correlation(heldout, chosen, rejected),
        "by_length": accuracy_by(heldout, margins, length_bin),
    }
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


def full_report(
    score,
    train: list[Pair],
    validation: list[Pair],
    heldout: list[Pair],
    other: list[Pair],
    items: list[Item],
    by_rubric: bool,
) -> tuple[dict, dict[str, list[float]]]:
    """(the report card, rewards of answers by where they come from).

    score: as for pair_rewards. other: pairs of categories that it never saw. items: what was
    ranked, to ask when the judge refuses. by_rubric: the labels come from the rubric, whose own
    accuracy is the ceiling.
    """
    chosen, rejected = pair_rewards(score, heldout)
    enough = len(validation) >= FEWEST_PAIRS
    temperature = fit_temperature(margins(score, validation)) if enough else 1.0
    report = report_of_pairs(heldout, chosen, rejected, temperature)
    report["validation_pairs"] = len(validation)
    report["bag_of_words"] = share_right(bag_of_words(train, heldout))
    report["ceiling"] = share_right(gold_of_pairs(heldout)) if by_rubric else float("nan")
    report |= directness(heldout, chosen - rejected)
    report |= refusal_report(score, _ranked(items, train)[:400], _ranked(items, heldout))
    report["mistakes"] = mistakes(heldout, chosen - rejected)
    report["hackability"] = hackability(score, heldout)
    rewards = {"chosen": chosen.tolist(), "rejected": rejected.tolist()}
    sides = pair_rewards(score, other)
    right = correct(sides[0] - sides[1])
    report["accuracy_ood"] = share_right(sides[0] - sides[1])
    report["accuracy_ood_ci"] = bootstrap_by_prompt(right, [pair.prompt.text for pair in other])
    if other:
        rewards["other categories"] = torch.cat(sides).tolist()
    return report, rewards


def _ranked(items: list[Item], pairs: list[Pair]) -> list[Item]:
    """The items of these pairs' prompts."""
    prompts = {pair.prompt.text for pair in pairs}
    return [item for item in items if item.prompt.text in prompts]


def main(arguments: list[str]) -> None:
    """Prints how a saved reward model judges preferences."""
    if len(arguments) != 2:
        raise DataError(
            "Give two arguments: the folder of a reward model, and a file or hub id of preferences."
        )
    folder, source = arguments
    pairs = [pair for pair in usable_pairs(read_pairs(source))[0] if not pair.tie]
    if not pairs:
        raise DataError(f"{source} holds no pair of which one answer is preferred.")
    leads = margins(load_reward_model(folder).raw, pairs)
    subsets = accuracy_by(pairs, leads, lambda pair: pair.subset or "all")
    for row in subsets:
        low, high = row["ci"]
        between = f"({low:.1%} to {high:.1%})"
        print(f"{row['name']:30} {row['accuracy']:6.1%}  {between}  {row['pairs']} pairs")
    # Subsets weigh alike, as in RewardBench (Lambert 2024, arXiv 2403.13787).
    mean = np.mean([row["accuracy"] for row in subsets])
    print(f"{'mean of the subsets':30} {mean:6.1%}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ExplainedError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
