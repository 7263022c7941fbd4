"""The report of a run as one HTML file that opens offline: headline numbers, figures, answers side by side.

report.html escapes all text; only the figures are not: they are plotly's, whose script is put into the file once. Left out: comparing runs.
"""

import time
from pathlib import Path

import jinja2
import plotly.io as pio

from ..show.text import value_text

CAPTIONS = (
    "The rubric's parts and the rates, before (grey) and after (blue). Refusals of harmful prompts should stay high or rise, of benign ones fall.",
    "Training: reward and KL must be read together. Reward that rises while KL runs away is reward hacking.",
    "All held-out answers. The blue heap should move right in reward without running far in KL.",
    "Every held-out prompt. Points below the line are answers that PPO made worse; hover to read the prompt.",
)


def number(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None or value != value else format(value, form)


def percent(value: float | None) -> str:
    return number(value, ".0%")


def build(run: str, results: dict, pairs: list[dict], figures: list, parameters: dict) -> str:
    """The page as text. `pairs` come from evaluate.examples, `figures` in the order of CAPTIONS."""
    drawn = [
        pio.to_html(
            fig,
            full_html=False,
            include_plotlyjs="inline" if i == 0 else False,
            config={"displaylogo": False},
        )
        for i, fig in enumerate(figures)
    ]
    everything = [(name, value_text(value)) for name, value in sorted(results.items())]
    minutes = sum(value for name, value in results.items() if name.startswith("time.")) / 60
    page = jinja2.Template(
        Path(__file__).with_name("report.html").read_text(encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return page.render(
        run=run,
        date=time.strftime("%Y-%m-%d"),
        results=results,
        everything=everything,
        minutes=minutes,
        parameters=parameters,
        pairs=pairs,
        figures=zip(drawn, CAPTIONS),
        number=number,
        percent=percent,
    )
