"""How a notebook shows figures and tables: interactive, live in a loop, safe for text of models."""

import html
import json
import re
import time

import pandas as pd
import plotly.graph_objects as go
from IPython.display import HTML, clear_output, display

from .pictures import Painter
from .text import clock, marked, result_text, result_words, value_text

PAINTER = Painter()
NUMBER = r"[+\-–]?[\d.,]*(e[+-]?\d+)?%?"
# On each cell, because viewers of notebooks that they do not trust drop style sheets, and some
# drop styles: then `align` remains.
CELL = "align='{0}' style='text-align:{0};vertical-align:top;padding:3px 10px'"


def table(frame: pd.DataFrame, mark=None) -> HTML:
    """The frame for a notebook: numbers to two places and to the right, – for NaN, text escaped.

    mark: a function text → spans (start, end) that are marked, such as `filler`.
    """
    sides = ["left" if frame[name].map(_is_text).any() else "right" for name in frame]
    head = [_cell(html.escape(str(name)), side, "th") for name, side in zip(frame, sides)]
    lines = ["".join(head)]
    for values in frame.itertuples(index=False):
        cells = [_cell(_shown(value, mark), side) for value, side in zip(values, sides)]
        lines.append("".join(cells))
    rows = "".join(f"<tr>{line}</tr>" for line in lines)
    return HTML(f"<table>{rows}</table>")


def _is_text(value) -> bool:
    """Whether it is no number, be it a number as text."""
    return not re.fullmatch(rf"{NUMBER}( to {NUMBER})?|nan", str(value))


def _shown(value, mark=None) -> str:
    if isinstance(value, str) and mark:
        return marked(value, mark(value))
    return html.escape(value_text(value, ".2f"))


def _cell(inside: str, side: str, tag: str = "td") -> str:
    return f"<{tag} {CELL.format(side)}>{inside}</{tag}>"


def results(manifest: dict) -> HTML:
    """A stage's results in plain words, its time and its peak memory.

    Numbers of both policies stand side by side; then the others are folded.
    """
    found, pairs, others = manifest["results"], [], []
    for name, value in found.items():
        bare = name[:-4]
        if name.endswith("_sft") and f"{bare}_ppo" in found:
            after = result_text(bare, found[f"{bare}_ppo"])
            row = {
                "held-out prompts": result_words(bare),
                "before, π_SFT": result_text(bare, value),
            }
            pairs.append(row | {"after, π_RLHF": after})
        elif not (name.endswith("_ppo") and f"{bare}_sft" in found):
            others.append({"result": result_words(name), "value": result_text(name, value)})
    others.append({"result": "minutes", "value": f"{manifest['wall_s'] / 60:.1f}"})
    others.append({"result": "peak memory, GB", "value": f"{manifest['peak_memory_gb']:.2f}"})
    rest = table(pd.DataFrame(others)).data
    if not pairs:
        return HTML(rest)
    first = table(pd.DataFrame(pairs)).data
    return HTML(f"{first}<details><summary>All other results</summary>{rest}</details>")


def figure(fig: go.Figure, live: bool = False, static: bool = True) -> None:
    """Displays a figure as interactive plotly.

    live: in place of what the cell showed before.
    static: with a picture beside it, because GitHub shows no plotly.
    """
    if live:
        clear_output(wait=True)
    text = fig.to_json()
    # Not responsive: JupyterLab sees to that, and a slider or legend would make the figure vanish.
    drawn = json.loads(text) | {"config": {"displaylogo": False}}
    bundle = {"application/vnd.plotly.v1+json": drawn, "text/plain": "interactive figure"}
    if static and (picture := PAINTER.draw(text)):
        bundle["image/png"] = picture
    display(bundle, raw=True)


class LivePlot:
    """Redraws the figure draw(rows, line) every two seconds; the line says how far the loop is.

    total: how many of `what` the loop will do. Where drawing is slow it waits longer, so that less
    than 3% of the time goes into it.
    """

    def __init__(self, draw, total: int, what: str = "update"):
        self.draw, self.total, self.what = draw, total, what
        self.started, self.drawn, self.pause = time.time(), 0.0, 2.0
        self.first = None  # how many were done before; more than 0 where a run was resumed

    def __call__(self, rows: list[dict], done: int) -> None:
        if self.first is None:
            self.first = done - 1
        now = time.time()
        left = max(self.total - done, 0)
        if left and now - self.drawn < self.pause:
            return
        text = f"{self.what} {done} of {self.total}"
        if left and done - self.first > 1:  # the first one tells little: it warms up
            each = (now - self.started) / (done - self.first)
            text += f" · about {clock(each * left)} left"
        figure(self.draw(rows, text), live=True, static=False)
        self.drawn = time.time()
        self.pause = max(2.0, 40 * (self.drawn - now))
