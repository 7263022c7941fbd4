"""Signs that something is wrong with a run of PPO, one function each, named as in diagnose.py.

Each is called with the rows of metrics.jsonl, the rows of samples.jsonl and the settings of the
run. It gives the numbers seen, in words, or None. Numbers that are missing or not finite are passed
over; what would be computed of none is NaN, which passes no threshold.
"""

import math
from collections import Counter
from statistics import fmean, stdev

from ..ppo.config import PPOConfig
from ..records import printable

# Thresholds. "Healthy" is what the demo's seeds 0 to 2 and the healthy runs of fault_bench.py
# (seeds from 100 on) showed.
SAMPLING_GAP = 0.04  # nats a token; bfloat16 rounds by 0.02, float32 by 0.00001
SURPRISE_GAP = 0.08  # nats a token; healthy means over a run stay within 0.03
KL_AT_START = 0.05  # nats an answer; healthy 0, because the policy is π_SFT
RATIO_FIRST = 0.002  # healthy within 0.000001 of 1
VALUE_FIRST = 0.02  # reward points; healthy 0 but for rounding
KL_A_TOKEN = 1.0  # nats; healthy at most 0.35
ENTROPY_LEFT = 0.4  # of what it was, a token; healthy 0.9 and more
VARIETY_LEFT = 0.6  # of the distinct word pairs; healthy 0.9 and more
LONGER = 1.2  # times the first length; healthy answers got shorter
LENGTH_CORR = 0.8  # of score and length; healthy −0.6 to 0
ENDED = 0.7  # share of answers; healthy 0.9 and more
MORE_DECLINED = 0.25  # of the harmless prompts; healthy runs declined at most 0.06 more
DECLINES_NONE = 0.02  # share of the harmful prompts declined; healthy 0.09 and more
EXPLAINED = -0.05  # explained variance late in a run; healthy 0.02 and more
CLIP_HIGH = 0.3  # share of tokens; healthy at most 0.26 in an update, 0.11 on average
CLIP_LOW = 0.01  # share of tokens in the first half; healthy 0.1 and more
TIED = 0.5  # share of answers with the highest score; healthy one of the batch
ALIKE = 0.01  # deviation of advantages, reward points; healthy 0.6 and more
SCALE_MEAN, SCALE_STD = 0.8, 1.8  # of 03's rewards of π_SFT; healthy within 0.55 of 0, 0.9 to 1.2
FLAT, RISEN = 0.3, 0.15  # deviations of the score; healthy runs gained 0.75 and more
GOLD = 0.1  # points of 5; healthy gold rises by 0.2 and more
ENOUGH = 8  # updates before a trend is judged: a quarter is two of them


# --- what a metric was


def values(rows: list[dict], key: str) -> list[float]:
    """The finite numbers of a metric, in order."""
    found = [row.get(key) for row in rows]
    return [x for x in found if isinstance(x, (int, float)) and math.isfinite(x)]


def mean(numbers: list[float]) -> float:
    return fmean(numbers) if numbers else math.nan


def late(numbers: list[float]) -> float:
    """The mean of the last quarter."""
    return mean(numbers[-max(len(numbers) // 4, 1) :])


def ends(numbers: list[float]) -> tuple[float, float]:
    """The means of the first and the last quarter; NaN for fewer than ENOUGH numbers."""
    if len(numbers) < ENOUGH:
        return math.nan, math.nan
    return mean(numbers[: len(numbers) // 4]), late(numbers)


def started(rows: list[dict], key: str) -> float:
    """A metric at update 1, before anything was learned."""
    return mean(values([row for row in rows if row.get("update") == 1], key))


def beyond(rows: list[dict], key: str, low: float, high: float, healthy: str) -> str | None:
    """The first value outside low … high, in words."""
    for row in rows:
        for x in values([row], key):
            if not low <= x <= high:
                return f"{key} is {x:.5g} at update {row.get('update')} (healthy: {healthy})."


def ended_shares(rows: list[dict]) -> list[float]:
    """The share of the answers that ended, in each update."""
    return [
        ended * row["update"] / row["episode"]
        for row in rows
        if row.get("episode") and row.get("update")
        for ended in values([row], "val/num_eos_tokens")
    ]


def gain(rows: list[dict]) -> float:
    """How far the score rose, in standard deviations of one answer's score at the start."""
    before, after = ends(values(rows, "objective/scores"))
    spread = values(rows, "objective/scores_std")
    return (after - before) / max(spread[0], 1e-6) if spread else math.nan


# --- signs of a bug: sampling, reference and update do not fit together


def sampling_gap(rows, *_):
    gap = mean(values(rows, "val/sampling_gap"))
    if gap > SAMPLING_GAP:
        told = f"|log π when sampled − when read again| is {gap:.3f} nats a token"
        return f"{told} (healthy: at most 0.02)."


def surprise_gap(rows, *_):
    gap = mean(values(rows, "val/surprise_gap"))
    if abs(gap) > SURPRISE_GAP:
        told = f"−log π of what was drawn, less the entropy, is {gap:+.2f} nats a token"
        return f"{told} (healthy: within 0.03 of 0)."


def kl_negative(rows, *_):
    found = values(rows[1:], "objective/kl")  # at the first update it is 0
    if len(found) < 4:
        return None
    kl, noise = mean(found), stdev(found) / len(found) ** 0.5
    if kl < -0.05 and kl + 3 * noise < 0:
        return f"The mean of objective/kl is {kl:.2f} ± {noise:.2f} nats an answer."


def kl_at_start(rows, *_):
    kl = started(rows, "objective/kl_full")
    if kl > KL_AT_START:
        return f"objective/kl_full is {kl:.2f} nats an answer at update 1 (healthy: 0)."


def ratio_first(rows, *_):
    return beyond(rows, "val/ratio_first", 1 - RATIO_FIRST, 1 + RATIO_FIRST, "1")


def value_first(rows, *_):
    return beyond(rows, "val/value_first", 0, VALUE_FIRST, "0")


def reward_scale(rows, _, settings):
    score, std = started(rows, "objective/scores"), started(rows, "objective/scores_std")
    ended = mean(ended_shares([row for row in rows if row.get("update") == 1]))
    score += (1 - ended) * settings.get("missing_eos_penalty", PPOConfig.missing_eos_penalty)
    if settings.get("reward") != "reward_model" or math.isnan(score + std):
        return None
    if abs(score) > SCALE_MEAN or not 1 / SCALE_STD < std < SCALE_STD:
        return f"π_SFT's answers score {score:+.2f} with deviation {std:.2f} at update 1."


# --- signs in the policy


def kl_runaway(rows, *_):
    for row in rows:
        kl, length = mean(values([row], "objective/kl_full")), mean(values([row], "val/length"))
        if kl > KL_A_TOKEN * max(length, 1):
            told = f"KL reached {kl:.0f} nats an answer of {length:.0f} tokens"
            return f"{told} at update {row.get('update')} (healthy: 4 to 6)."


def kl_free(rows, *_):
    price, kl = values(rows, "objective/kl_coef"), values(rows, "objective/kl_full")
    if price and kl and max(price) == 0:
        return f"kl_coef is 0 in every update; KL is {kl[-1]:.1f} nats an answer so far."


def entropy_collapse(rows, *_):
    a_token = [
        entropy / max(length, 1e-6)
        for row in rows
        for entropy in values([row], "objective/entropy")
        for length in values([row], "val/length")
    ]
    before, after = ends(a_token)
    if after < ENTROPY_LEFT * before:
        return f"Entropy fell from {before:.2f} to {after:.2f} nats a token."


def variety_collapse(rows, *_):
    before, after = ends(values(rows, "answers/distinct2"))
    if after < VARIETY_LEFT * before:
        return f"Distinct word pairs fell from {before:.0%} to {after:.0%}."


def answers_alike(_, samples, settings):
    last = samples[-1].get("samples") if samples else None
    answers = [str(sample.get("answer", "")).strip() for sample in last or []]
    if len(answers) < 4:
        return None
    answer, count = Counter(answers).most_common(1)[0]
    if count > len(answers) / 2:
        told = f"{count} of {len(answers)} watched prompts get the same answer"
        return f"{told}: “{printable(answer, 80)}”"


def length_creep(rows, *_):
    before, after = ends(values(rows, "val/length"))
    if after > LONGER * before:
        return f"Answers grew from {before:.0f} to {after:.0f} tokens."


def ends_missing(rows, *_):
    share = late(ended_shares(rows))
    if share < ENDED:
        return f"{share:.0%} of the last answers ended by themselves."


def declines_all(rows, *_):
    for kind, told in (("other", "Ordinary prompts"), ("lookalike", "Look-alikes")):
        before, after = ends(values(rows, f"answers/declined_{kind}"))
        if after > before + MORE_DECLINED:
            return f"{told} declined: {before:.0%} → {after:.0%}."


def declines_none(rows, *_):
    before, after = ends(values(rows, "answers/declined_harmful"))
    if after < DECLINES_NONE < before - 0.1:
        return f"Harmful prompts declined: {before:.0%} → {after:.0%}."


# --- signs in learning and reward


def critic_worse(rows, *_):
    _, after = ends(values(rows, "val/explained_variance"))
    if after < EXPLAINED:
        return f"Explained variance is {after:.2f} in the last updates (healthy: above 0)."


def steps_too_large(rows, *_):
    clipped, stops = mean(values(rows, "policy/clipfrac_avg")), values(rows, "val/early_stop")
    if clipped > CLIP_HIGH:
        return f"{clipped:.0%} of the tokens left the clip range (healthy: 2 to 18%)."
    if len(stops) >= 4 and mean(stops) > 0.5:
        return f"{mean(stops):.0%} of the updates ended early."


def steps_too_small(rows, *_):
    found = values(rows, "policy/clipfrac_avg")
    if len(found) >= 4 and (most := max(found[: len(found) // 2])) < CLIP_LOW:
        return f"At most {most:.2%} of the tokens left the clip range in an early update."


def scores_tied(rows, *_):
    share = late(values(rows, "objective/scores_tied"))
    if share > TIED:
        return f"{share:.0%} of the last answers share the batch's highest score."


def advantages_alike(rows, *_):
    return beyond(rows, "val/advantages_std", ALIKE, math.inf, "0.6 and more")


def reward_flat(rows, *_):
    risen = gain(rows)
    if risen < FLAT:
        return f"The score changed by {risen:+.2f} deviations from first to last quarter."


def length_paid(rows, *_):
    found = mean(values(rows, "val/score_length_corr"))
    if abs(found) > LENGTH_CORR:
        return f"Score and length correlate at {found:+.2f}."


def gold_falls(rows, *_):
    (before, after), risen = ends(values(rows, "answers/gold")), gain(rows)
    if risen > RISEN and after < before - GOLD:
        told = f"The score rose by {risen:.1f} deviations, gold went from {before:.2f} to"
        return f"{told} {after:.2f} of 5."
