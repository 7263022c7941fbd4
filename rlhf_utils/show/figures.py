"""Figures of the training, one function each: data in, `go.Figure` out.

template.py holds what they share, panel.py a run of PPO, comparison.py the evaluation.
"""

import re

import numpy as np
import plotly.graph_objects as go

from .template import (
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    RED,
    SHARES,
    TEXT,
    accuracy_bars,
    bins,
    dotted,
    error_bars,
    figure,
    legend_under,
    level_line,
    line,
    outline,
    trend,
)
from .text import words

# name, colour, shape, dash, key of metrics.jsonl
DECLINED = (
    ("harmful", RED, "circle", "solid", "answers/declined_harmful"),
    ("look-alikes", GREEN, "diamond", "dash", "answers/declined_lookalike"),
    ("others", BLUE, "square", "dot", "answers/declined_other"),
)


def sft_loss(log: list[dict], title: str = "") -> go.Figure:
    """Both losses over the epochs, from the trainer's log (`loss` or `eval_loss`, and `epoch`)."""
    fig = figure(["loss in nats a token"], head=title, bottom=72)
    legend = legend_under(fig, 1)
    fig.add_trace(line("training", log, "epoch", "loss", GREY, legend=legend))
    fig.add_trace(
        line("held out", log, "epoch", "eval_loss", BLUE, legend=legend, symbol="diamond")
    )
    return fig.update_xaxes(title_text="epoch")


def label_bias(bias: dict, agreement: dict) -> go.Figure:
    """Shares of judgements with their intervals, each beside what chance alone would give."""
    fig = figure(["share of judgements, with 95% interval"], height=230, bottom=60)
    names = [
        "annotators order a pair alike",
        "the longer answer wins",
        "the answer shown first wins",
    ]
    shares = [agreement["pairwise"], bias["longer_wins"], bias["first_shown_wins"]]
    intervals = [agreement["pairwise_ci"], bias["longer_wins_ci"], bias["first_shown_wins_ci"]]
    by_chance = [0.5, 0.5, bias["first_shown_by_chance"]]
    fig.add_scatter(
        x=shares,
        y=names,
        mode="markers",
        name="measured",
        marker={"color": BLUE, "size": 11},
        error_x=error_bars(shares, intervals, BLUE),
        legend=legend_under(fig, 1, below=28),
    )
    fig.add_scatter(
        x=by_chance,
        y=names,
        mode="markers",
        name="by chance",
        marker={"color": TEXT, "symbol": "line-ns-open", "size": 16},
    )
    return fig.update_layout(xaxis=SHARES, yaxis={"autorange": "reversed", "automargin": True})


def reward_training(steps: list[dict], validation: list[dict], title: str = "") -> go.Figure:
    """The loss of each step, and the accuracy on validation pairs after each epoch."""
    fig = figure(["pairwise loss, mean of 8 steps", "accuracy on validation pairs"], head=title)
    losses = [step["loss"] for step in steps]
    width = min(8, len(losses)) or 1
    ends = range(width, len(losses) + 1)
    smooth = [{"step": end, "loss": np.mean(losses[end - width : end])} for end in ends]
    fig.add_trace(line("training", smooth, "step", "loss", GREY), 1, 1)
    fig.add_trace(line("validation", validation, "epoch", "accuracy"), 1, 2)
    level_line(fig, np.log(2), "a coin", row=1, col=1)
    level_line(fig, 0.5, "a coin", row=1, col=2)
    return fig.update_layout(
        xaxis_title_text="step", xaxis2_title_text="epoch", yaxis2=SHARES, yaxis_rangemode="tozero"
    )


def report_card(accuracies: list[tuple], report: dict, rewards: dict[str, list]) -> go.Figure:
    """Accuracies side by side, the calibration curve as trained and scaled, rewards by source.

    accuracies: (name, accuracy, interval or None), the reward model first.
    rewards: of answers, by where they come from.
    """
    titles = ["accuracy, 95% interval", "calibration", "reward of held-out answers"]
    fig = figure(titles, height=350, bottom=140, gap=0.3)
    accuracy_bars(fig, accuracies, GREY, row=1, col=1)
    fig.add_trace(dotted(0.5, 1), 1, 2)
    legend = legend_under(fig, 2, orientation="v")
    for name, key, color, symbol in (
        ("as trained", "calibration", GREY, "diamond"),
        (f"margins / {report['temperature']:.2f}", "calibration_scaled", BLUE, "circle"),
    ):
        options = {"symbol": symbol, "legend": legend}
        curve = line(name, report[key]["bins"], "confidence", "accuracy", color, **options)
        fig.add_trace(curve, 1, 2)
    legend, edges = legend_under(fig, 3, orientation="v"), bins(*rewards.values(), count=16)
    looks = ((GREEN, "solid"), (RED, "dash"), (BLUE, "dot"), (PURPLE, "dashdot"))
    for (name, values), (color, dash) in zip(rewards.items(), looks):
        fig.add_trace(outline(name, values, edges, color, dash=dash, legend=legend), 1, 3)
    return fig.update_layout(
        xaxis2={"title_text": "how sure, σ(|margin|)", "tickformat": ".0%", "dtick": 0.25},
        yaxis2=SHARES,
        xaxis3_title_text="reward",
        yaxis3={"tickformat": ".0%", "rangemode": "tozero"},
    )


def accuracy_details(report: dict, curve: list[dict], ceiling: float = np.nan) -> go.Figure:
    """Accuracy by category, by rank gap and by length, as far as known; and the learning curve."""
    titles = {
        "by_category": "accuracy by category",
        "by_rank_gap": "by rank gap",
        "by_length": "by length of the chosen one",
    }
    shown = [key for key in titles if report.get(key)]
    panels = [titles[key] for key in shown] + ["accuracy by prompts learned from"]
    rows = -(-len(panels) // 2)
    fig = figure(panels + [" "] * (2 * rows - len(panels)), rows, height=290, gap=0.3)
    for panel, key in enumerate(shown):
        bars = []
        for row in report[key]:
            name = re.sub(r"^[a-e]: |^rank gap ", "", row["name"])  # what they are sorted by
            bars.append((words(name), row["accuracy"], row["ci"]))
        accuracy_bars(fig, bars, row=panel // 2 + 1, col=panel % 2 + 1)
    where = {"row": len(shown) // 2 + 1, "col": len(shown) % 2 + 1}
    fig.add_trace(line("held out", curve, "prompts", "accuracy"), **where)
    level_line(fig, 0.5, "a coin", **where)
    if not np.isnan(ceiling):
        level_line(fig, ceiling, "ceiling by label noise", **where)
    ticks = [row["prompts"] for row in curve]
    fig.update_yaxes(SHARES, **where)
    return fig.update_xaxes(type="log", tickvals=ticks, **where)


def manners(metrics: list[dict]) -> go.Figure:
    """What PPO changes: filler, declining by kind of prompt, words; from rows of metrics.jsonl."""
    titles = ["answers with filler", "declined, by kind of prompt", "words an answer"]
    fig = figure(titles, bottom=76)
    for panel, key, color in ((1, "filler", PURPLE), (3, "words", GREY)):
        options = {"showlegend": False, "symbol": "circle"}
        name = titles[panel - 1]
        curves = trend(name, metrics, "episode", f"answers/{key}", color, **options)
        fig.add_traces(curves, 1, panel)
    legend = legend_under(fig, 2)
    for name, color, symbol, dash, key in DECLINED:
        options = {"symbol": symbol, "dash": dash, "legend": legend}
        fig.add_traces(trend(name, metrics, "episode", key, color, **options), 1, 2)
    fig.update_yaxes(SHARES, row=1, col=1)
    fig.update_yaxes(SHARES, row=1, col=2)
    fig.update_yaxes(rangemode="tozero", row=1, col=3)
    return fig.update_xaxes(title_text="episodes")
