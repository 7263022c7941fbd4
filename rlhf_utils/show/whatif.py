"""What is there to win: reward, gold and declining against KL, with a slider for β.

The slider is plotly's own, so it works with no kernel: in a notebook, and in a page offline.
"""

import plotly.graph_objects as go

from .template import BLUE, FAINT, GREEN, GREY, ORANGE, PURPLE, RED, SHARES, TEXT, legend_under
from .template import figure as panels_of

HEAD, SLIDER, TITLES, PANEL, UNDER = 62, 74, 26, 210, 112  # pixels, from the top
FADED = {"color": GREY, "dash": "dot", "width": 1}
KINDS = (  # of prompts: name, colour, dash, what the rows call it
    ("harmful", RED, "solid", "declined_harmful"),
    ("look-alikes", GREEN, "dash", "declined_lookalike"),
    ("others", BLUE, "dot", "declined_other"),
)
TILTED = "weighted by exp(reward/β)"
BEST_OF = {  # who picks → name, colour, symbol
    "reward": ("best of n by reward", PURPLE, "square"),
    "gold": ("best of n by gold", GREEN, "diamond"),
}


def figure(data: dict) -> go.Figure:
    """From lab.whatif.measure. Where too few answers count, all is grey and dotted."""
    rows = data["tilted"]
    panels = {"reward": [(TILTED, BLUE, "solid", "reward")]}
    if "gold" in rows[0]:
        panels["gold, of 5"] = [(TILTED, BLUE, "solid", "gold")]
    panels["declined, by kind of prompt"] = [curve for curve in KINDS if curve[3] in rows[0]]

    top = HEAD + SLIDER + TITLES
    fig = panels_of(list(panels), height=top + PANEL + UNDER, bottom=UNDER)
    fig.update_layout(margin_t=top)
    for col, curves in enumerate(panels.values(), 1):
        place = {"row": 1, "col": col}
        legend = legend_under(fig, col, orientation="v")
        for name, color, dash, key in curves:
            line = {"color": color, "dash": dash, "width": 2}
            named = {"name": name, "legend": legend, "showlegend": key != "gold"}
            _add_part(fig, _known(rows), key, place, line=line, **named)
            first = col == 2 and key == curves[0][3]  # told once, where a legend is short
            named = {"name": "too few answers count", "legend": legend, "showlegend": first}
            _add_part(fig, _unknown(rows), key, place, line=FADED, **named)
        _add_best_of(fig, data["best_of"], curves[0][3], place, legend)
    _add_slider(fig, data, [[curve[3] for curve in curves] for curves in panels.values()])
    fig.update_xaxes(title_text="KL to π_SFT, nats", rangemode="tozero")
    return fig.update_yaxes(SHARES, col=len(panels))


def _known(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["trusted"]]


def _unknown(rows: list[dict]) -> list[dict]:
    """The rows that few answers stand behind, and the one before them, so that lines meet."""
    return rows[max(len(_known(rows)) - 1, 0) :]


def _add_part(fig: go.Figure, rows: list[dict], key: str, place: dict, **options) -> None:
    """A part of a curve against KL."""
    fig.add_scatter(
        x=[row["kl"] for row in rows],
        y=[row[key] for row in rows],
        text=[_beta(row) for row in rows],
        mode="lines",
        hovertemplate="β = %{text}: %{y} at KL %{x:.2f}<extra></extra>",
        **options,
        **place,
    )


def _add_best_of(fig: go.Figure, best_of: dict, key: str, place: dict, legend: str) -> None:
    """Points for n = 2, 4, … with their n, in the panels of scores; by gold in that of gold."""
    for by, (name, color, symbol) in BEST_OF.items():
        if key not in ("reward", "gold") or by not in best_of or (by, key) == ("gold", "reward"):
            continue
        rows = best_of[by][1:]
        fig.add_scatter(
            x=[row["kl"] for row in rows],
            y=[row[key] for row in rows],
            text=[str(row["n"]) for row in rows],
            textposition="bottom center" if by == "reward" else "top center",
            textfont={"size": 10},
            name=name,
            legend=legend,
            showlegend=by == key,
            mode="markers+text",
            marker={
                "color": [color if row["trusted"] else GREY for row in rows],
                "symbol": [symbol + "-open" * (not row["trusted"]) for row in rows],
                "size": 7,
            },
            cliponaxis=False,
            hovertemplate="best of %{text}: %{y} at KL %{x:.2f}<extra></extra>",
            **place,
        )


def _add_slider(fig: go.Figure, data: dict, keys: list[list[str]]) -> None:
    """A slider for β that moves a marker on each curve, and says the numbers.

    keys: those of each panel.
    """
    rows = data["tilted"]
    start = max(len(_known(rows)) - 1, 0)
    for col, of_panel in enumerate(keys, 1):
        fig.add_scatter(
            x=[rows[start]["kl"]] * len(of_panel),
            y=[rows[start][key] for key in of_panel],
            mode="markers",
            marker={"size": 11, "color": ORANGE, "line": {"color": TEXT, "width": 1.5}},
            cliponaxis=False,
            hoverinfo="skip",
            showlegend=False,
            row=1,
            col=col,
        )
    places = list(range(len(fig.data) - len(keys), len(fig.data)))
    steps = []
    for row in rows:
        moved = {
            "x": [[row["kl"]] * len(of_panel) for of_panel in keys],
            "y": [[row[key] for key in of_panel] for of_panel in keys],
        }
        told = {"title.text": _numbers(row, data["answers"])}
        steps.append({"label": _beta(row), "method": "update", "args": [moved, told, places]})
    fig.update_layout(
        title={
            "text": _numbers(rows[start], data["answers"]),
            "font": {"size": 13},
            "x": 0.01,
            "y": 1,
            "yanchor": "top",
            "pad": {"t": 22},  # to the middle of the first line
        },
        sliders=[
            {
                "steps": steps,
                "active": start,
                "x": 0,
                "len": 1,
                "y": 1,
                "yanchor": "bottom",
                "pad": {"b": TITLES, "t": 0},
                "currentvalue": {"prefix": "price of a nat of KL, β = ", "font": {"size": 13}},
                "font": {"size": 10},
                "bgcolor": GREY,
                "activebgcolor": ORANGE,
                "bordercolor": FAINT,
                "tickcolor": FAINT,
                "minorticklen": 0,
            }
        ],
    )


def _beta(row: dict) -> str:
    return "∞" if row["beta"] is None or row["beta"] == float("inf") else f"{row['beta']:g}"


def _numbers(row: dict, answers: int) -> str:
    """Three short lines, which fit on a phone."""
    first = f"KL {row['kl']:.2f} nats · reward {row['reward']:+.2f}"
    if "gold" in row:
        first += f" · gold {row['gold']:.2f} of 5"
    shares = ", ".join(f"{name} {row[key]:.0%}" for name, _, _, key in KINDS if key in row)
    few = "" if row["trusted"] else ": too few"
    last = f"{row['words']:.1f} words · {row['ess']:.0f} of {answers} answers count{few}"
    return f"{first}<br>declined: {shares}<br>{last}"
