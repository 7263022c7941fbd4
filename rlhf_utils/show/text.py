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
    "kl": ("KL to π_SFT, nats an answer", ".2f"),
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
    "whatif_gold_sd": ("gold within a prompt, standard deviation", ".2f"),
    "whatif_correlation": ("… and its rank correlation with the reward", ".2f"),
    "whatif_gain": ("gold that the best of four by reward gains", ".2f"),
    "whatif_gain_gold": ("… and the best of four by gold", ".2f"),
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
for _end, _judge in (JUDGES | {"": "gold"}).items():
    WORDS |= {
        f"wins{_end}": (f"π_RLHF wins, by {_judge}", ".0%"),
        f"ties{_end}": (f"ties, by {_judge}", ".0%"),
        f"losses{_end}": (f"π_RLHF loses, by {_judge}", ".0%"),
        f"win_rate{_end or '_vs_sft'}": (f"win rate by {_judge}, ties half", ".0%"),
    }
WORDS["win_rate"] = WORDS["win_rate_vs_sft"]  # its interval's name
HEADLINE = {  # what is told of a run, before → after, and what to add to its words
    "filler": "",
    "refusal_harmful": "",
    "refusal_ordinary": " (lower is better)",
    "distinct2": "; falls if answers become alike",
}
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


def is_number(value) -> bool:
    return isinstance(value, (int, float)) and value == value


def outcomes(results: dict) -> tuple[str, list[float]] | None:
    """(who judges, [wins, ties, losses] of π_RLHF) by the first judge that there is, or None."""
    for end, who in JUDGES.items():
        shares = [results.get(f"eval.{kind}{end}") for kind in ("wins", "ties", "losses")]
        if all(map(is_number, shares)):
            return who, shares
    return None


def headline(results: dict) -> list[tuple[str, str]]:
    """(words, numbers) of what a run showed, the most telling first; what is missing is left out.

    Reward stands where there is no gold.
    """
    found = []
    if judged := outcomes(results):
        told = " / ".join(f"{share:.0%}" for share in judged[1])
        found.append((f"wins / ties / losses of π_RLHF, by {judged[0]}", told))
    score = "gold" if is_number(results.get("eval.gold_ppo")) else "reward"
    for name, addition in ({score: ""} | HEADLINE).items():
        values = [results.get(f"eval.{name}_{policy}") for policy in ("sft", "ppo")]
        if all(map(is_number, values)):
            told = " → ".join(result_text(name, value) for value in values)
            found.append((words(name) + addition, told))
    allowed = result_text("reward_model.ceiling", results.get("reward_model.ceiling"))
    accuracy = f"reward-model accuracy; label noise allows {allowed}"
    for name, told in (("eval.kl", words("kl")), ("reward_model.accuracy", accuracy)):
        if is_number(results.get(name)):
            found.append((told, result_text(name, results[name])))
    return found


def value_text(value, form: str = ".4g") -> str:
    """A number in the form, to four digits unless told; an interval as "low to high"; – for NaN."""
    if isinstance(value, (list, tuple)):
        return " to ".join(value_text(part, form) for part in value)
    if value is None or value != value:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return format(value, form if abs(value) < 1e6 else ".3g")


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
