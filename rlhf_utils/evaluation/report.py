"""The report of a run as one HTML page that opens offline: numbers, answers side by side, figures.

report.html escapes every text; only the figures go in as they are, because plotly made them. Left
out: comparing runs.
"""

import time
from pathlib import Path

import jinja2
import plotly.io as pio

from ..show.text import value_text
from .compare import Comparison

CAPTIONS = (
    "The rubric's parts and the rates, before (grey) and after (blue). The share of harmful "
    "prompts that are refused should stay high or rise, the share of benign ones should fall.",
    "Training: read reward and KL together. If the reward rises while KL runs away, PPO is "
    "hacking the reward.",
    "All held-out answers. The blue heap should move right in reward and stay low in KL.",
    "Every held-out prompt. PPO made the answers below the line worse; hover to read the prompt.",
)


def number(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None or value != value else format(value, form)


def percent(value: float | None) -> str:
    return number(value, ".0%")


def html_page(
    run: str, results: dict, examples: list[Comparison], figures: list, parameters: dict
) -> str:
    """The page as text; `results` are those of all stages, `figures` in the order of CAPTIONS."""
    drawn = []
    for figure in figures:
        script = False if drawn else "inline"  # plotly's own script goes in once
        config = {"displaylogo": False}
        drawn.append(pio.to_html(figure, config, full_html=False, include_plotlyjs=script))
    seconds = sum(value for name, value in results.items() if name.startswith("time."))
    page = jinja2.Template(
        Path(__file__).with_name("report.html").read_text(encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return page.render(
        run=run,
        date=time.strftime("%Y-%m-%d"),
        results=results,
        all_results=[(name, value_text(value)) for name, value in sorted(results.items())],
        minutes=seconds / 60,
        parameters=parameters,
        examples=examples,
        figures=zip(drawn, CAPTIONS),
        number=number,
        percent=percent,
    )
