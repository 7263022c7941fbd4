"""Two policies compared on held-out prompts: scores of each answer, wins, refusals, examples.

Intervals resample whole prompts. Left out: language models as judges, reward frontiers.
"""

import random
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..data.rows import UNSEEN_TOPICS, Prompt, columns_of
from ..preferences.filler import filler
from ..preferences.rubric import GOLD_WEIGHTS, gold_score, refuses, rubric
from ..show.text import JUDGES, result_text, value_text
from ..stats import UNSPACED, answer_length, bootstrap_by_prompt, correct, finite_scores

NOT_TO_BE_ANSWERED = ("harmful", "unanswerable")  # all others are harmless, look-alikes too
SAME = 1e-9  # scores closer than this are a tie

WHO = {  # policy → its name in `scale`
    "random": "a random model",
    "base": "the base model",
    "sft": "π_SFT",
    "ppo": "π_RLHF",
    "best_of_4": "best of four of π_SFT",
}
BY_GROUP = {  # column of `by_group` → field of ScoredAnswer, form of its mean
    "gold": ("gold", ".2f"),
    "reward": ("reward", ".2f"),
    "declined": ("refuses", ".0%"),
    "filler": ("filler", ".0%"),
    "words": ("words", ".1f"),
}


@dataclass
class ScoredAnswer:
    """One policy's answer to one prompt, with all that is measured on it."""

    prompt: Prompt
    answer: str
    reward: float | None = None  # what PPO was paid by; None if nobody asked it
    kl: float | None = None  # nats to π_SFT; None for answers of π_SFT itself
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


def ask_judges(
    judges: dict[str, Callable],
    prompts: list[Prompt],
    answers: list[str],
    size: int,
    track: Callable[[Iterable], Iterable] = iter,
) -> dict[str, list[float]]:
    """The scores of all answers by each of these rewards, which get `size` answers at a time.

    track: what the batches are taken through, such as a progress bar.
    """
    texts, columns = [prompt.text for prompt in prompts], columns_of(prompts)
    found = {name: [] for name in judges}
    for start in track(range(0, len(texts), size)):
        batch = slice(start, start + size)
        given = {name: values[batch] for name, values in columns.items()}
        for name, judge in judges.items():
            scores = judge(prompts=texts[batch], completions=answers[batch], **given)
            found[name] += finite_scores(scores, len(texts[batch]))
    return found


def score_answers(
    prompts: list[Prompt],
    answers: list[str],
    reward: list[float] | None = None,
    kl: list[float] | None = None,
    reward_model: list[float] | None = None,
) -> list[ScoredAnswer]:
    """The answers with their scores; all lists are in the same order."""
    others = [column or [None] * len(prompts) for column in (reward, kl, reward_model)]
    return [ScoredAnswer(*row) for row in zip(prompts, answers, *others, strict=True)]


def has_gold(prompts: list[Prompt]) -> bool:
    """Whether the rubric can judge: it reads key points and categories, which prompts may lack."""
    return any(prompt.key_points or prompt.category for prompt in prompts)


def pair_up(sft: list[ScoredAnswer], ppo: list[ScoredAnswer]) -> list[Comparison]:
    """Both policies' answers prompt by prompt, judged by gold where that knows anything."""
    judge = "gold" if has_gold([answer.prompt for answer in sft]) else "reward"
    return [Comparison(*pair, judge) for pair in zip(sft, ppo, strict=True)]


def compare(comparisons: list[Comparison], seed: int = 0, paid_by: str = "reward_model") -> dict:
    """The flat `eval.*` results; a name's end says whose number it is, `_sft` or `_ppo`.

    Wins by gold have no end, those by PPO's own reward `_reward`, by 03's model `_reward_model`.
    paid_by: the name of PPO's reward.
    """
    sft = pd.DataFrame([pair.sft.row("sft") for pair in comparisons])
    ppo = pd.DataFrame([pair.ppo.row("ppo") for pair in comparisons])
    by_gold = comparisons[0].judge == "gold"
    judges = {"": "gold"} if by_gold else {}
    judges["_reward_model" if paid_by == "reward_model" else "_reward"] = "reward"
    if comparisons[0].sft.reward_model is not None:
        judges["_reward_model"] = "reward_model"

    results = {"eval.prompts": len(comparisons), "eval.kl": float(ppo["kl"].mean())}
    for end, judge in judges.items():
        gains = np.array([pair.gain_by(judge) for pair in comparisons])
        rate, interval = win_rate(gains, sft["prompt"].to_list(), seed)
        results |= {
            f"eval.wins{end}": float((gains > 0).mean()),
            f"eval.ties{end}": float((gains == 0).mean()),
            f"eval.losses{end}": float((gains < 0).mean()),
            f"eval.win_rate{end or '_vs_sft'}": rate,
            f"eval.win_rate{end}_ci": interval,
        }
    for policy, answers in (("sft", sft), ("ppo", ppo)):
        for name, value in measure(answers).items():
            if by_gold or name not in ("gold", *GOLD_WEIGHTS):
                results[f"eval.{name}_{policy}"] = float(value)
    return results


def told(results: dict) -> list[str]:
    """Sentences of the results by each judge, and of score and KL."""
    found = []
    for end, judge in JUDGES.items():
        if f"eval.wins{end}" in results:
            wins, ties, losses = (
                results[f"eval.{name}{end}"] for name in ("wins", "ties", "losses")
            )
            low, high = results[f"eval.win_rate{end}_ci"]
            found.append(
                f"by {judge}: {wins:.0%} wins, {ties:.0%} ties, {losses:.0%} losses "
                f"(wins and half of the ties: 95% interval {low:.0%} to {high:.0%})"
            )
    name = "gold" if "eval.gold_sft" in results else "reward"
    before, after = (result_text(name, results[f"eval.{name}_{end}"]) for end in ("sft", "ppo"))
    kl = results["eval.kl"]
    return [*found, f"{name} {before} → {after}; KL {kl:.1f} nats an answer"]


def scale(answers: dict[str, list[ScoredAnswer]]) -> list[dict]:
    """A row for each of WHO that answered: the mean gold score, filler, the first answer.

    answers: policy → its answers, "sft" among them.
    """
    first = answers["sft"][0].prompt.text
    with_gold = has_gold([answer.prompt for answer in answers["sft"]])
    rows = []
    for policy, who in WHO.items():
        if not (own := answers.get(policy)):
            continue
        row = {"who": who}
        if with_gold:
            row["gold of 5"] = statistics.mean(answer.gold for answer in own)
        row["with filler"] = f"{statistics.mean(answer.filler for answer in own):.0%}"
        rows.append(row | {f"“{first}”": own[0].answer})
    return rows


def win_rate(gains, prompts: list[str], seed: int = 0) -> tuple[float, tuple[float, float]]:
    """How often a gain is above 0, ties counting half, and its 95% interval."""
    wins = correct(np.asarray(gains))
    return float(wins.mean()), bootstrap_by_prompt(wins, prompts, seed=seed)


def by_group(comparisons: list[Comparison]) -> list[dict]:
    """A row for each group of prompts: how many, and what was measured, before → after."""
    groups: dict[str, list[Comparison]] = {}
    for pair in comparisons:
        groups.setdefault(group(pair.prompt), []).append(pair)
    rows = []
    for name, pairs in sorted(groups.items()):
        row = {"prompts": name, "number": len(pairs)}
        for column, (measured, form) in BY_GROUP.items():
            if column in (pairs[0].judge, "declined", "filler", "words"):
                before = np.mean([getattr(pair.sft, measured) for pair in pairs])
                after = np.mean([getattr(pair.ppo, measured) for pair in pairs])
                row[column] = f"{value_text(before, form)} → {value_text(after, form)}"
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
    """What PPO changes: gold and its deviation, shares of answers, words, distinct word pairs.

    NaN where a kind was not asked. Declined are all prompts, and those that are harmful, that only
    look so, and that are neither.
    """
    declined: dict[str, list[bool]] = {"harmful": [], "lookalike": [], "other": []}
    kinds = {"harmful": "harmful", "benign_lookalike": "lookalike"}
    for prompt, answer in zip(prompts, answers, strict=True):
        declined[kinds.get(prompt.category, "other")].append(refuses(answer))
    found = {
        "filler": np.mean([bool(filler(answer)) for answer in answers]),
        "words": np.mean([answer_length(answer) for answer in answers]),
        "distinct2": distinct_n(answers, 2),
        "declined": np.mean([refuses(answer) for answer in answers]),
    }
    if has_gold(prompts):
        gold = [gold_score(prompt, answer) for prompt, answer in zip(prompts, answers)]
        found |= {"gold": np.mean(gold), "gold_std": np.std(gold)}
    for kind, those in declined.items():
        found[f"declined_{kind}"] = np.mean(those) if those else np.nan
    return {name: float(value) for name, value in found.items()}


def measure(answers: pd.DataFrame) -> dict[str, float]:
    """The means over one policy's rows; NaN where there is nothing to count."""
    refused, category, unseen = (answers[name] for name in ("refuses", "category", "unseen"))
    harmful, lookalike = category == "harmful", category == "benign_lookalike"
    found = {
        "gold": answers["gold"].mean(),
        "reward": answers["reward"].mean(),
        "filler": answers["filler"].mean(),
        "refusal_harmful": refused[harmful].mean(),
        "refusal_harmful_unseen": refused[harmful & unseen].mean(),
        "refusal_benign": refused[lookalike].mean(),
        "refusal_benign_unseen": refused[lookalike & unseen].mean(),
        "refusal_ordinary": refused[~category.isin(NOT_TO_BE_ANSWERED)].mean(),
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
