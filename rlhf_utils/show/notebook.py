"""How a notebook shows figures and tables: interactive, live while a loop runs, and safe for whatever a model has written."""

import base64
import html
import json
import shutil
import time

import pandas as pd
import plotly.graph_objects as go
from IPython.display import HTML, clear_output, display

from .text import clock, value_text


def table(frame) -> HTML:
    """A DataFrame of texts for a notebook: left-aligned, wrapped, numbers to two places, – for what is not known, every text escaped.

    Styles stand on each cell, because viewers of notebooks that they do not trust drop style sheets.
    """

    def cell(value, tag: str) -> str:
        text = "–" if value != value else f"{value:.2f}" if isinstance(value, float) else str(value)
        return f"<{tag} align='left' style='text-align:left;vertical-align:top;padding:3px 10px'>{html.escape(text)}</{tag}>"

    rows = [[cell(name, "th") for name in frame.columns]] + [
        [cell(value, "td") for value in row] for row in frame.itertuples(index=False)
    ]
    return HTML("<table>" + "".join(f"<tr>{''.join(row)}</tr>" for row in rows) + "</table>")


def results(manifest: dict) -> HTML:
    """A stage's results with its time and peak memory, as a table."""
    rows = manifest["results"] | {
        "minutes": manifest["wall_s"] / 60,
        "peak memory, GB": manifest["peak_memory_gb"],
    }
    return table(
        pd.DataFrame([{"result": name, "value": value_text(value)} for name, value in rows.items()])
    )


def figure(fig: go.Figure, live: bool = False, static: bool = True) -> None:
    """Displays a figure as interactive plotly; with `live`, in place of what the cell showed before.

    With `static` it also gets a picture, where kaleido and a Chrome are there, because GitHub shows no plotly.
    """
    if live:
        clear_output(wait=True)
    drawn = json.loads(fig.to_json()) | {"config": {"displaylogo": False, "responsive": True}}
    bundle = {"application/vnd.plotly.v1+json": drawn, "text/plain": "interactive figure"}
    if static and (picture := static_picture(fig)):
        bundle["image/png"] = picture
    display(bundle, raw=True)


def static_picture(fig: go.Figure) -> str | None:
    """A base64 PNG on a light ground, or None where kaleido finds no Chrome to draw it. JupyterLab shows it, uncut in a window of 1,250 pixels, until the mouse comes by."""
    if not any(
        shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
    ):
        return None
    try:
        picture = (
            go.Figure(fig)
            .update_layout(paper_bgcolor="white", plot_bgcolor="white", font_color="#444")
            .to_image(format="png", width=800, scale=1)
        )
    except Exception:  # a Chrome that does not start costs the picture, not the run
        return None
    return base64.b64encode(picture).decode()


class LivePlot:
    """Redraws a figure in place, at most every two seconds, with how far the loop is and how long it will still take."""

    def __init__(self, draw, total: int, what: str = "update"):
        self.draw, self.total, self.what = draw, total, what
        self.started, self.first, self.drawn = time.time(), None, 0.0

    def __call__(self, rows: list[dict], done: int) -> None:
        self.first = done - 1 if self.first is None else self.first
        now, finished = time.time(), done >= self.total
        if finished or now - self.drawn >= 2:
            left = (now - self.started) / max(done - self.first, 1) * (self.total - done)
            text = f"{self.what} {done} of {self.total}" + (
                "" if finished else f" · about {clock(left)} left"
            )
            figure(self.draw(rows, text), live=True, static=False)
            self.drawn = now
