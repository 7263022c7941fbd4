"""What is there to win, without training: answers of π_SFT, weighted anew.

The policy with the highest E[reward] − β·KL is π_SFT·exp(reward/β)/Z (Korbak 2022, arXiv
2205.11275; Rafailov 2023, arXiv 2305.18290). So answers that π_SFT has given, with weights
proportional to exp(reward/β), tell what PPO could reach at a β; the best of n is another way there.
Left out: answers that π_SFT hardly ever gives. PPO may find them; samples cannot show them.
"""

import math

import numpy as np
import pandas as pd

from ..data.rows import Prompt, pick
from ..evaluation.compare import has_gold
from ..preferences.rubric import gold_score, refuses
from ..stats import answer_length

BETAS = np.geomspace(5, 0.02, 25)
KINDS = ("harmful", "lookalike", "other")
FEWEST = 8  # answers to a prompt that must count
FEW = 10  # prompts, below which there is no verdict
LITTLE = 0.1  # points of gold; if the best of four gains less, there is little to win
# Of what the best of four by gold gains, the share that the reward must find: rules of thumb.
ENOUGH, SOME = 0.5, 0.2


def kind_of(prompt: Prompt) -> str:
    """One of KINDS."""
    names = {"harmful": "harmful", "benign_lookalike": "lookalike"}
    return names.get(prompt.category, "other")


def pick_prompts(prompts: list[Prompt], count: int, seed: int) -> list[Prompt]:
    """About `count` different prompts, as many of each kind that there is."""
    different = {prompt.text: prompt for prompt in prompts}.values()
    by_kind = [[prompt for prompt in different if kind_of(prompt) == kind] for kind in KINDS]
    there = list(filter(None, by_kind))
    return [prompt for those in there for prompt in pick(those, count // len(there), seed)]


# --- weights of one prompt's answers


def tilted_weights(rewards: np.ndarray, beta: float) -> np.ndarray:
    """(…, N) weights proportional to exp(reward/β), which sum to 1; β may be infinite."""
    powers = np.exp((rewards - rewards.max(-1, keepdims=True)) / beta)
    return powers / powers.sum(-1, keepdims=True)


def best_of_weights(scores: np.ndarray, n: int) -> np.ndarray:
    """(N,) the chance that each of N answers is the best of n of them, drawn without replacement.

    The best ones of a draw share the chance if they are tied. C(k, n) draws stay among the k worst
    answers.
    """
    ordered = np.sort(scores)
    worse = np.searchsorted(ordered, scores, "left")
    no_better = np.searchsorted(ordered, scores, "right")
    count = len(scores)
    draws = np.array([math.comb(k, n) / math.comb(count, n) for k in range(count + 1)])
    return (draws[no_better] - draws[worse]) / (no_better - worse)


def kl_of(weights: np.ndarray) -> np.ndarray:
    """(…,) Σ w·log(N·w): nats between the weighted answers and π_SFT; at most log N."""
    times = weights * weights.shape[-1]
    return (weights * np.log(np.where(times > 0, times, 1.0))).sum(-1)


def ess_of(weights: np.ndarray) -> np.ndarray:
    """(…,) 1/Σw², how many of N answers count (Kong 1992): from 1 to N."""
    return 1 / (weights**2).sum(-1)


# --- all of it


def measure(prompts: list[Prompt], answers: list[list[str]], rewards: list[float]) -> dict:
    """What `verdict`, `results` and show.whatif.figure read, and the samples themselves.

    answers: N to each of P prompts. rewards: P·N numbers, in the same order. Numbers are means over
    prompts; gold is missing where the rubric knows nothing.
    """
    count = len(answers[0])
    values = {
        "reward": np.reshape(rewards, (len(prompts), count)),
        "declined": np.array([[float(refuses(answer)) for answer in few] for few in answers]),
        "words": np.array([[answer_length(answer) for answer in few] for few in answers]),
    }
    if has_gold(prompts):
        gold = [[gold_score(p, answer) for answer in few] for p, few in zip(prompts, answers)]
        values["gold"] = np.round(gold, 9)  # equal sums are ties, however they were rounded
    kinds = np.array([kind_of(prompt) for prompt in prompts])

    tilted = []
    for beta in (math.inf, *BETAS):
        weights = tilted_weights(values["reward"], beta)
        row = {"beta": float(f"{beta:.2g}"), "kl": float(kl_of(weights).mean())}
        row |= _expected(weights, values, kinds)
        tilted.append(row | {"trusted": _enough(row["ess"], count)})
    best = {by: _best_of(by, values, kinds) for by in ("reward", "gold") if by in values}
    found = {"prompts": len(prompts), "answers": count, "spread": _spread(values)}
    found |= {"tilted": tilted, "best_of": best, "samples": []}
    for place, prompt in enumerate(prompts):
        row = {"prompt": prompt.text, "kind": kinds[place], "answers": answers[place]}
        row |= {name: of[place].tolist() for name, of in values.items()}
        found["samples"].append(row)
    return found


def _expected(weights: np.ndarray, values: dict, kinds: np.ndarray) -> dict:
    """The means of a (P, N) weighting. ess: how many of the N answers count."""
    by_prompt = {name: (weights * of).sum(1) for name, of in values.items()}
    declined = by_prompt.pop("declined")
    row = {"ess": float(ess_of(weights).mean())}
    row |= {name: float(means.mean()) for name, means in by_prompt.items()}
    there = [kind for kind in KINDS if kind in kinds]
    return row | {f"declined_{kind}": float(declined[kinds == kind].mean()) for kind in there}


def _enough(ess: float, count: int) -> bool:
    """Whether to trust a mean: FEWEST answers to a prompt count, and a tenth of them."""
    return bool(round(ess, 6) >= max(FEWEST, 0.1 * count))


def _best_of(by: str, values: dict, kinds: np.ndarray) -> list[dict]:
    """A row for n = 1, 2, 4, … up to all N.

    kl: log n − (n−1)/n, which ties only lower (Beirami 2024, arXiv 2401.01879).
    """
    count = values[by].shape[1]
    rows = []
    for n in (2**power for power in range(count.bit_length())):
        weights = np.array([best_of_weights(scores, n) for scores in values[by]])
        row = {"n": n, "kl": math.log(n) - (n - 1) / n} | _expected(weights, values, kinds)
        apart = ess_of(best_of_weights(np.arange(count), n))  # ties would look like more answers
        rows.append(row | {"trusted": _enough(apart, count)})
    return rows


def _spread(values: dict) -> dict:
    """Standard deviations within a prompt; with gold, Spearman's correlation of it and reward.

    The correlation is NaN unless both vary with some prompt.
    """
    judges = [name for name in ("reward", "gold") if name in values]
    found = {f"{name}_sd": float(values[name].std(1).mean()) for name in judges}
    if "gold" in values:
        by_reward, by_gold = (pd.DataFrame(values[name].T).rank() for name in judges)
        found["correlation"] = float(by_reward.corrwith(by_gold).mean())
    return found


def gains(data: dict) -> tuple[int, dict[str, float]]:
    """(n, what the best of n gains by each judge): points of gold, or of reward without gold.

    n is four, or fewer where there are fewer answers.
    """
    best_of = data["best_of"]
    score = "gold" if "gold" in best_of else "reward"
    found = {by: rows[:3][-1][score] - rows[0][score] for by, rows in best_of.items()}
    return best_of["reward"][:3][-1]["n"], found


def verdict(data: dict) -> str:
    """Is the reward good enough for PPO? Two sentences; without gold, what can be said."""
    (n, gained), spread = gains(data), data["spread"]
    if "gold" not in gained:
        return (
            f"π_SFT's answers to one prompt differ by {spread['reward_sd']:.2f} points of reward "
            f"(standard deviation), and the best of {n} gains {gained['reward']:.2f}. Whether they "
            "are better answers no reward can say: there is no gold score here, so read some."
        )
    follows = spread["correlation"]
    follows = "–" if follows is None or math.isnan(follows) else f"{follows:.2f}"
    told = (
        f"π_SFT's answers to one prompt differ by {spread['gold_sd']:.2f} points of gold (standard "
        f"deviation), and the reward orders them with a rank correlation of {follows}. "
        f"The best of {n} by reward gains {gained['reward']:+.2f} points of gold, "
        f"where the best of {n} by gold gains {gained['gold']:+.2f}: "
    )
    return told + _judged(data["prompts"], gained["reward"], gained["gold"])


def _judged(prompts: int, by_reward: float, by_gold: float) -> str:
    if prompts < FEW:
        return f"but {prompts} prompts are too few to judge the reward model by."
    if by_gold < LITTLE:
        return "there is little to win. A higher temperature may bring more different answers."
    found = by_reward / by_gold
    if found >= ENOUGH:
        return f"{found:.0%} of what there is to win, so the reward model is good enough for PPO."
    if found >= SOME:
        return f"{found:.0%} of what there is to win. PPO will gain; more labels would help more."
    return "too little. PPO would please this judge, and hardly anybody else: it needs more labels."


def results(data: dict) -> dict[str, float]:
    """What the run's results keep; nothing without gold."""
    _, gained = gains(data)
    if "gold" not in gained:
        return {}
    return {
        "reward_model.whatif_gold_sd": data["spread"]["gold_sd"],
        "reward_model.whatif_correlation": data["spread"]["correlation"],
        "reward_model.whatif_gain": gained["reward"],
        "reward_model.whatif_gain_gold": gained["gold"],
    }
