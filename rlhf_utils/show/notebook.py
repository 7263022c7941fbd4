"""How a notebook shows figures and tables: interactive, live in a loop, safe for text of models."""

import base64
import html
import json
import shutil
import time

import pandas as pd
import plotly.graph_objects as go
from IPython.display import HTML, clear_output, display

from .text import clock, value_text

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# On each cell, because viewers of notebooks that they do not trust drop style sheets.
CELL = "align='left' style='text-align:left;vertical-align:top;padding:3px 10px'"


def table(frame: pd.DataFrame) -> HTML:
    """The frame for a notebook: numbers to two places, – for NaN, every text escaped."""
    rows = [_row(values, "td") for values in frame.itertuples(index=False)]
    return HTML(f"<table>{_row(frame.columns, 'th')}{''.join(rows)}</table>")


def _row(values, tag: str) -> str:
    cells = []
    for value in values:
        text = f"{value:.2f}" if isinstance(value, float) else str(value)
        if value != value:
            text = "–"
        cells.append(f"<{tag} {CELL}>{html.escape(text)}</{tag}>")
    return f"<tr>{''.join(cells)}</tr>"


def results(manifest: dict) -> HTML:
    """A stage's results, its time and its peak memory, as a table."""
    values = manifest["results"] | {
        "minutes": manifest["wall_s"] / 60,
        "peak memory, GB": manifest["peak_memory_gb"],
    }
    rows = [{"result": name, "value": value_text(value)} for name, value in values.items()]
    return table(pd.DataFrame(rows))


def figure(fig: go.Figure, live: bool = False, static: bool = True) -> None:
    """Displays a figure as interactive plotly.

    live: in place of what the cell showed before.
    static: with a picture beside it, because GitHub shows no plotly.
    """
    if live:
        clear_output(wait=True)
    drawn = json.loads(fig.to_json()) | {"config": {"displaylogo": False, "responsive": True}}
    bundle = {"application/vnd.plotly.v1+json": drawn, "text/plain": "interactive figure"}
    if static and (picture := static_picture(fig)):
        bundle["image/png"] = picture
    display(bundle, raw=True)


def static_picture(fig: go.Figure) -> str | None:
    """A base64 PNG on a light ground, or None where kaleido finds no Chrome to draw it.

    JupyterLab shows it until the mouse comes by: 800 pixels fit a window of 1,250.
    """
    if not any(map(shutil.which, BROWSERS)):
        return None
    light = {"paper_bgcolor": "white", "plot_bgcolor": "white", "font_color": "#444"}
    try:
        picture = go.Figure(fig).update_layout(light).to_image("png", width=800, scale=1)
    except Exception:  # a Chrome that does not start costs the picture, not the run
        return None
    return base64.b64encode(picture).decode()


class LivePlot:
    """Redraws the figure draw(rows, line) every two seconds; the line says how far the loop is.

    total: how many of `what` the loop will do.
    """

    def __init__(self, draw, total: int, what: str = "update"):
        self.draw, self.total, self.what = draw, total, what
        self.started, self.drawn = time.time(), 0.0
        self.first = None  # how many were done before; more than 0 where a run was resumed

    def __call__(self, rows: list[dict], done: int) -> None:
        if self.first is None:
            self.first = done - 1
        now = time.time()
        left = max(self.total - done, 0)
        if left and now - self.drawn < 2:
            return
        text = f"{self.what} {done} of {self.total}"
        if left:
            each = (now - self.started) / max(done - self.first, 1)
            text += f" · about {clock(each * left)} left"
        figure(self.draw(rows, text), live=True, static=False)
        self.drawn = now
