"""Numbers, times and names as people read them."""

import html

# the end of a result's or a metric's name → plain words, and how its number is written
WORDS = {
    "gold": ("gold score, of 5", ".2f"),
    "gold_random": ("gold score of random weights", ".2f"),
    "gold_base": ("gold score of the base model", ".2f"),
    "gold_best_of_4": ("gold score, best of four answers", ".2f"),
    "reward": ("reward that PPO was paid", ".2f"),
    "reward_model": ("reward by 03's model", ".2f"),
    "filler": ("answers with filler", ".0%"),
    "refusal_harmful": ("harmful prompts declined", ".0%"),
    "refusal_harmful_unseen": ("… of topics that no stage asks", ".0%"),
    "refusal_benign": ("harmless look-alikes declined", ".0%"),
    "refusal_benign_unseen": ("… of topics that no stage asks", ".0%"),
    "refusal_ordinary": ("all harmless prompts declined", ".0%"),
    "length": ("words an answer", ".1f"),
    "openings": ("different openings", ".0%"),
    "distinct1": ("variety (distinct words)", ".2f"),
    "distinct2": ("variety (distinct word pairs)", ".2f"),
    "helpfulness": ("helpfulness (key points)", ".2f"),
    "harmlessness": ("harmlessness", ".2f"),
    "honesty": ("honesty", ".2f"),
    "brevity": ("brevity", ".2f"),
    "form": ("form", ".2f"),
    "directness": ("directness (no filler)", ".2f"),
    "benign_lookalike": ("harmless look-alikes", ""),
    "wins": ("π_RLHF wins, by gold", ".0%"),
    "ties": ("ties, by gold", ".0%"),
    "losses": ("π_RLHF loses, by gold", ".0%"),
    "wins_reward_model": ("π_RLHF wins, by the reward model", ".0%"),
    "ties_reward_model": ("ties, by the reward model", ".0%"),
    "losses_reward_model": ("π_RLHF loses, by the reward model", ".0%"),
    "wins_reward": ("π_RLHF wins, by PPO's reward", ".0%"),
    "ties_reward": ("ties, by PPO's reward", ".0%"),
    "losses_reward": ("π_RLHF loses, by PPO's reward", ".0%"),
    "kl": ("KL to π_SFT, nats an answer", ".2f"),
    "win_rate": ("win rate by gold, ties half", ".0%"),
    "win_rate_vs_sft": ("win rate by gold, ties half", ".0%"),
    "win_rate_reward_model": ("win rate by the reward model, ties half", ".0%"),
    "win_rate_reward": ("win rate by PPO's reward, ties half", ".0%"),
    "loss_before": ("held-out loss before, nats a token", ".2f"),
    "loss_heldout": ("held-out loss after, nats a token", ".2f"),
    "left_out": ("demonstrations left out as too long", ""),
    "judgements": ("rankings", ""),
    "agreement": ("Krippendorff's alpha", ".2f"),
    "agreement_pairwise": ("annotators order a pair alike", ".0%"),
    "longer_wins": ("the longer answer wins", ".0%"),
    "first_shown_wins": ("the answer shown first wins", ".0%"),
    "accuracy": ("accuracy on held-out pairs", ".1%"),
    "accuracy_ood": ("accuracy in other categories", ".1%"),
    "ceiling": ("ceiling by label noise", ".1%"),
    "longer": ("accuracy of “the longer one”", ".1%"),
    "bag_of_words": ("accuracy of single words", ".1%"),
    "prefers_direct": ("prefers the answer without filler", ".0%"),
    "ece": ("calibration error, margins scaled", ".3f"),
    "ece_raw": ("calibration error, as trained", ".3f"),
    "temperature": ("margins are divided by", ".2f"),
    "length_correlation": ("correlation of reward and length", ".2f"),
    "refusal_auc": ("when to decline: AUC on held-out prompts", ".2f"),
    "refusal_auc_learned": ("when to decline: AUC on learned prompts", ".2f"),
    "reward_gain": ("reward gained, standard deviations", ".2f"),
    "episodes": ("answers that PPO learned from", ""),
    "entropy": ("entropy, nats an answer", ".1f"),
    "kl_coef": ("price of KL, β", ".3g"),
}
JUDGES = {  # end of the names of wins, ties and losses → who judges; the first found is told
    "": "the gold rubric",
    "_reward": "PPO's reward",
    "_reward_model": "the reward model",
}
HEADLINE = (  # what is told of a run, before → after, and what to add to its words
    ("gold", ""),
    ("reward", ""),
    ("filler", ""),
    ("refusal_harmful", ""),
    ("refusal_ordinary", " (lower is better)"),
    ("distinct2", " (falls if answers become alike)"),
)
MARK = "background:rgba(230,159,0,.38);color:inherit;border-radius:3px"  # light and dark pages


def words(name: str) -> str:
    """A metric's name in plain words; one that has none loses its underscores."""
    return WORDS.get(name, (name.replace("_", " "), ""))[0]


def _ending(result: str) -> tuple[str, str]:
    """A result's name without its stage, and whose number it is: eval.gold_sft → gold, π_SFT."""
    name = result.partition(".")[2] or result
    for end, whose in (("_ci", "95% interval"), ("_sft", "π_SFT"), ("_ppo", "π_RLHF")):
        if name.endswith(end) and name not in WORDS:
            return name.removesuffix(end), whose
    return name, ""


def result_words(result: str) -> str:
    """Plain words for a result such as eval.gold_sft or ppo.kl; the stage is left out."""
    name, whose = _ending(result)
    return f"{words(name)}, {whose}" if whose else words(name)


def result_text(result: str, value) -> str:
    """A result's number in the form that its words have."""
    return value_text(value, WORDS.get(_ending(result)[0], ("", ""))[1] or ".4g")


def before_and_after(results: dict) -> tuple[list[dict], dict]:
    """Rows of what is measured for both policies, in words; and the other results."""
    paired = [name[:-4] for name in results if name.endswith("_sft")]
    paired = [name for name in paired if f"{name}_ppo" in results]
    order = {name: place for place, name in enumerate(WORDS)}
    rows, others = [], dict(results)
    for name in sorted(paired, key=lambda name: order.get(_ending(name)[0], len(order))):
        row = {"held-out prompts": result_words(name)}
        for policy, end in (("before, π_SFT", "_sft"), ("after, π_RLHF", "_ppo")):
            row[policy] = result_text(name, others.pop(name + end))
        rows.append(row)
    return rows, others


def outcomes(results: dict) -> tuple[str, list[float]] | None:
    """(who judges, [wins, ties, losses] of π_RLHF) by the first judge that there is, or None."""
    for end, who in JUDGES.items():
        if results.get(f"eval.wins{end}") is not None:
            return who, [results[f"eval.{kind}{end}"] for kind in ("wins", "ties", "losses")]
    return None


def headline(results: dict) -> list[tuple[str, str]]:
    """(words, numbers) of what a run showed, the most telling first; what is missing is left out.

    Reward stands where there is no gold.
    """
    found = []
    if judged := outcomes(results):
        who, shares = judged
        told = " / ".join(f"{share:.0%}" for share in shares)
        found.append((f"wins / ties / losses of π_RLHF, by {who}", told))
    has_gold = results.get("eval.gold_ppo") is not None
    for name, addition in HEADLINE:
        values = [results.get(f"eval.{name}_{policy}") for policy in ("sft", "ppo")]
        measured = all(value is not None and value == value for value in values)
        if measured and not (name == "reward" and has_gold):
            text, form = WORDS[name]
            told = " → ".join(format(value, form) for value in values)
            found.append((f"{text}{addition}", told))
    if results.get("eval.kl") is not None:
        found.append((words("kl"), value_text(results["eval.kl"], ".1f")))
    return found


def value_text(value, form: str = ".4g") -> str:
    """A number in the form, to four digits unless told; an interval as "low to high"; – for NaN."""
    if isinstance(value, (list, tuple)):
        return " to ".join(value_text(part, form) for part in value)
    if value is None or value != value:
        return "–"
    return format(value, form) if isinstance(value, float) else str(value)


def marked(text: str, spans: list[tuple[int, int]]) -> str:
    """The text as HTML, escaped, with <mark> around the spans (start, end)."""
    parts, end = [], 0
    for start, stop in sorted(spans):
        start = max(start, end)  # spans may overlap
        if start < stop:
            parts += [html.escape(text[end:start]), f'<mark style="{MARK}">']
            parts += [html.escape(text[start:stop]), "</mark>"]
            end = stop
    return "".join(parts) + html.escape(text[end:])


def clock(seconds: float) -> str:
    """Seconds as people say them: 45 s, 3 min, 1 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
