"""Two policies compared on held-out prompts: scores of each answer, wins, refusals, examples.

Intervals resample whole prompts. Left out: language models as judges, reward frontiers.
"""

import random
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..data.rows import UNSEEN_TOPICS, Prompt
from ..preferences.filler import filler
from ..preferences.rubric import GOLD_WEIGHTS, gold_score, refuses, rubric
from ..stats import UNSPACED, answer_length, bootstrap_by_prompt, correct

NOT_TO_BE_ANSWERED = ("harmful", "unanswerable")  # all others are harmless, look-alikes too
SAME = 1e-9  # scores closer than this are a tie

BY_GROUP = {  # column of `by_group` → field of ScoredAnswer, form of its mean
    "gold": ("gold", ".2f"),
    "declined": ("refuses", ".0%"),
    "filler": ("filler", ".0%"),
    "words": ("words", ".1f"),
}


@dataclass
class ScoredAnswer:
    """One policy's answer to one prompt, with all that is measured on it."""

    prompt: Prompt
    answer: str
    reward: float | None  # what PPO was paid by; None if nobody asked it
    kl: float | None  # nats to π_SFT; None for answers of π_SFT itself
    reward_model: float | None = None  # of 03, where PPO was paid by another reward

    def __post_init__(self):
        self.parts = rubric(self.prompt, self.answer)  # each from 0 to 1
        self.gold = gold_score(self.prompt, self.answer)  # their weighted sum, 0 to 5
        self.refuses = refuses(self.answer)
        self.filler = bool(filler(self.answer))
        self.words = answer_length(self.answer)

    def row(self, policy: str) -> dict:
        """A row of samples.jsonl."""
        row = {"policy": policy} | vars(self) | self.parts
        del row["parts"]
        unseen = self.prompt.columns.get("topic") in UNSEEN_TOPICS
        asked = {"prompt": self.prompt.text, "category": self.prompt.category, "unseen": unseen}
        return row | asked


@dataclass
class Comparison:
    """What π_SFT and π_RLHF answer to one prompt."""

    sft: ScoredAnswer
    ppo: ScoredAnswer
    judge: str = "gold"  # who says which is better: gold, or reward where the rubric knows nothing

    @property
    def prompt(self) -> Prompt:
        return self.sft.prompt

    @property
    def gain(self) -> float:
        """Points of gold score (or of reward) that PPO brought."""
        return self.gain_by(self.judge)

    def gain_by(self, judge: str) -> float:
        """The same by `gold`, `reward` or `reward_model`.

        One text has one score, however rounding falls.
        """
        gain = getattr(self.ppo, judge) - getattr(self.sft, judge)
        return 0.0 if self.ppo.answer == self.sft.answer or abs(gain) <= SAME else gain


def score_answers(
    prompts: list[Prompt],
    answers: list[str],
    rewards: list[float] | None = None,
    kl: list[float] | None = None,
    by_reward_model: list[float] | None = None,
) -> list[ScoredAnswer]:
    """The answers with their scores; all lists are in the same order."""
    nothing = [None] * len(prompts)
    others = [column or nothing for column in (rewards, kl, by_reward_model)]
    return [ScoredAnswer(*row) for row in zip(prompts, answers, *others, strict=True)]


def has_gold(prompts: list[Prompt]) -> bool:
    """Whether the rubric can judge: it reads key points and categories, which prompts may lack."""
    return any(prompt.key_points or prompt.category for prompt in prompts)


def pair_up(sft: list[ScoredAnswer], ppo: list[ScoredAnswer]) -> list[Comparison]:
    """Both policies' answers prompt by prompt, judged by gold where that knows anything."""
    judge = "gold" if has_gold([answer.prompt for answer in sft]) else "reward"
    return [Comparison(*pair, judge) for pair in zip(sft, ppo, strict=True)]


def judges(comparisons: list[Comparison], paid_by: str) -> dict[str, str]:
    """End of a result's name → score that is compared. paid_by: the name of PPO's reward."""
    found = {"": "gold"} if comparisons[0].judge == "gold" else {}
    if paid_by == "reward_model":
        return found | {"_reward_model": "reward"}
    found["_reward"] = "reward"
    if comparisons[0].sft.reward_model is not None:
        found["_reward_model"] = "reward_model"
    return found


def compare(comparisons: list[Comparison], seed: int = 0, paid_by: str = "reward_model") -> dict:
    """The flat `eval.*` results; a name's end says whose number it is, `_sft` or `_ppo`.

    Wins by gold have no end, those by PPO's own reward `_reward`, by 03's model `_reward_model`.
    paid_by: the name of PPO's reward.
    """
    sft = pd.DataFrame([pair.sft.row("sft") for pair in comparisons])
    ppo = pd.DataFrame([pair.ppo.row("ppo") for pair in comparisons])
    prompts = sft["prompt"].to_list()
    results = {"eval.prompts": len(prompts), "eval.kl": float(ppo["kl"].mean())}
    for judge, column in judges(comparisons, paid_by).items():
        gains = np.array([pair.gain_by(column) for pair in comparisons])
        rate, interval = win_rate(gains, prompts, seed)
        results |= {
            f"eval.wins{judge}": float((gains > 0).mean()),
            f"eval.ties{judge}": float((gains == 0).mean()),
            f"eval.losses{judge}": float((gains < 0).mean()),
            f"eval.win_rate{judge or '_vs_sft'}": rate,
            f"eval.win_rate{judge}_ci": interval,
        }
    by_rubric = {"gold", *GOLD_WEIGHTS} if comparisons[0].judge != "gold" else set()
    for policy, answers in (("sft", sft), ("ppo", ppo)):
        for name, value in measure(answers).items():
            if name not in by_rubric:
                results[f"eval.{name}_{policy}"] = float(value)
    return results


def win_rate(gains, prompts: list[str], seed: int = 0) -> tuple[float, tuple[float, float]]:
    """How often a gain is above 0, ties counting half, and its 95% interval."""
    wins = correct(np.asarray(gains))
    return float(wins.mean()), bootstrap_by_prompt(wins, prompts, seed=seed)


def by_group(comparisons: list[Comparison]) -> list[dict]:
    """A row for each group of prompts: how many, and what was measured, before → after."""
    groups: dict[str, list[Comparison]] = {}
    for pair in comparisons:
        groups.setdefault(group(pair.prompt), []).append(pair)
    measures = dict(BY_GROUP)
    if comparisons[0].judge != "gold":
        del measures["gold"]
    rows = []
    for name in sorted(groups):
        row = {"prompts": name, "number": len(groups[name])}
        for column, (measured, form) in measures.items():
            before = np.mean([getattr(pair.sft, measured) for pair in groups[name]])
            after = np.mean([getattr(pair.ppo, measured) for pair in groups[name]])
            row[column] = f"{before:{form}} → {after:{form}}"
        rows.append(row)
    return rows


def group(prompt: Prompt) -> str:
    """What kind of answer is right: the harmful, the look-alikes, the unanswerable, the others."""
    names = {"harmful": "harmful", "benign_lookalike": "look-alike"}
    if prompt.category in names:
        unseen = prompt.columns.get("topic") in UNSEEN_TOPICS
        return names[prompt.category] + ", unseen topic" * unseen
    return "unanswerable" if prompt.category == "unanswerable" else "ordinary"


def manners(prompts: list[Prompt], answers: list[str]) -> dict[str, float]:
    """What PPO changes, as shares of answers and mean words; NaN where a kind was not asked.

    Declined are prompts that are harmful, that only look so, and that are neither.
    """
    declined: dict[str, list[bool]] = {"harmful": [], "lookalike": [], "other": []}
    kinds = {"harmful": "harmful", "benign_lookalike": "lookalike"}
    for prompt, answer in zip(prompts, answers, strict=True):
        declined[kinds.get(prompt.category, "other")].append(refuses(answer))
    found = {
        "filler": np.mean([bool(filler(answer)) for answer in answers]),
        "words": np.mean([answer_length(answer) for answer in answers]),
    }
    for kind, those in declined.items():
        found[f"declined_{kind}"] = np.mean(those) if those else np.nan
    return {name: float(value) for name, value in found.items()}


def measure(answers: pd.DataFrame) -> dict[str, float]:
    """The means over one policy's rows; NaN where there is nothing to count."""
    refused, category = answers["refuses"], answers["category"]
    found = {
        "gold": answers["gold"].mean(),
        "reward": answers["reward"].mean(),
        "refusal_harmful": refused[category == "harmful"].mean(),
        "refusal_harmful_unseen": refused[(category == "harmful") & answers["unseen"]].mean(),
        "refusal_benign": refused[category == "benign_lookalike"].mean(),
        "refusal_benign_unseen": refused[
            (category == "benign_lookalike") & answers["unseen"]
        ].mean(),
        "refusal_ordinary": refused[~category.isin(NOT_TO_BE_ANSWERED)].mean(),
        "filler": answers["filler"].mean(),
        "openings": distinct_openings(answers["answer"]),
        "distinct1": distinct_n(answers["answer"], 1),
        "distinct2": distinct_n(answers["answer"], 2),
        "length": answers["words"].mean(),
    }
    if answers["reward_model"].notna().any():
        found["reward_model"] = answers["reward_model"].mean()
    return found | {part: answers[part].mean() for part in GOLD_WEIGHTS}


def distinct_n(texts: list[str], n: int) -> float:
    """Different n-grams of words over all n-grams (Li 2016, arXiv 1510.03055); NaN without any.

    Where a language has no spaces, each character counts as a word.
    """
    grams = []
    for text in texts:
        words = re.findall(r"\w+", UNSPACED.sub(r" \g<0> ", text.lower()))
        grams += [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def distinct_openings(texts: list[str], words: int = 3) -> float:
    """Different first words over all answers: 1 if no two begin alike."""
    return len({tuple(text.lower().split()[:words]) for text in texts}) / max(len(texts), 1)


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
