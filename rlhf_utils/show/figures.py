"""Every figure, one function each: data in, `go.Figure` out.

Figures have no background and grey text, so that they read on light and dark pages. Model text never goes into a figure
without escaping, since plotly reads tags in labels.
"""

import html
import re
import textwrap

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

BLUE, ORANGE, GREEN, RED, PURPLE, GREY = (
    "#4c8dd6",
    "#e08a3c",
    "#3fa37b",
    "#d9605a",
    "#9a7bd0",
    "#8a9099",
)
SFT, RLHF = GREY, BLUE  # π_SFT and π_RLHF wear the same colours everywhere


def figure(titles: list[str], rows: int = 1, height: int = 300, head: str = "") -> go.Figure:
    """Empty panels in the style of the suite; `titles` one a panel, from left to right and top to bottom, below a small line on how far a loop is, `head`."""
    columns = len(titles) // rows
    fig = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=titles,
        horizontal_spacing=0.09 if columns < 3 else 0.075,
        vertical_spacing=0.2,
    )
    fig.update_layout(
        template="none",
        height=height * rows,
        margin={"l": 56, "r": 16, "t": 56, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12, "color": GREY},
        legend={"orientation": "h", "y": -0.22, "x": 0},
        hovermode="closest",
    )
    axis = {
        "gridcolor": "rgba(128,128,128,0.2)",
        "zeroline": False,
        "linecolor": "rgba(128,128,128,0.4)",
        "ticks": "outside",
        "tickcolor": "rgba(128,128,128,0.4)",
        "title": {"standoff": 8},
    }
    fig.update_xaxes(**axis, showgrid=False)
    fig.update_yaxes(**axis)
    fig.update_annotations(font={"size": 13, "color": GREY})
    if head:
        fig.update_layout(
            title={"text": head, "font": {"size": 13}, "x": 0.01, "y": 0.99}, margin={"t": 72}
        )
    return fig


def place(panel: int, columns: int) -> dict[str, int]:
    return {"row": panel // columns + 1, "col": panel % columns + 1}


def line(name: str, rows: list[dict], x: str, y: str, color: str = BLUE, **options) -> go.Scatter:
    return go.Scatter(
        x=[row[x] for row in rows],
        y=[float(row[y]) for row in rows],
        name=name,
        mode="lines+markers" if len(rows) < 40 else "lines",
        line={"color": color, "width": 2},
        marker={"size": 5},
        **options,
    )


def error_bars(values: list[float], intervals: list, color: str) -> dict:
    """What plotly draws as intervals around the values; an interval may be None."""
    spans = [
        (interval[1] - value, value - interval[0]) if interval else (0, 0)
        for value, interval in zip(values, intervals)
    ]
    return {
        "type": "data",
        "symmetric": False,
        "array": [above for above, _ in spans],
        "arrayminus": [below for _, below in spans],
        "color": color,
    }


def hover(text: str, width: int = 70) -> str:
    """Model text for a hover label: escaped, wrapped, cut at 300 characters."""
    return "<br>".join(html.escape(part) for part in textwrap.wrap(text[:300], width))


def sft_loss(log: list[dict], title: str = "") -> go.Figure:
    """Training and held-out loss from the trainer's log history (`loss` or `eval_loss`, with `epoch`)."""
    fig = figure(["loss in nats a token"], head=title)
    for name, key, color in (("training", "loss", GREY), ("held out", "eval_loss", BLUE)):
        fig.add_trace(line(name, [row for row in log if key in row], "epoch", key, color))
    return fig.update_xaxes(title_text="epoch")


def label_bias(bias: dict, agreement: dict) -> go.Figure:
    """Shares with intervals beside what no bias would give."""
    fig = figure(["share of judgements, with 95% interval"], height=240)
    bars = [
        ("annotators order a pair alike", agreement["pairwise"], agreement["pairwise_ci"], 0.5),
        ("the longer answer wins", bias["longer_wins"], bias["longer_wins_ci"], 0.5),
        (
            "the answer shown first wins",
            bias["first_shown_wins"],
            bias["first_shown_wins_ci"],
            bias["first_shown_by_chance"],
        ),
    ]
    names, shares, intervals, by_chance = zip(*bars)
    fig.add_trace(
        go.Scatter(
            x=shares,
            y=names,
            mode="markers",
            name="measured",
            marker={"color": BLUE, "size": 11},
            error_x=error_bars(shares, intervals, BLUE),
        )
    )
    fig.add_trace(
        go.Scatter(
            x=by_chance,
            y=names,
            mode="markers",
            name="by chance",
            marker={"color": GREY, "symbol": "line-ns-open", "size": 16},
        )
    )
    return fig.update_layout(
        xaxis={"range": [0, 1], "tickformat": ".0%"},
        yaxis={"autorange": "reversed", "automargin": True},
    )


def reward_training(steps: list[dict], heldout: list[dict], title: str = "") -> go.Figure:
    """Loss a step, and accuracy on held-out pairs after each epoch; steps may still be none."""
    fig = figure(
        ["pairwise loss (0.69 is guessing)", "accuracy on prompts never trained on"], head=title
    )
    width = min(8, len(steps))
    smooth = (
        np.convolve([s["loss"] for s in steps], np.ones(width) / width, mode="valid")
        if steps
        else []
    )
    fig.add_trace(
        line(
            "training, mean of 8 steps",
            [{"step": step, "loss": loss} for step, loss in enumerate(smooth, 1)],
            "step",
            "loss",
            GREY,
        ),
        1,
        1,
    )
    fig.add_trace(line("held out", heldout, "epoch", "accuracy"), 1, 2)
    return fig.update_layout(
        xaxis_title_text="step", xaxis2_title_text="epoch", yaxis2_tickformat=".0%"
    )


def report_card(
    accuracies: list[tuple[str, float, tuple[float, float] | None]],
    report: dict,
    rewards: dict[str, list[float]],
) -> go.Figure:
    """Accuracies side by side (the first in blue), the calibration curve as trained and scaled, and the rewards of answers by source."""
    fig = figure(["accuracy, 95% interval", "calibration", "reward of held-out answers"])
    fig.add_trace(accuracy_bars(accuracies, GREY), 1, 1)
    fig.add_trace(
        go.Scatter(
            x=[0.5, 1],
            y=[0.5, 1],
            mode="lines",
            line={"color": GREY, "dash": "dot"},
            showlegend=False,
        ),
        1,
        2,
    )
    for name, key, color in (
        ("as trained", "calibration", GREY),
        (f"margins / {report['temperature']:.2f}", "calibration_scaled", BLUE),
    ):
        fig.add_trace(line(name, report[key]["bins"], "confidence", "accuracy", color), 1, 2)
    for (name, values), color in zip(rewards.items(), (BLUE, ORANGE, GREEN, PURPLE)):
        fig.add_trace(
            go.Histogram(
                x=values, name=name, opacity=0.6, marker_color=color, nbinsx=30, histnorm="percent"
            ),
            1,
            3,
        )
    return fig.update_layout(
        barmode="overlay",
        margin={"l": 130},
        xaxis={"range": [0, 1], "tickformat": ".0%"},
        xaxis2={"title_text": "how sure, σ(|margin|)", "tickformat": ".0%"},
        yaxis2_tickformat=".0%",
    )


def accuracy_bars(rows: list[tuple], color: str) -> go.Bar:
    """Rows of (name, accuracy, interval or None) as bars, the first at the top and in blue, the others in `color`."""
    names, values, intervals = (
        [row[column] for row in rows[::-1]] for column in range(3)
    )  # plotly draws the first bar at the bottom
    return go.Bar(
        y=[html.escape(str(name)) for name in names],
        x=values,
        orientation="h",
        showlegend=False,
        marker_color=[color] * (len(rows) - 1) + [BLUE],
        text=[f"{value:.0%}" for value in values],
        textposition="inside",
        insidetextanchor="start",
        insidetextfont={"color": "white"},
        error_x=error_bars(values, intervals, ORANGE),
    )


def accuracy_details(report: dict, curve: list[dict], ceiling: float = float("nan")) -> go.Figure:
    """Accuracy by category, by how far apart the two answers were ranked, by length difference; and what more labels would bring."""
    titles = {
        "by_category": "by category",
        "by_margin": "by distance of the two in rank",
        "by_length": "by length of the chosen one",
    }
    keys = [key for key in titles if report.get(key)]
    fig = figure(
        [titles[key] for key in keys] + [""] * (3 - len(keys)) + ["learning curve"],
        rows=2,
        height=290,
    )
    for panel, rows in enumerate(report[key] for key in keys):
        bars = [
            (re.sub(r"^[a-e]: |^margin ", "", row["name"]), row["accuracy"], row["ci"])
            for row in rows
        ]
        fig.add_trace(accuracy_bars(bars, BLUE), **place(panel, 2))
        fig.update_xaxes(range=[0, 1], tickformat=".0%", **place(panel, 2))
        fig.update_yaxes(type="category", automargin=True, **place(panel, 2))
    fig.add_trace(
        line("heads alone, held out", curve, "prompts", "accuracy", showlegend=False), 2, 2
    )
    if ceiling == ceiling:
        fig.add_hline(
            y=ceiling,
            line={"color": GREY, "dash": "dot"},
            row=2,
            col=2,
            annotation_text="ceiling by label noise",
        )
    ticks = [row["prompts"] for row in curve]
    return fig.update_layout(
        xaxis4={"title_text": "prompts learned from", "type": "log", "tickvals": ticks},
        yaxis4_tickformat=".0%",
    )


def ppo_progress(metrics: list[dict], title: str = "") -> go.Figure:
    """Reward and KL together, as they must be read, and below them what the optimizer does; from the rows of metrics.jsonl."""
    fig = figure(
        [
            "reward, normalised in 03",
            "KL to π_SFT, nats a response",
            "reward against KL",
            "share of clipped ratios",
            "entropy, nats a response",
            "tokens a response",
        ],
        rows=2,
        height=270,
        head=title,
    )
    lines = {
        0: ("objective/scores", BLUE),
        1: ("objective/kl_full", ORANGE),
        3: ("policy/clipfrac_avg", RED),
        4: ("objective/entropy", GREEN),
        5: ("val/length", PURPLE),
    }
    for panel, (key, color) in lines.items():
        fig.add_trace(
            line(key, metrics, "episode", key, color, showlegend=False), **place(panel, 3)
        )
    episodes = [m["episode"] for m in metrics]
    fig.add_trace(
        go.Scatter(
            x=[m["objective/kl_full"] for m in metrics],
            y=[m["objective/scores"] for m in metrics],
            mode="markers",
            showlegend=False,
            marker={
                "color": episodes,
                "colorscale": "Blues",
                "size": 7,
                "cmin": -max(episodes, default=1) / 2,
            },
        ),
        row=1,
        col=3,
    )
    return fig.update_layout(xaxis3_title_text="KL").update_xaxes(title_text="episodes", row=2)


def distributions(sft: list[dict], ppo: list[dict], kl) -> go.Figure:
    """Reward, words and KL of the answers before and after."""
    fig = figure(["reward of an answer", "words in an answer", "KL of an answer, nats"])
    for name, rows, color in (("π_SFT", sft, SFT), ("π_RLHF", ppo, RLHF)):
        for panel, (key, bins) in enumerate((("reward", None), ("words", {"size": 1}))):
            fig.add_trace(
                go.Histogram(
                    x=[r[key] for r in rows],
                    name=name,
                    legendgroup=name,
                    showlegend=panel == 0,
                    opacity=0.6,
                    marker_color=color,
                    nbinsx=30,
                    xbins=bins,
                ),
                **place(panel, 3),
            )
    fig.add_trace(
        go.Histogram(
            x=[float(k) for k in kl], marker_color=RLHF, opacity=0.6, showlegend=False, nbinsx=30
        ),
        row=1,
        col=3,
    )
    return fig.update_layout(barmode="overlay")


def rubric_bars(results: dict) -> go.Figure:
    """Pairs of bars, π_SFT beside π_RLHF: the rubric's parts, refusals, diversity; from results named eval.<name>_{sft,ppo}."""
    names = (
        "helpfulness",
        "harmlessness",
        "honesty",
        "brevity",
        "form",
        "refusal_harmful",
        "refusal_benign",
        "distinct2",
    )
    fig = figure(["mean on held-out prompts"], height=320)
    for label, side, color in (("π_SFT", "sft", SFT), ("π_RLHF", "ppo", RLHF)):
        values = [results[f"eval.{name}_{side}"] for name in names]
        fig.add_trace(
            go.Bar(
                x=[name.replace("_", " ") for name in names],
                y=values,
                name=label,
                marker_color=color,
                text=[f"{v:.2f}" for v in values],
                textposition="outside",
                cliponaxis=False,
            )
        )
    return fig.update_yaxes(range=[0, 1.14])


def gain_by_prompt(pairs: list[dict]) -> go.Figure:
    """Gold score before and after for every held-out prompt; above the line PPO helped. Hovering shows the prompt."""
    fig = figure(
        ["gold score of each prompt's answer: above the line, π_RLHF is better"], height=380
    )
    rng = np.random.default_rng(0)
    colors, symbols = (
        (BLUE, ORANGE, GREEN, RED, PURPLE, GREY),
        ("circle", "diamond", "x", "triangle-up"),
    )
    for number, kind in enumerate(sorted({p["category"] for p in pairs})):
        rows = [p for p in pairs if p["category"] == kind]
        marker = {
            "color": colors[number % 6],
            "symbol": symbols[number // 6 % 4],
            "size": 6,
            "opacity": 0.8,
        }
        points = [[p["sft"]["gold"], p["ppo"]["gold"]] for p in rows] + rng.normal(
            0, 0.03, (len(rows), 2)
        )  # apart, where scores are alike
        fig.add_trace(
            go.Scatter(
                x=points[:, 0],
                y=points[:, 1],
                mode="markers",
                name=html.escape(kind),
                text=[hover(p["prompt"]) for p in rows],
                hoverinfo="text",
                marker=marker,
            )
        )
    ends = [min((p[side]["gold"] for p in pairs for side in ("sft", "ppo")), default=0), 5]
    fig.add_trace(
        go.Scatter(
            x=ends, y=ends, mode="lines", line={"color": GREY, "dash": "dot"}, showlegend=False
        )
    )
    return fig.update_layout(xaxis_title_text="π_SFT", yaxis_title_text="π_RLHF")
