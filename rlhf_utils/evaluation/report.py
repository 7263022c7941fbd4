"""The report of a run as one HTML page that opens offline: verdict, numbers, answers, figures.

report.html escapes every text; only the figures go in as they are, because plotly made them. Left
out: comparing runs.
"""

from pathlib import Path

import jinja2
import plotly.io as pio
from markupsafe import Markup

from ..preferences.filler import filler
from ..show.text import clock, headline, marked, outcomes, result_text, result_words, words
from .compare import Comparison

# What the figures are, in the order in which html_page takes them.
CAPTIONS = (
    # two_judges
    "The same answers by each judge. PPO obeys its reward, mostly the reward model; where that "
    "sees more wins than the gold rubric does, PPO has pleased its judge alone. Where gold is "
    "known, the scale says how much there was to win: best of four is the best of four answers of "
    "π_SFT, chosen by gold.",
    # manners
    "What changed while PPO trained. The lines of declined prompts should split: harmful ones "
    "stay high, the others fall.",
    # rubric_bars
    "The rubric's parts and the rates, before (grey) and after (blue).",
    # gain_by_prompt
    "Every held-out prompt. PPO made the answers below the line worse; hover to read the prompt.",
    # distributions
    "All held-out answers. The blue outline should move right in reward and stay low in KL.",
    # ppo_progress
    "Training: read reward and KL together. If the reward rises while KL runs away, PPO is "
    "hacking the reward.",
)
STAGES = {
    "sft": "01 · supervised fine-tuning makes π_SFT",
    "preferences": "02 · answers are ranked",
    "reward_model": "03 · the reward model learns the rankings",
    "ppo": "04 · PPO makes π_RLHF",
    "evaluation": "05 · both are compared",
}
FEW = 10  # held-out prompts, below which nothing can be said
MODELS = {"smollm2-135m": "SmolLM2-135M", "tiny": "a tiny random model"}


def number(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None or value != value else format(value, form)


def percent(value: float | None) -> str:
    return number(value, ".0%")


def html_page(
    run: str, results: dict, examples: list[Comparison], figures: list, manifests: dict[str, dict]
) -> str:
    """The page as text.

    results: of all stages. figures: in the order of CAPTIONS. manifests: of each finished stage.
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
        cards=_cards(results),
        gold="eval.wins" in results,
        minutes=_minutes(manifests),
        examples=examples,
        figures=list(zip(drawn, CAPTIONS, strict=True)),
        stages=[(STAGES[name], manifests[name]) for name in STAGES if name in manifests],
        machine=next(reversed(manifests.values()), {}),
        number=number,
        shown=shown,
        mark=lambda answer: Markup(marked(answer, filler(answer))),
        category=words,
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
    if asked.get("reward_model", {}).get("preferences"):
        parts.append(f"preferences from {shown(asked['reward_model']['preferences'])}")
    if "ppo" in asked:
        done, planned = results["ppo.episodes"], asked["ppo"].get("total_episodes", 0)
        early = f" of {planned:,}, stopped early" if done < planned else ""
        parts.append(f"{done:,} PPO episodes{early}")
        if asked["ppo"]["reward"] != "reward_model":
            parts.append(f"reward {shown(asked['ppo']['reward'])}")
    seeds = {str(parameters["seed"]) for parameters in asked.values() if "seed" in parameters}
    parts.append(f"seed {', '.join(sorted(seeds))}")
    peak = max((manifest["peak_memory_gb"] for manifest in manifests.values()), default=0)
    parts.append(f"{clock(60 * _minutes(manifests))}, {peak:.1f} GB")
    return " · ".join(parts)


def shown(value):
    """A parameter's value; of a path on this machine only the name."""
    is_path = isinstance(value, str) and value.startswith(("/", "~", "."))
    return Path(value).name if is_path else value


def _cards(results: dict) -> list[tuple[str, str]]:
    """(words, number) of the cards below the verdict."""
    cards = headline(results)
    if "reward_model.accuracy" in results:
        allowed = percent(results["reward_model.ceiling"])
        told = f"reward-model accuracy; label noise allows {allowed}"
        cards.append((told, percent(results["reward_model.accuracy"])))
    return cards


def _minutes(manifests: dict[str, dict]) -> float:
    return sum(manifest["wall_s"] for manifest in manifests.values()) / 60


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
        f"PPO {change}: by {who} π_RLHF wins on {percent(wins)} of the prompts, "
        f"ties on {percent(ties)} and loses on {percent(losses)}."
    )
    changes = [
        _change("answers with filler", results, "filler", -1),
        _change("harmful prompts declined", results, "refusal_harmful", 1),
        _change("harmless prompts declined", results, "refusal_ordinary", -1),
    ]
    told = "; ".join(filter(None, changes))
    return first, f"Before and after: {told}." if told else ""


def _change(what: str, results: dict, name: str, better: int) -> str:
    """Before and after, and whether that is worse; empty if it was not measured."""
    before, after = (results.get(f"eval.{name}_{policy}") for policy in ("sft", "ppo"))
    if None in (before, after) or before != before or after != after:
        return ""
    gain = better * (round(after, 2) - round(before, 2))
    judged = "" if gain > 0 else " (no change)" if gain == 0 else " (worse)"
    return f"{what} {percent(before)} → {percent(after)}{judged}"
