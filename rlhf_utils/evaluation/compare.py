"""Numbers about policies and reward models: win rates, intervals, calibration, diversity, refusals.

Intervals over pairs or responses are bootstrapped by prompt, since answers to one prompt are not independent.
Left out: language models as judges, reward frontiers.
"""

import random
import re

import numpy as np
import pandas as pd
import torch

from ..preferences.rubric import GOLD_WEIGHTS, gold_score, refuses, rubric
from ..stats import bootstrap_by_prompt, correct


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
