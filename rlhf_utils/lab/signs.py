"""Signs that something is wrong with a run of PPO, one function each, named as in diagnose.py.

Each is called with the rows of metrics.jsonl, the rows of samples.jsonl and the settings of the
run. It gives None, or (the numbers seen, the update that showed it or None). A sign whose metrics a
run lacks is None, and numbers that are missing or not finite are passed over.
"""

import math
from collections import Counter
from statistics import fmean, stdev

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


def ends(rows: list[dict], key: str) -> tuple[float, float] | None:
    """Its means over the first and the last quarter; None for fewer than ENOUGH numbers."""
    found = values(rows, key)
    quarter = len(found) // 4
    return (fmean(found[:quarter]), fmean(found[-quarter:])) if len(found) >= ENOUGH else None


def started(rows: list[dict], key: str) -> float | None:
    """Its value at update 1, before anything was learned."""
    found = values([row for row in rows if row.get("update") == 1], key)
    return found[0] if found else None


def first_beyond(rows: list[dict], key: str, low: float, high: float) -> tuple[int, float] | None:
    """(update, value) of the first one outside low … high."""
    for row in rows:
        found = values([row], key)
        if found and not low <= found[0] <= high:
            return row.get("update"), found[0]
    return None


def ended_shares(rows: list[dict]) -> list[float]:
    """The share of the answers that ended, in each update."""
    found = []
    for row in rows:
        counted = values([row], "val/num_eos_tokens")
        if counted and row.get("episode") and row.get("update"):
            found.append(counted[0] * row["update"] / row["episode"])
    return found


def gain(rows: list[dict]) -> float | None:
    """How far the score rose, in standard deviations of one answer's score at the start."""
    scores, spread = ends(rows, "objective/scores"), values(rows, "objective/scores_std")
    return (scores[1] - scores[0]) / max(spread[0], 1e-6) if scores and spread else None


# --- signs of a bug: sampling, reference and update do not fit together


def sampling_gap(rows, samples, settings):
    found = values(rows, "val/sampling_gap")
    if found and fmean(found) > SAMPLING_GAP:
        told = f"|log π when sampled − when read again| is {fmean(found):.3f} nats a token"
        return f"{told} (healthy: at most 0.02).", None


def surprise_gap(rows, samples, settings):
    found = values(rows, "val/surprise_gap")
    if found and abs(fmean(found)) > SURPRISE_GAP:
        told = f"−log π of what was drawn, less the entropy, is {fmean(found):+.2f} nats a token"
        return f"{told} (healthy: within 0.03 of 0).", None


def kl_negative(rows, samples, settings):
    found = values(rows[1:], "objective/kl")  # at the first update it is 0
    if len(found) < 4:
        return None
    mean, noise = fmean(found), stdev(found) / len(found) ** 0.5
    if mean < -0.05 and mean + 3 * noise < 0:
        return f"The mean of objective/kl is {mean:.2f} ± {noise:.2f} nats an answer.", None


def kl_at_start(rows, samples, settings):
    found = started(rows, "objective/kl_full")
    if found is not None and found > KL_AT_START:
        return f"objective/kl_full is {found:.2f} nats an answer at update 1 (healthy: 0).", 1


def ratio_first(rows, samples, settings):
    if found := first_beyond(rows, "val/ratio_first", 1 - RATIO_FIRST, 1 + RATIO_FIRST):
        return f"val/ratio_first is {found[1]:.4f} at update {found[0]} (healthy: 1).", found[0]


def value_first(rows, samples, settings):
    if found := first_beyond(rows, "val/value_first", 0, VALUE_FIRST):
        return f"val/value_first is {found[1]:.2f} at update {found[0]} (healthy: 0).", found[0]


def reward_scale(rows, samples, settings):
    mean, std = started(rows, "objective/scores"), started(rows, "objective/scores_std")
    ended = ended_shares([row for row in rows if row.get("update") == 1])
    if settings.get("reward") != "reward_model" or mean is None or std is None or not ended:
        return None
    mean += (1 - ended[0]) * settings.get("missing_eos_penalty", 1.0)
    if abs(mean) > SCALE_MEAN or not 1 / SCALE_STD < std < SCALE_STD:
        return f"π_SFT's answers score {mean:+.2f} with deviation {std:.2f} at update 1.", 1


# --- signs in the policy


def kl_runaway(rows, samples, settings):
    for row in rows:
        kl, length = values([row], "objective/kl_full"), values([row], "val/length")
        if kl and length and kl[0] > KL_A_TOKEN * max(length[0], 1):
            told = f"KL reached {kl[0]:.0f} nats an answer of {length[0]:.0f} tokens"
            return f"{told} at update {row.get('update')} (healthy: 4 to 6).", row.get("update")


def kl_free(rows, samples, settings):
    price, kl = values(rows, "objective/kl_coef"), values(rows, "objective/kl_full")
    if price and kl and max(price) == 0:
        return f"kl_coef is 0 in every update; KL is {kl[-1]:.1f} nats an answer so far.", None


def entropy_collapse(rows, samples, settings):
    each = [
        {"a token": entropy / max(length, 1e-6)}
        for row in rows
        for entropy in values([row], "objective/entropy")
        for length in values([row], "val/length")
    ]
    found = ends(each, "a token")
    if found and found[1] < ENTROPY_LEFT * found[0]:
        return f"Entropy fell from {found[0]:.2f} to {found[1]:.2f} nats a token.", None


def variety_collapse(rows, samples, settings):
    found = ends(rows, "answers/distinct2")
    if found and found[1] < VARIETY_LEFT * found[0]:
        return f"Distinct word pairs fell from {found[0]:.0%} to {found[1]:.0%}.", None


def answers_alike(rows, samples, settings):
    last = samples[-1].get("samples") if samples else None
    answers = [str(sample.get("answer", "")).strip() for sample in last or []]
    if len(answers) < 4:
        return None
    answer, count = Counter(answers).most_common(1)[0]
    if count > len(answers) / 2:
        told = f"{count} of {len(answers)} watched prompts get the same answer"
        return f"{told}: “{printable(answer, 80)}”", samples[-1].get("update")


def length_creep(rows, samples, settings):
    found = ends(rows, "val/length")
    if found and found[1] > LONGER * found[0]:
        return f"Answers grew from {found[0]:.0f} to {found[1]:.0f} tokens.", None


def ends_missing(rows, samples, settings):
    shares = ended_shares(rows)
    late = shares[-max(len(shares) // 4, 1) :]
    if late and fmean(late) < ENDED:
        return f"{fmean(late):.0%} of the last answers ended by themselves.", None


def declines_all(rows, samples, settings):
    for kind, told in (("_other", "Ordinary prompts"), ("_lookalike", "Look-alikes")):
        found = ends(rows, f"answers/declined{kind}")
        if found and found[1] > found[0] + MORE_DECLINED:
            return f"{told} declined: {found[0]:.0%} → {found[1]:.0%}.", None


def declines_none(rows, samples, settings):
    found = ends(rows, "answers/declined_harmful")
    if found and found[1] < DECLINES_NONE < found[0] - 0.1:
        return f"Harmful prompts declined: {found[0]:.0%} → {found[1]:.0%}.", None


# --- signs in learning and reward


def critic_worse(rows, samples, settings):
    found = ends(rows, "val/explained_variance")
    if found and found[1] < EXPLAINED:
        return f"Explained variance is {found[1]:.2f} in the last updates (healthy: above 0).", None


def steps_too_large(rows, samples, settings):
    clipped, stops = values(rows, "policy/clipfrac_avg"), values(rows, "val/early_stop")
    if clipped and fmean(clipped) > CLIP_HIGH:
        return f"{fmean(clipped):.0%} of the tokens left the clip range (healthy: 2 to 18%).", None
    if len(stops) >= 4 and fmean(stops) > 0.5:
        return f"{fmean(stops):.0%} of the updates ended early.", None


def steps_too_small(rows, samples, settings):
    found = values(rows, "policy/clipfrac_avg")
    if len(found) >= 4 and max(found[: len(found) // 2]) < CLIP_LOW:
        return f"At most {max(found):.2%} of the tokens left the clip range in an update.", None


def scores_tied(rows, samples, settings):
    found = values(rows, "objective/scores_tied")
    late = found[-max(len(found) // 4, 1) :]
    if late and fmean(late) > TIED:
        return f"{fmean(late):.0%} of the last answers share the batch's highest score.", None


def advantages_alike(rows, samples, settings):
    if found := first_beyond(rows, "val/advantages_std", ALIKE, math.inf):
        return f"Their deviation is {found[1]:.2g} at update {found[0]}.", found[0]


def reward_flat(rows, samples, settings):
    found = gain(rows)
    if found is not None and found < FLAT:
        return f"The score changed by {found:+.2f} deviations from first to last quarter.", None


def length_paid(rows, samples, settings):
    found = values(rows, "val/score_length_corr")
    if found and abs(fmean(found)) > LENGTH_CORR:
        return f"Score and length correlate at {fmean(found):+.2f}.", None


def gold_falls(rows, samples, settings):
    gold, risen = ends(rows, "answers/gold"), gain(rows)
    if gold and risen is not None and risen > RISEN and gold[1] < gold[0] - GOLD:
        told = f"The score rose by {risen:.1f} deviations, gold went from {gold[0]:.2f} to"
        return f"{told} {gold[1]:.2f} of 5.", None
