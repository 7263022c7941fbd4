"""The whole run as one HTML page that opens offline, for someone who was not there.

report.html escapes every text; only figures and the HTML of other parts of the suite go in as they
are. What a run does not have is left out.
"""

from dataclasses import dataclass, field
from pathlib import Path

import plotly.graph_objects as go
from markupsafe import Markup

from ..preferences.filler import filler
from ..show.page import render
from ..show.text import (
    clock,
    headline,
    is_number,
    marked,
    outcomes,
    result_text,
    result_words,
    value_text,
    words,
)
from .compare import Comparison

CARDS = 8
FEW = 10  # held-out prompts, below which nothing can be said
MODELS = {"smollm2-135m": "SmolLM2-135M", "tiny": "a tiny random model"}
STAGES = {  # stage → number and name, and which of its results say what it did
    "sft": ("01 · fine-tuning", ("demonstrations", "loss_heldout")),
    "preferences": ("02 · preferences", ("judgements", "pairs")),
    "reward_model": ("03 · reward model", ("accuracy", "ceiling")),
    "ppo": ("04 · PPO", ("episodes", "kl")),
    "evaluation": ("05 · evaluation", ("prompts",)),
}
SAID = {  # result → what stands after its number in the pipeline
    "sft.demonstrations": "demonstrations learned",
    "sft.loss_heldout": "nats a token, held out",
    "preferences.judgements": "rankings",
    "preferences.pairs": "pairs",
    "reward_model.accuracy": "of held-out pairs right",
    "reward_model.ceiling": "is what label noise allows",
    "ppo.episodes": "answers learned from",
    "ppo.kl": "nats from π_SFT",
    "eval.prompts": "held-out prompts",
}
ACCURACIES = {  # of 03's results
    "accuracy": "reward model",
    "accuracy_ood": "… in categories that it never saw",
}
BESIDE = {  # what stands beside the reward model, in grey
    "bag_of_words": "rule: single words",
    "longer": "rule: the longer one",
    "ceiling": "ceiling by label noise",
}


@dataclass
class Parts:
    """What other stages and the laboratory say of the run; what is empty is left out."""

    findings_html: str = ""  # safe HTML: what the training curves warn of
    inspector_html: str = ""  # safe HTML with its own style and script
    whatif: tuple[go.Figure, str] | None = None  # what was there to win: figure and verdict
    report_card: dict = field(default_factory=dict)  # report.json of 03
    agreement: dict = field(default_factory=dict)  # agreement.json of 02
    interventions: list[tuple[int, str]] = field(default_factory=list)  # (update, what was done)
    lineage: str = ""  # what the run branched from, in words


def html_page(
    run: str,
    results: dict,
    examples: list[Comparison],
    figures: dict[str, go.Figure],
    manifests: dict[str, dict],
    parts: Parts,
) -> str:
    """The page as text.

    results: of all stages. figures: any of judges, training, rates, prompts and distributions.
    manifests: of each finished stage.
    """
    if parts.whatif:
        figures = figures | {"whatif": parts.whatif[0]}
    return render(
        Path(__file__).with_name("report.html"),
        figures,
        {"inspector": parts.inspector_html} if parts.inspector_html else {},
        run=run,
        about=first_line(results, manifests),
        verdict=verdict(results),
        results=results,
        cards=headline(results)[:CARDS],
        gold="eval.wins" in results,
        examples=examples,
        manifests=manifests,
        parts=parts,
        steps=steps(results, manifests),
        accuracies=accuracies(results),
        beside=BESIDE.values(),
        machine=next(reversed(manifests.values()), {}),
        is_number=is_number,
        number=value_text,
        shown=shown,
        mark=lambda answer: Markup(marked(answer, filler(answer))),
        clock=clock,
        words=words,
        result_words=result_words,
        result_text=result_text,
    )


def interventions(metrics: list[dict]) -> list[tuple[int, str]]:
    """(update, what was done before it), from the rows of metrics.jsonl."""
    return [(row["update"], told) for row in metrics for told in row.get("interventions") or ()]


def steps(results: dict, manifests: dict[str, dict]) -> list[dict]:
    """For each finished stage its name, what it did, seconds, GB, and its share of the time."""
    longest = max((manifest["wall_s"] for manifest in manifests.values()), default=0) or 1
    found = []
    for stage, manifest in manifests.items():
        title, names = STAGES[stage]
        names = [f"{'eval' if stage == 'evaluation' else stage}.{name}" for name in names]
        facts = []
        for name in names:
            if is_number(value := results.get(name)):
                number = f"{value:,}" if isinstance(value, int) else result_text(name, value)
                facts.append(f"{number} {SAID[name]}")
        cost = {"seconds": manifest["wall_s"], "gb": manifest["peak_memory_gb"]}
        cost["share"] = manifest["wall_s"] / longest
        found.append({"title": title, "facts": facts} | cost)
    return found


def accuracies(results: dict) -> list[tuple]:
    """(who, accuracy, interval or None) of the reward model, of simple rules, and the ceiling."""
    found = []
    for name, who in (ACCURACIES | BESIDE).items():
        if is_number(value := results.get(f"reward_model.{name}")):
            found.append((who, value, results.get(f"reward_model.{name}_ci")))
    return found


def first_line(results: dict, manifests: dict[str, dict]) -> str:
    """Model, data, judge, work, seed, time and memory, as far as the stages tell them."""
    asked = {name: manifest["parameters"] for name, manifest in manifests.items()}
    parts = []
    if "sft" in asked:
        model, source = (shown(asked["sft"][name]) for name in ("model", "demonstrations"))
        parts.append(MODELS.get(model, model))
        parts.append(f"{results['sft.demonstrations']:,} demonstrations ({source})")
    if "preferences" in asked:
        who = shown(asked["preferences"]["annotator"])
        who = {"simulated": "simulated annotators", "person": "people"}.get(who, who)
        parts.append(f"{results['preferences.judgements']:,} rankings by {who}")
    if own_pairs := asked.get("reward_model", {}).get("preferences"):
        parts.append(f"preferences from {shown(own_pairs)}")
    if "ppo" in asked:
        done, planned = results["ppo.episodes"], asked["ppo"].get("total_episodes", 0)
        early = f" of {planned:,}, stopped early" if done < planned else ""
        parts.append(f"{done:,} PPO episodes{early}")
        if asked["ppo"]["reward"] != "reward_model":
            parts.append(f"reward {shown(asked['ppo']['reward'])}")
    seeds = {str(parameters["seed"]) for parameters in asked.values() if "seed" in parameters}
    parts.append(f"seed {', '.join(sorted(seeds))}")
    took = clock(sum(manifest["wall_s"] for manifest in manifests.values()))
    peaks = [manifest["peak_memory_gb"] for manifest in manifests.values()]
    if peaks := list(filter(is_number, peaks)):  # Windows tells none
        took += f", {max(peaks):.1f} GB"
    return " · ".join([*parts, took])


def shown(value):
    """A parameter's value; of a path on this machine only the name."""
    if isinstance(value, str) and (value.startswith(("~", ".")) or Path(value).is_absolute()):
        return Path(value).name
    return value


def verdict(results: dict) -> tuple[str, str]:
    """Two sentences: who wins, and what changed for better and for worse."""
    who, (wins, ties, losses) = outcomes(results)
    change = "made the answers better"
    if results["eval.prompts"] < FEW:
        change = f"was judged on {results['eval.prompts']} held-out prompts, too few to say more"
    elif round(wins, 2) == round(losses, 2):
        change = "made the answers neither better nor worse"
    elif losses > wins:
        change = "made the answers worse"
    first = (
        f"PPO {change}: by {who} π_RLHF wins on {wins:.0%} of the prompts, "
        f"ties on {ties:.0%} and loses on {losses:.0%}."
    )
    changes = []
    for name, better in (("filler", -1), ("refusal_harmful", 1), ("refusal_ordinary", -1)):
        before, after = (results.get(f"eval.{name}_{policy}") for policy in ("sft", "ppo"))
        if is_number(before) and is_number(after):
            gain = better * (round(after, 2) - round(before, 2))
            judged = "" if gain > 0 else " (no change)" if gain == 0 else " (worse)"
            changes.append(f"{words(name)} {before:.0%} → {after:.0%}{judged}")
    return first, f"Before and after: {'; '.join(changes)}." if changes else ""
