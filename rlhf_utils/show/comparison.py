"""Figures of the evaluation: what PPO changed, by both judges and prompt by prompt."""

import numpy as np
import plotly.graph_objects as go

from .template import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    NAMES,
    ORANGE,
    PURPLE,
    RED,
    RLHF,
    SFT,
    SHARES,
    bins,
    dotted,
    escape,
    figure,
    hover,
    known,
    legend_under,
    line,
    outline,
)
from .text import JUDGES, WORDS, is_number, value_text, words

# category → name, colour, shape; all others are ordinary
GROUPS = {
    "harmful": ("harmful", RED, "circle"),
    "benign_lookalike": ("harmless look-alikes", GREEN, "diamond"),
    "unanswerable": ("unanswerable", PURPLE, "x"),
}
ORDINARY = ("ordinary", BLUE, "square-open")
# what of the results stands beside π_SFT's and π_RLHF's
SCALE = (
    ("random weights", "gold_random", GREY, "x"),
    ("base model", "gold_base", GREY, "square"),
    ("π_SFT", "gold_sft", SFT, "diamond"),
    ("π_RLHF", "gold_ppo", RLHF, "circle"),
    ("best of four", "gold_best_of_4", GREEN, "star"),
)
COMPARED = ("refusal_harmful", "refusal_benign", "refusal_ordinary", "filler", "directness")
COMPARED += ("helpfulness", "harmlessness", "honesty", "brevity", "form", "distinct2")

CURVES = (  # of runs over each other: title, key of metrics.jsonl
    ("mean reward", "objective/scores"),
    ("gold score", "answers/gold"),
    ("KL to π_SFT, nats an answer", "objective/kl_full"),
    ("harmful prompts declined", "answers/declined_harmful"),
    ("look-alikes declined", "answers/declined_lookalike"),
    ("other prompts declined", "answers/declined_other"),
    ("answers with filler", "answers/filler"),
    ("entropy, nats an answer", "objective/entropy"),
    ("words an answer", "answers/words"),
)
RUN_LOOKS = ((BLUE, "solid"), (RED, "dash"), (GREEN, "dot"), (PURPLE, "dashdot"))
RUN_LOOKS += ((GREY, "solid"), (ORANGE, "dash"))
MOST = 400  # points of a run's curve


def two_judges(results: dict) -> go.Figure:
    """Wins by each judge that there is, and where both policies stand in gold, if it is known."""
    points = [(name, results.get(f"eval.{key}"), *look) for name, key, *look in SCALE]
    points = [point for point in points if point[1] is not None]
    judges = [(f"by {who}", end) for end, who in JUDGES.items() if f"eval.wins{end}" in results]
    titles = ["π_RLHF against π_SFT: " + ("two judges" if len(judges) == 2 else "who wins")]
    if points:
        titles.append("gold score: what there was to win")
    fig = figure(titles, height=150 + 60 * len(judges), bottom=64, gap=0.36)
    legend = legend_under(fig, 1, below=28)
    kinds = (("wins", BLUE), ("ties", "#a9aeb6"), ("losses", RED))
    for kind, color in kinds:
        fig.add_bar(
            y=[name for name, _ in judges],
            x=[results[f"eval.{kind}{judge}"] for _, judge in judges],
            name=kind,
            orientation="h",
            width=0.34,
            marker_color=color,
            legend=legend,
            row=1,
            col=1,
        )
    for place, (name, judge) in enumerate(judges):
        shares = [f"{results[f'eval.{kind}{judge}']:.0%} {kind}" for kind, _ in kinds]
        fig.add_annotation(
            text=f"{name}<br>{', '.join(shares)}", align="left", x=0, y=place - 0.2, row=1, col=1,
            xanchor="left", yanchor="bottom", showarrow=False,
        )  # fmt: skip
    # room above the first bar for its words
    last = len(judges) - 0.7
    fig.update_yaxes(range=[last, -0.75], showticklabels=False, ticks="", row=1, col=1)
    fig.update_layout(barmode="stack", legend_traceorder="normal", xaxis=SHARES)
    return _scale(fig, points) if points else fig


def _scale(fig: go.Figure, points: list[tuple]) -> go.Figure:
    """Where others stand in gold, beside both policies."""
    fig.add_scatter(
        x=[value for _, value, _, _ in points],
        y=[name for name, _, _, _ in points],
        mode="markers+text",
        text=[f" {value:.2f}" for _, value, _, _ in points],
        textposition="middle left",
        marker={
            "color": [color for _, _, color, _ in points],
            "symbol": [symbol for _, _, _, symbol in points],
            "size": 12,
        },
        showlegend=False,
        row=1,
        col=2,
    )
    fig.update_yaxes(NAMES, autorange="reversed", showgrid=True, row=1, col=2)
    return fig.update_layout(xaxis2={"range": [0, 5.15], "tickvals": [0, 1, 2, 3, 4, 5]})


def distributions(sft: list, ppo: list) -> go.Figure:
    """Reward, words and KL of the answers (evaluation.compare's ScoredAnswer) before and after."""
    titles = ["reward of an answer", "words in an answer", "KL of an answer, nats"]
    fig = figure(titles, bottom=60)
    most = max(answer.words for answer in sft + ppo)
    rewards = bins([answer.reward for answer in sft + ppo])
    lengths = np.arange(most + 2) - 0.5
    legend = legend_under(fig, 1, below=28)
    for name, answers, color, fill in (("π_SFT", sft, SFT, "tozeroy"), ("π_RLHF", ppo, RLHF, None)):
        look = {"color": color, "fill": fill, "legend": legend}
        values = [answer.reward for answer in answers]
        fig.add_trace(outline(name, values, rewards, **look), 1, 1)
        values = [answer.words for answer in answers]
        fig.add_trace(outline(name, values, lengths, showlegend=False, **look), 1, 2)
    moved = [answer.kl for answer in ppo]
    fig.add_trace(outline("π_RLHF", moved, bins(moved), RLHF, showlegend=False), 1, 3)
    return fig.update_yaxes(tickformat=".0%", rangemode="tozero")


def rubric_bars(results: dict) -> go.Figure:
    """Refusals, filler, the rubric's parts, variety; from results named eval.<name>_{sft,ppo}."""
    names = [name for name in COMPARED if is_number(results.get(f"eval.{name}_sft"))]
    fig = figure(["on held-out prompts"], height=90 + 36 * len(names), bottom=60)
    legend = legend_under(fig, 1, below=28)
    for label, policy, color in (("π_SFT", "sft", FAINT), ("π_RLHF", "ppo", RLHF)):
        values = [results[f"eval.{name}_{policy}"] for name in names]
        fig.add_bar(
            y=[words(name) for name in names],
            x=values,
            name=label,
            orientation="h",
            marker={
                "color": color,
                "line": {"color": SFT if policy == "sft" else RLHF, "width": 1},
            },
            text=[value_text(value, WORDS[name][1]) for name, value in zip(names, values)],
            textposition="outside",
            textangle=0,
            cliponaxis=False,
            legend=legend,
        )
    fig.update_xaxes(range=[0, 1.08], tickvals=[0, 0.5, 1])
    fig.update_yaxes(NAMES, autorange="reversed")
    return fig.update_layout(bargap=0.25)


def gain_by_prompt(comparisons: list) -> go.Figure:
    """Gold (or reward) before and after for each of evaluation.compare's Comparisons.

    Hover to read the prompts.
    """
    judge = comparisons[0].judge
    name_of_score = "gold score" if judge == "gold" else "reward"
    title = "above the line, π_RLHF is better"
    fig = figure([title], height=440, bottom=76)
    scores = [getattr(answer, judge) for pair in comparisons for answer in (pair.sft, pair.ppo)]
    low, high = min(scores), 5 if judge == "gold" else max(scores)
    width = 0.008 * (5 if judge == "gold" else high - low)  # tells apart points that are alike
    rng = np.random.default_rng(0)
    legend = legend_under(fig, 1)
    for name, color, symbol in (ORDINARY, *GROUPS.values()):
        members = [
            pair for pair in comparisons if GROUPS.get(pair.prompt.category, ORDINARY)[0] == name
        ]
        if not members:
            continue
        points = np.array([[getattr(answer, judge) for answer in (p.sft, p.ppo)] for p in members])
        points = points - abs(rng.normal(0, width, (len(points), 1)))
        fig.add_scatter(
            x=points[:, 0],
            y=points[:, 1],
            mode="markers",
            name=f"{name} ({len(members)})",
            text=[hover(f"{words(pair.prompt.category)}: {pair.prompt.text}") for pair in members],
            hoverinfo="text",
            marker={"color": color, "symbol": symbol, "size": 7, "opacity": 0.75},
            legend=legend,
        )
    fig.add_trace(dotted(low, high))
    return fig.update_layout(
        xaxis_title_text=f"{name_of_score} of π_SFT", yaxis_title_text=f"{name_of_score} of π_RLHF"
    )


def curves(runs: dict[str, list[dict]]) -> go.Figure:
    """CURVES of all runs (name → rows of metrics.jsonl) over each other, in small panels.

    A triangle stands where somebody stepped in; hover to read what was done. A panel that no run
    has a number for is left out.
    """
    shown = [(title, key) for title, key in CURVES if any(known(r, key) for r in runs.values())]
    rows = -(-len(shown) // 3) or 1
    titles = [title for title, _ in shown] + [" "] * (3 * rows - len(shown))
    fig = figure(titles, rows=rows, height=230, bottom=80)
    legend = legend_under(fig, 3 * rows - 2)
    for place, (run, metrics) in enumerate(runs.items()):
        color, dash = RUN_LOOKS[place % len(RUN_LOOKS)]
        touched = [row for row in metrics if row.get("interventions")]
        thin = metrics[:: len(metrics) // MOST + 1]
        for panel, (_, key) in enumerate(shown):
            where = {"row": panel // 3 + 1, "col": panel % 3 + 1}
            look = {"dash": dash, "legend": legend, "legendgroup": run, "showlegend": panel == 0}
            curve = line(escape(run), thin, "episode", key, color, **look)
            fig.add_trace(curve.update(mode="lines"), **where)
            marks = known(touched, "episode", key)
            fig.add_scatter(
                x=[row["episode"] for row in marks],
                y=[row[key] for row in marks],
                text=[hover(f"{run}: " + "; ".join(map(str, r["interventions"]))) for r in marks],
                hoverinfo="text",
                mode="markers",
                marker={"symbol": "triangle-up", "size": 11, "color": color},
                showlegend=False,
                **where,
            )
            if key.startswith(("answers/declined", "answers/filler")):
                fig.update_yaxes(SHARES, **where)
    return fig.update_xaxes(title_text="episodes", row=rows)
