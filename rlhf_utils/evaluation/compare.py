"""Two policies compared on held-out prompts: scores of each answer, win rates, refusals, examples.

Intervals resample whole prompts. Left out: language models as judges, reward frontiers.
"""

import random
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..data.rows import Prompt
from ..preferences.rubric import GOLD_WEIGHTS, gold_score, refuses, rubric
from ..stats import bootstrap_by_prompt, correct

NOT_TO_BE_ANSWERED = ("harmful", "unanswerable")  # prompts that are not ordinary


@dataclass
class ScoredAnswer:
    """One policy's answer to one prompt, with all that is measured on it."""

    prompt: Prompt
    answer: str
    parts: dict[str, float]  # the rubric's, each from 0 to 1
    gold: float  # their weighted sum, 0 to 5
    reward: float
    refuses: bool
    words: int
    kl: float | None  # nats to π_SFT; None for answers of π_SFT itself

    def row(self, policy: str) -> dict:
        """A row of samples.jsonl."""
        row = {"policy": policy} | vars(self) | self.parts
        del row["parts"]
        return row | {"prompt": self.prompt.text, "category": self.prompt.category}


@dataclass
class Comparison:
    """What π_SFT and π_RLHF answer to one prompt."""

    prompt: Prompt
    sft: ScoredAnswer
    ppo: ScoredAnswer

    @property
    def gain(self) -> float:
        """Points of gold score that PPO brought."""
        return self.ppo.gold - self.sft.gold


def score_answers(
    prompts: list[Prompt], answers: list[str], rewards: list[float], kl: list[float] | None = None
) -> list[ScoredAnswer]:
    """The answers with their scores; all lists are in the same order."""
    scored = []
    rows = zip(prompts, answers, rewards, kl or [None] * len(prompts), strict=True)
    for prompt, answer, reward, nats in rows:
        scored.append(
            ScoredAnswer(
                prompt=prompt,
                answer=answer,
                parts=rubric(prompt, answer),
                gold=gold_score(prompt, answer),
                reward=reward,
                refuses=refuses(answer),
                words=len(answer.split()),
                kl=nats,
            )
        )
    return scored


def side_by_side(sft: list[ScoredAnswer], ppo: list[ScoredAnswer]) -> list[Comparison]:
    """One comparison a prompt, from two lists in the same order of prompts."""
    return [Comparison(before.prompt, before, after) for before, after in zip(sft, ppo)]


def compare(comparisons: list[Comparison], seed: int = 0) -> dict:
    """The flat `eval.*` results; a name's end says whose number it is, `_sft` or `_ppo`."""
    sft = pd.DataFrame([pair.sft.row("sft") for pair in comparisons])
    ppo = pd.DataFrame([pair.ppo.row("ppo") for pair in comparisons])
    prompts = sft["prompt"].to_list()
    gold, gold_ci = win_rate(ppo["gold"], sft["gold"], prompts, seed)
    reward, reward_ci = win_rate(ppo["reward"], sft["reward"], prompts, seed)
    results = {
        "eval.win_rate_vs_sft": gold,
        "eval.win_rate_ci": gold_ci,
        "eval.win_rate_reward_model": reward,
        "eval.win_rate_reward_model_ci": reward_ci,
        "eval.kl": float(ppo["kl"].mean()),
        "eval.prompts": len(prompts),
    }
    for policy, answers in (("sft", sft), ("ppo", ppo)):
        for name, value in measure(answers).items():
            results[f"eval.{name}_{policy}"] = float(value)
    return results


def win_rate(ours, theirs, prompts: list[str], seed: int = 0) -> tuple[float, tuple[float, float]]:
    """How often our score is higher, ties counting half, and its 95% interval."""
    wins = correct(np.asarray(ours) - np.asarray(theirs))
    return float(wins.mean()), bootstrap_by_prompt(wins, prompts, seed=seed)


def measure(answers: pd.DataFrame) -> dict[str, float]:
    """The means over one policy's rows; NaN where there is nothing to count."""
    refused, category = answers["refuses"], answers["category"]
    found = {
        "gold": answers["gold"].mean(),
        "reward": answers["reward"].mean(),
        "refusal_harmful": refused[category == "harmful"].mean(),
        "refusal_benign": refused[category == "benign_lookalike"].mean(),
        "refusal_ordinary": refused[~category.isin(NOT_TO_BE_ANSWERED)].mean(),
        "distinct1": distinct_n(answers["answer"], 1),
        "distinct2": distinct_n(answers["answer"], 2),
        "length": answers["words"].mean(),
    }
    return found | {part: answers[part].mean() for part in GOLD_WEIGHTS}


def distinct_n(texts: list[str], n: int = 2) -> float:
    """Different n-grams of words over all n-grams (Li 2016, arXiv 1510.03055); NaN without any."""
    grams = []
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        grams += [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def examples(comparisons: list[Comparison], seed: int = 0, count: int = 12) -> list[Comparison]:
    """Answers to read: `count` drawn from every category in turn, then the worst losses.

    The losses are up to half as many again, so that failures are always shown.
    """
    shuffled = random.Random(seed).sample(comparisons, len(comparisons))
    seen: Counter[str] = Counter()
    turns = []
    for pair in shuffled:
        turns.append((seen[pair.prompt.category], pair))
        seen[pair.prompt.category] += 1
    drawn = [pair for _, pair in sorted(turns, key=lambda turn: turn[0])[:count]]
    losses = [pair for pair in comparisons if pair.gain < 0 and pair not in drawn]
    losses.sort(key=lambda pair: pair.gain)
    return drawn + losses[: max(count // 2, 1)]
