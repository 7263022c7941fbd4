"""What all figures share: colours, panels, lines, outlines, accuracies.

No background, and text of a grey that reads on white and on black. Colours are Okabe and Ito's
(2008), which people with any colour vision tell apart; shapes and dashes say the same again. Text
of models or data is escaped, because plotly reads tags in labels.
"""

import html
import math
import textwrap

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

BLUE = "#0072B2"
RED = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
ORANGE = "#E69F00"  # for areas: too light for thin lines on white
GREY = "#848b96"
TEXT = "#6f7782"  # 4.5 to 1 on white, 4.2 to 1 on #111
SFT, RLHF = GREY, BLUE  # π_SFT and π_RLHF wear the same colours everywhere
FAINT = "rgba(128,128,128,0.4)"
SHARES = {"range": [0, 1], "tickformat": ".0%"}  # what an axis of shares is like
NAMES = {"automargin": True, "dtick": 1, "showgrid": False, "ticks": ""}  # an axis of names
COIN = {"color": TEXT, "dash": "dash", "width": 1}


def figure(
    titles: list[str],
    rows: int = 1,
    height: int = 260,
    head: str = "",
    bottom: int = 44,
    gap: float = 0.2,
    between: int = 90,
) -> go.Figure:
    """Empty panels, one a title.

    height: of one row, in pixels. head: a small line above all, which says how far a loop is.
    bottom: pixels below the last row, for its axes' titles and legends. gap: the share of the width
    that lies between panels. between: pixels between rows, less the share of the margins.
    """
    columns = len(titles) // rows
    fig = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=titles,
        horizontal_spacing=gap / columns,
        vertical_spacing=between / (height * rows),
    )
    fig.update_layout(
        template="none",
        height=height * rows,
        margin={"l": 48, "r": 22, "t": 58 if head else 34, "b": bottom},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12, "color": TEXT},
        showlegend=False,
    )
    axis = {
        "zeroline": False,
        "linecolor": FAINT,
        "ticks": "outside",
        "tickcolor": FAINT,
        "title": {"standoff": 6, "font": {"size": 12}},
    }
    fig.update_xaxes(**axis, showgrid=False, nticks=6)
    fig.update_yaxes(**axis, gridcolor="rgba(128,128,128,0.2)", nticks=6)
    fig.update_annotations(font={"size": 13, "color": TEXT}, xanchor="left")
    for panel, title in enumerate(fig.layout.annotations, 1):
        title.x = _axis(fig, "x", panel).domain[0]
    if head:
        fig.update_layout(title={"text": head, "font": {"size": 13}, "x": 0.01, "y": 0.99})
    return fig


def _axis(fig: go.Figure, letter: str, panel: int):
    return fig.layout[f"{letter}axis{panel if panel > 1 else ''}"]


def legend_under(fig: go.Figure, panel: int, below: int = 44, orientation: str = "h") -> str:
    """A legend for one panel, `below` pixels under its axis; traces name it as their `legend`."""
    layout = fig.layout
    plot = layout.height - layout.margin.t - layout.margin.b
    name = f"legend{panel if panel > 1 else ''}"
    place = {"x": _axis(fig, "x", panel).domain[0], "yanchor": "top"}
    place["y"] = _axis(fig, "y", panel).domain[0] - below / plot
    fig.update_layout({name: place | {"orientation": orientation}, "showlegend": True})
    return name


def known(rows: list[dict], *keys: str) -> list[dict]:
    """The rows in which every key has a finite number."""
    found = []
    for row in rows:
        values = [row.get(key) for key in keys]
        if all(value is not None and math.isfinite(value) for value in values):
            found.append(row)
    return found


def line(name: str, rows: list[dict], x: str, y: str, color: str = BLUE, **options) -> go.Scatter:
    rows = known(rows, x, y)
    return go.Scatter(
        x=[row[x] for row in rows],
        y=[row[y] for row in rows],
        name=name,
        mode="lines+markers" if len(rows) < 40 else "lines",
        line={"color": color, "width": 2, "dash": options.pop("dash", "solid")},
        marker={"size": 6, "symbol": options.pop("symbol", "circle")},
        **options,
    )


def trend(name: str, rows: list[dict], x: str, y: str, color: str, **options) -> list[go.Scatter]:
    """A line; of more than 20 points the points, light, and their moving mean."""
    rows = known(rows, x, y)
    drawn = line(name, rows, x, y, color, **options)
    if len(rows) <= 20:
        return [drawn]
    width = max(len(rows) // 10, 5)
    mean = pd.Series(drawn.y).rolling(width, center=True, min_periods=1).mean()
    points = go.Scatter(drawn, mode="markers", opacity=0.5, showlegend=False)
    points.marker.update(color=color, size=4)
    return [points, go.Scatter(drawn, y=mean, mode="lines")]


def dotted(start: float, end: float) -> go.Scatter:
    """The line where both axes have the same value."""
    ends = [start, end]
    return go.Scatter(x=ends, y=ends, mode="lines", line=COIN, showlegend=False, hoverinfo="skip")


def level_line(fig: go.Figure, level: float, name: str, row: int, col: int) -> None:
    """A dashed line across a panel, with what it means."""
    fig.add_hline(y=level, line=COIN, row=row, col=col)
    text = {"text": name, "showarrow": False, "xanchor": "left", "yanchor": "bottom"}
    fig.add_annotation(text, x=0, xref="x domain", y=level, row=row, col=col)


def outline(name: str, values: list, edges: np.ndarray, color: str, **options) -> go.Scatter:
    """A histogram's outline: the share of values in each bin; `fill` makes it an area."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    shares = counts / max(counts.sum(), 1)
    return go.Scatter(
        x=edges,
        y=[*shares, shares[-1]],
        name=escape(name),
        mode="lines",
        line={"color": color, "width": 2, "shape": "hv", "dash": options.pop("dash", "solid")},
        **options,
    )


def bins(*lists: list, count: int = 24) -> np.ndarray:
    """Edges of equal bins over all the values."""
    values = [value for values in lists for value in values] or [0.0]
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(abs(low), abs(high)):  # alike, but for rounding
        low, high = low - abs(low) / 2, high + abs(high) / 2
    return np.histogram_bin_edges(values, count, (low, high))


def error_bars(values: list[float], intervals: list, color: str) -> dict:
    """How plotly wants the intervals (low, high) around the values; None draws nothing."""
    ends = np.array([interval or (np.nan, np.nan) for interval in intervals])
    return {
        "array": ends[:, 1] - values,
        "arrayminus": values - ends[:, 0],
        "color": color,
        "thickness": 2,
        "width": 0,  # no caps: plotly would draw them where there is no interval, too
    }


def accuracy_bars(fig: go.Figure, rows: list[tuple], others: str = BLUE, **panel) -> None:
    """Rows of (name, accuracy, interval or None) as bars with their per cents and a coin's line.

    The first row is at the top, in blue; `others` is the colour of the rest.
    """
    names, values, intervals = zip(*rows[::-1])  # plotly draws the first bar at the bottom
    names = [escape(name) for name in names]
    fig.add_bar(
        y=names,
        x=values,
        width=0.7,
        orientation="h",
        showlegend=False,
        marker={"color": [others] * (len(rows) - 1) + [BLUE], "opacity": 0.6},
        error_x=error_bars(values, intervals, RED),
        **panel,
    )
    fig.add_scatter(
        x=[1.02] * len(rows),  # in a column of their own, where no interval is
        y=names,
        mode="text",
        text=[f"{value:.0%}" for value in values],
        textposition="middle right",
        hoverinfo="skip",
        showlegend=False,
        **panel,
    )
    fig.add_vline(x=0.5, line=COIN, **panel)
    fig.update_xaxes(range=[0, 1.28], tickvals=[0, 0.5, 1], tickformat=".0%", **panel)
    fig.update_yaxes(NAMES, type="category", **panel)


def escape(text) -> str:
    """Text of models or data as text; plotly would show an escaped quotation mark as &quot;."""
    return html.escape(str(text), quote=False)


def hover(text: str) -> str:
    """Text of a model for a hover label: escaped, wrapped, cut at 300 characters."""
    return "<br>".join(escape(part) for part in textwrap.wrap(text[:300], 70))
