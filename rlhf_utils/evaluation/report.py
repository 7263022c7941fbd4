"""The report of a run as one HTML page that opens offline: verdict, numbers, answers, figures.

report.html escapes every text; only the figures go in as they are, because plotly made them. Left
out: comparing runs.
"""

from pathlib import Path

import jinja2
import plotly.io as pio
from markupsafe import Markup

from ..preferences.filler import filler
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


def html_page(
    run: str, results: dict, examples: list[Comparison], figures: list, manifests: dict[str, dict]
) -> str:
    """The page as text.

    results: of all stages. manifests: of each finished stage. figures: two_judges, manners,
    rubric_bars, gain_by_prompt, distributions and live_panel.
    """
    drawn = []
    for figure in figures:
        script = False if drawn else "inline"  # plotly's own script goes in once
        config = {"displaylogo": False, "responsive": True}
        drawn.append(pio.to_html(figure, config, full_html=False, include_plotlyjs=script))
    page = jinja2.Template(
        Path(__file__).with_name("report.html").read_text(encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return page.render(
        run=run,
        about=first_line(results, manifests),
        verdict=verdict(results),
        results=results,
        cards=headline(results)[:CARDS],
        gold="eval.wins" in results,
        examples=examples,
        figures=drawn,
        manifests=manifests,
        machine=next(reversed(manifests.values()), {}),
        number=value_text,
        shown=shown,
        mark=lambda answer: Markup(marked(answer, filler(answer))),
        clock=clock,
        words=words,
        result_words=result_words,
        result_text=result_text,
    )


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
