"""Every figure, one function each: data in, `go.Figure` out; what they share comes first.

Figures have no background and grey text, so that they read on light and dark pages. Text of models
or data is escaped, because plotly reads tags in labels.
"""

import html
import re
import textwrap

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

BLUE = "#4c8dd6"
ORANGE = "#e08a3c"
GREEN = "#3fa37b"
RED = "#d9605a"
PURPLE = "#9a7bd0"
GREY = "#8a9099"
TEXT = "#757c87"  # as far from white as from the dark of a notebook
COLORS = (BLUE, ORANGE, GREEN, RED, PURPLE, GREY)
SYMBOLS = ("circle", "diamond", "x", "triangle-up")
SFT, RLHF = GREY, BLUE  # π_SFT and π_RLHF wear the same colours everywhere
FAINT = "rgba(128,128,128,0.4)"
SHARES = {"range": [0, 1], "tickformat": ".0%"}  # what an axis of shares is like


def figure(titles: list[str], rows: int = 1, height: int = 300, head: str = "") -> go.Figure:
    """Empty panels, one a title, with room for a legend below them.

    height: of one row, in pixels. head: a small line above all, which says how far a loop is.
    """
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
        margin={"l": 56, "r": 24, "t": 64 if head else 40, "b": 76},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12, "color": TEXT},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
    )
    axis = {
        "zeroline": False,
        "linecolor": FAINT,
        "ticks": "outside",
        "tickcolor": FAINT,
        "title": {"standoff": 8, "font": {"size": 12}},
    }
    fig.update_xaxes(**axis, showgrid=False)
    fig.update_yaxes(**axis, gridcolor="rgba(128,128,128,0.2)")
    fig.update_annotations(font={"size": 13, "color": TEXT})
    if head:
        fig.update_layout(title={"text": head, "font": {"size": 13}, "x": 0.01, "y": 0.99})
    return fig


def line(name: str, rows: list[dict], x: str, y: str, color: str = BLUE, **options) -> go.Scatter:
    return go.Scatter(
        x=[row[x] for row in rows],
        y=[row[y] for row in rows],
        name=name,
        mode="lines+markers" if len(rows) < 40 else "lines",
        line={"color": color, "width": 2},
        marker={"size": 5},
        **options,
    )


def dotted(start: float, end: float) -> go.Scatter:
    """The line where both axes have the same value."""
    ends = [start, end]
    return go.Scatter(
        x=ends, y=ends, mode="lines", line={"color": GREY, "dash": "dot"}, showlegend=False
    )


def heap(name: str, values: list[float], color: str, **options) -> go.Histogram:
    return go.Histogram(x=values, name=name, marker_color=color, opacity=0.6, nbinsx=30, **options)


def error_bars(values: list[float], intervals: list, color: str) -> dict:
    """How plotly wants the intervals (low, high) around the values; None draws nothing."""
    ends = np.array([interval or (np.nan, np.nan) for interval in intervals])
    return {
        "array": ends[:, 1] - values,
        "arrayminus": values - ends[:, 0],
        "color": color,
        "width": 0,  # no caps: plotly would draw them where there is no interval, too
    }


def accuracy_bars(rows: list[tuple], color: str) -> go.Bar:
    """Rows of (name, accuracy, interval or None), the first at the top and in blue."""
    names, values, intervals = zip(*rows[::-1])  # plotly draws the first bar at the bottom
    return go.Bar(
        y=[escape(name) for name in names],
        x=values,
        width=0.8,
        orientation="h",
        showlegend=False,
        marker_color=[color] * (len(rows) - 1) + [BLUE],
        texttemplate="%{x:.0%}",
        textposition="inside",
        insidetextanchor="start",
        insidetextfont={"color": "white", "size": 11},
        constraintext="none",
        error_x=error_bars(values, intervals, ORANGE),
    )


def escape(text) -> str:
    """Text of models or data as text; plotly would show an escaped quotation mark as &quot;."""
    return html.escape(str(text), quote=False)


def hover(text: str) -> str:
    """Text of a model for a hover label: escaped, wrapped, cut at 300 characters."""
    return "<br>".join(escape(part) for part in textwrap.wrap(text[:300], 70))


def sft_loss(log: list[dict], title: str = "") -> go.Figure:
    """Both losses over the epochs, from the trainer's log (`loss` or `eval_loss`, and `epoch`)."""
    fig = figure(["loss in nats a token"], head=title)
    for name, key, color in (("training", "loss", GREY), ("held out", "eval_loss", BLUE)):
        rows = [row for row in log if key in row]
        fig.add_trace(line(name, rows, "epoch", key, color))
    return fig.update_xaxes(title_text="epoch")


def label_bias(bias: dict, agreement: dict) -> go.Figure:
    """Shares of judgements with their intervals, each beside what chance alone would give."""
    fig = figure(["share of judgements, with 95% interval"], height=240)
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
    )
    fig.add_scatter(
        x=by_chance,
        y=names,
        mode="markers",
        name="by chance",
        marker={"color": GREY, "symbol": "line-ns-open", "size": 16},
    )
    return fig.update_layout(xaxis=SHARES, yaxis={"autorange": "reversed", "automargin": True})


def reward_training(steps: list[dict], heldout: list[dict], title: str = "") -> go.Figure:
    """The loss of each step, and the accuracy on held-out pairs after each epoch."""
    titles = ["pairwise loss (0.69 is guessing)", "accuracy on prompts never trained on"]
    fig = figure(titles, head=title)
    losses = [step["loss"] for step in steps]
    width = min(8, len(losses)) or 1
    ends = range(width, len(losses) + 1)
    smooth = [{"step": end, "loss": np.mean(losses[end - width : end])} for end in ends]
    fig.add_trace(line("training, mean of 8 steps", smooth, "step", "loss", GREY), 1, 1)
    fig.add_trace(line("held out", heldout, "epoch", "accuracy"), 1, 2)
    return fig.update_layout(
        xaxis_title_text="step", xaxis2_title_text="epoch", yaxis2_tickformat=".0%"
    )


def report_card(accuracies: list[tuple], report: dict, rewards: dict[str, list]) -> go.Figure:
    """Accuracies side by side, the calibration curve as trained and scaled, rewards by source.

    accuracies: (name, accuracy, interval or None), the reward model first.
    rewards: of answers, by where they come from.
    """
    fig = figure(["accuracy, 95% interval", "calibration", "reward of held-out answers"])
    fig.add_trace(accuracy_bars(accuracies, GREY), 1, 1)
    fig.add_trace(dotted(0.5, 1), 1, 2)
    for name, key, color in (
        ("as trained", "calibration", GREY),
        (f"margins / {report['temperature']:.2f}", "calibration_scaled", BLUE),
    ):
        fig.add_trace(line(name, report[key]["bins"], "confidence", "accuracy", color), 1, 2)
    for (name, values), color in zip(rewards.items(), COLORS):
        fig.add_trace(heap(name, values, color, histnorm="percent"), 1, 3)
    return fig.update_layout(
        barmode="overlay",
        margin={"l": 130},
        xaxis=SHARES,
        xaxis2={"title_text": "how sure, σ(|margin|)", "tickformat": ".0%"},
        yaxis2_tickformat=".0%",
    )


def accuracy_details(report: dict, curve: list[dict], ceiling: float = np.nan) -> go.Figure:
    """Accuracy by category, by rank gap and by length, as far as known; and the learning curve."""
    titles = {
        "by_category": "by category",
        "by_rank_gap": "by rank gap",
        "by_length": "by length of the chosen one",
    }
    known = [key for key in titles if report.get(key)]
    panels = [titles[key] for key in known] + [""] * (3 - len(known)) + ["learning curve"]
    fig = figure(panels, rows=2, height=290).update_layout(margin_b=48)
    for panel, key in enumerate(known):
        bars = []
        for row in report[key]:
            name = re.sub(r"^[a-e]: |^rank gap ", "", row["name"])  # what they are sorted by
            bars.append((name, row["accuracy"], row["ci"]))
        where = {"row": panel // 2 + 1, "col": panel % 2 + 1}
        fig.add_trace(accuracy_bars(bars, BLUE), **where)
        fig.update_xaxes(SHARES, **where)
        fig.update_yaxes(type="category", automargin=True, **where)
    fig.add_trace(line("held out", curve, "prompts", "accuracy", showlegend=False), 2, 2)
    if not np.isnan(ceiling):
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
    """From the rows of metrics.jsonl: reward and KL, and below them what the optimizer does."""
    panels = [
        ("mean reward", "objective/scores", BLUE),
        ("KL to π_SFT, nats an answer", "objective/kl_full", ORANGE),
        ("reward against KL", None, None),
        ("share of clipped ratios", "policy/clipfrac_avg", RED),
        ("entropy, nats an answer", "objective/entropy", GREEN),
        ("tokens an answer", "val/length", PURPLE),
    ]
    fig = figure([name for name, _, _ in panels], rows=2, height=270, head=title)
    for panel, (_, key, color) in enumerate(panels):
        if key:
            curve = line(key, metrics, "episode", key, color, showlegend=False)
            fig.add_trace(curve, panel // 3 + 1, panel % 3 + 1)
    fig.add_scatter(
        x=[row["objective/kl_full"] for row in metrics],
        y=[row["objective/scores"] for row in metrics],
        mode="lines+markers",
        showlegend=False,
        line={"color": FAINT, "width": 1},
        marker={
            "color": [row["episode"] for row in metrics],  # from grey at first to blue
            "colorscale": [[0, GREY], [1, BLUE]],
            "size": 7,
        },
        row=1,
        col=3,
    )
    fig.update_xaxes(title_text="KL", row=1, col=3)
    return fig.update_xaxes(title_text="episodes", row=2).update_layout(margin_b=48)


def distributions(sft: list, ppo: list) -> go.Figure:
    """Reward, words and KL of the answers (evaluation.compare's ScoredAnswer) before and after."""
    fig = figure(["reward of an answer", "words in an answer", "KL of an answer, nats"])
    for name, answers, color in (("π_SFT", sft, SFT), ("π_RLHF", ppo, RLHF)):
        rewards = [answer.reward for answer in answers]
        words = [answer.words for answer in answers]
        fig.add_trace(heap(name, rewards, color, legendgroup=name), 1, 1)
        one_word = {"legendgroup": name, "showlegend": False, "xbins": {"size": 1}}
        fig.add_trace(heap(name, words, color, **one_word), 1, 2)
    fig.add_trace(heap("π_RLHF", [answer.kl for answer in ppo], RLHF, showlegend=False), 1, 3)
    return fig.update_layout(barmode="overlay")


def rubric_bars(results: dict) -> go.Figure:
    """The rubric's parts, refusals and diversity; from results named eval.<name>_{sft,ppo}."""
    names = ["helpfulness", "harmlessness", "honesty", "brevity", "form"]
    names += ["refusal_harmful", "refusal_benign", "distinct2"]
    fig = figure(["mean on held-out prompts"], height=320)
    for label, policy, color in (("π_SFT", "sft", SFT), ("π_RLHF", "ppo", RLHF)):
        fig.add_bar(
            x=[name.replace("_", "<br>") for name in names],
            y=[results[f"eval.{name}_{policy}"] for name in names],
            name=label,
            marker_color=color,
            texttemplate="%{y:.2f}",
            textposition="outside",
        )
    return fig.update_yaxes(range=[0, 1.2], tickvals=[0, 0.2, 0.4, 0.6, 0.8, 1])


def gain_by_prompt(comparisons: list) -> go.Figure:
    """Gold score before and after for each of evaluation.compare's Comparisons; hover to read."""
    title = "gold score of each prompt's answer: above the line, π_RLHF is better"
    fig = figure([title], height=420).update_layout(margin_b=120)
    rng = np.random.default_rng(0)
    for number, category in enumerate(sorted({pair.prompt.category for pair in comparisons})):
        members = [pair for pair in comparisons if pair.prompt.category == category]
        gold = np.array([(pair.sft.gold, pair.ppo.gold) for pair in members])
        gold += rng.normal(0, 0.03, gold.shape)  # tells apart points that are alike
        fig.add_scatter(
            x=gold[:, 0],
            y=gold[:, 1],
            mode="markers",
            name=escape(category),
            text=[hover(pair.prompt.text) for pair in members],
            hoverinfo="text",
            marker={
                "color": COLORS[number % len(COLORS)],
                "symbol": SYMBOLS[number // len(COLORS) % len(SYMBOLS)],
                "size": 6,
                "opacity": 0.8,
            },
        )
    lowest = min(min(pair.sft.gold, pair.ppo.gold) for pair in comparisons)
    fig.add_trace(dotted(lowest, 5))
    return fig.update_layout(xaxis_title_text="π_SFT", yaxis_title_text="π_RLHF")
