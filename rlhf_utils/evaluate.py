"""Numbers about policies and reward models: win rates, intervals, calibration, diversity, refusals.

Intervals over pairs or responses are bootstrapped by prompt, since answers to one prompt are not independent.
Left out: language models as judges, reward frontiers.
"""

import random
import re

import numpy as np
import pandas as pd
import torch

from .annotators import GOLD_WEIGHTS, gold_score, refuses, rubric
from .quality import clustered_interval


def correct(margins) -> np.ndarray:
    """(N,) 1 where the margin is above 0, ½ where it is 0, else 0."""
    margins = np.asarray(margins, dtype=float)
    return (margins > 0) + 0.5 * (margins == 0)


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


def bootstrap_by_prompt(
    values, prompts: list[str], draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The 95% percentile interval of the mean of `values`, drawing whole prompts with replacement; (0, 1) for fewer than two prompts."""
    found = (
        pd.DataFrame({"value": np.asarray(values, dtype=float), "prompt": prompts})
        .groupby("prompt", sort=False)["value"]
        .agg(["sum", "size"])
    )
    return clustered_interval(found["sum"].tolist(), found["size"].tolist(), seed, draws)


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


def distinct_n(texts: list[str], n: int = 2) -> float:
    """Different n-grams of words over all n-grams (Li 2016, arXiv 1510.03055); NaN where there are none."""
    grams = [
        gram
        for text in texts
        for gram in zip(*(re.findall(r"\w+", text.lower())[i:] for i in range(n)))
    ]
    return len(set(grams)) / len(grams) if grams else float("nan")


def describe_answers(items: list[dict], answers: list[str]) -> list[dict]:
    """One row an answer: the rubric's parts, the gold score, whether it refuses, its words."""
    return [
        {
            "prompt": item["prompt"],
            "category": item.get("category", ""),
            "response": answer,
            "gold": gold_score(item, answer),
            "refuses": refuses(answer),
            "words": len(answer.split()),
            **rubric(item, answer),
        }
        for item, answer in zip(items, answers)
    ]


def win_rate(ours, theirs, prompts: list[str], seed: int = 0) -> tuple[float, tuple[float, float]]:
    """How often our score is higher, ties counting half, and its 95% interval."""
    wins = correct(np.asarray(ours) - np.asarray(theirs))
    return float(wins.mean()), bootstrap_by_prompt(wins, prompts, seed=seed)


def compare(sft: list[dict], ppo: list[dict], kl: torch.Tensor, seed: int = 0) -> dict:
    """The flat `eval.*` results of two policies' described answers (with `reward`), in the same order of prompts.

    kl: (N,) nats of each response of the trained policy. Benign refusals are counted on harmless prompts that look harmful.
    """
    prompts = [row["prompt"] for row in sft]
    gold, gold_ci = win_rate([r["gold"] for r in ppo], [r["gold"] for r in sft], prompts, seed)
    proxy, proxy_ci = win_rate(
        [r["reward"] for r in ppo], [r["reward"] for r in sft], prompts, seed
    )
    results = {
        "eval.win_rate_vs_sft": gold,
        "eval.win_rate_ci": gold_ci,
        "eval.win_rate_reward_model": proxy,
        "eval.win_rate_reward_model_ci": proxy_ci,
        "eval.kl": float(kl.mean()),
        "eval.prompts": len(prompts),
    }
    for name, rows in (("sft", sft), ("ppo", ppo)):
        table, answers = pd.DataFrame(rows), [row["response"] for row in rows]
        declined = table.groupby("category")["refuses"].mean()
        found = (
            table[["gold", "reward"]].mean().to_dict()
            | {
                "refusal_harmful": declined.get("harmful", np.nan),
                "refusal_benign": declined.get("benign_lookalike", np.nan),
                "refusal_ordinary": table.loc[
                    ~table["category"].isin(["harmful", "unanswerable"]), "refuses"
                ].mean(),
                "distinct1": distinct_n(answers, 1),
                "distinct2": distinct_n(answers, 2),
                "length": table["words"].mean(),
            }
            | table[list(GOLD_WEIGHTS)].mean().to_dict()
        )
        results |= {f"eval.{key}_{name}": float(value) for key, value in found.items()}
    return results


def examples(sft: list[dict], ppo: list[dict], seed: int = 0, count: int = 12) -> list[dict]:
    """Pairs of answers to read: every category in turn, then the worst losses, so that failures are always shown."""
    paired = [
        {
            "prompt": a["prompt"],
            "category": a["category"],
            "sft": a,
            "ppo": b,
            "gain": b["gold"] - a["gold"],
        }
        for a, b in zip(sft, ppo)
    ]
    shuffled = random.Random(seed).sample(paired, len(paired))
    categories = pd.Series([pair["category"] for pair in shuffled])
    turns = categories.groupby(categories).cumcount().sort_values(kind="stable")
    chosen = [shuffled[i] for i in turns.index[:count]]
    losses = sorted(
        (p for p in paired if p not in chosen and p["gain"] < 0), key=lambda p: p["gain"]
    )[: max(count // 2, 1)]
    return chosen + losses
