"""The panel of a run of PPO, live or afterwards: twelve pictures from metrics.jsonl's rows alone.

Long runs are drawn as the means of at most 150 bins of updates, with the least and the greatest of
each bin behind, so that 5,000 updates are as quick to draw as a hundred.
"""

import copy
import functools

import numpy as np
import plotly.graph_objects as go

from .figures import DECLINED
from .template import (
    BLUE,
    COIN,
    FAINT,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    TEXT,
    escape,
    figure,
    hover,
)

BINS = 150  # most points of a curve
SECTIONS = ("What it earns", "How it answers", "How far it moves", "How it learns, and how fast")
FROM_ZERO = {"rangemode": "tozero"}
PARTS = {"range": [-0.03, 1.05], "tick0": 0, "dtick": 0.25, "tickformat": ".0%"}
PATH, KL, TIME = 3, 7, 12  # panels that are no curves over the episodes, and that of the target
PLAIN = {"showarrow": False}
# title, axis, and the curves: name, colour, key; mark and dash are by their order
PANELS = (
    ("reward", {}, [("reward", BLUE, "objective/scores")]),
    ("gold score", {}, [("gold", GREEN, "answers/gold")]),
    ("reward against KL", {}, []),
    (
        "shares of answers",
        PARTS,
        [
            ("filler", PURPLE, "answers/filler"),
            ("ended", GREY, "answers/ended"),
            ("distinct pairs", GREEN, "answers/distinct2"),
        ],
    ),
    (
        "declined, by kind of prompt",
        PARTS,
        [(name, color, key) for name, color, _, _, key in DECLINED],
    ),
    ("words an answer", FROM_ZERO, [("words", GREY, "answers/words")]),
    (
        "KL to π_SFT, nats an answer",
        FROM_ZERO,
        [("all tokens", RED, "objective/kl_full"), ("sampled", GREY, "objective/kl")],
    ),
    ("entropy, nats an answer", FROM_ZERO, [("entropy", GREEN, "objective/entropy")]),
    (
        "how far an update goes",
        FROM_ZERO,
        [
            ("ratios clipped", PURPLE, "policy/clipfrac_avg"),
            ("KL, nats a token", RED, "policy/approxkl_avg"),
        ],
    ),
    ("loss of the critic", FROM_ZERO, [("loss", GREY, "loss/value_avg")]),
    (
        "variance the critic explains",
        {"tickformat": ".0%"},
        [("explained", BLUE, "val/explained_variance")],
    ),
    (
        "seconds an update",
        FROM_ZERO,
        [
            ("sampling", BLUE, "time/sample_s"),
            ("scoring", ORANGE, "time/score_s"),
            ("learning", GREY, "time/update_s"),
        ],
    ),
)
STYLES = (("●━", "circle", "solid"), ("◆╍", "diamond", "dash"), ("■┅", "square", "dot"))
AREAS = (("▨", "/"), ("░", "."), ("■", ""))  # of time
KEYS = [curve[-1] for _, _, curves in PANELS for curve in curves]
SPREADS = {"objective/scores": "objective/scores_std", "answers/gold": "answers/gold_std"}


def columns(rows: list[dict], most: int = BINS) -> dict[str, np.ndarray]:
    """Key → its values over at most `most` bins of updates, NaN where unknown.

    The first and the last update have bins of their own. "episode" is a bin's last; of other keys
    there are the mean, and as (key, "low") and (key, "high") the extremes. "answers/ended" is the
    share of answers with an end of their own.
    """
    keys = ["episode", "val/num_eos_tokens", *KEYS, *SPREADS.values()]
    table = np.array([[row.get(key) for key in keys] for row in rows], float)
    table = table.reshape(len(rows), len(keys))
    table[~np.isfinite(table)] = np.nan
    if rows:
        batch = rows[0]["episode"] / rows[0].get("update", 1)
        table[:, keys.index("answers/ended")] = table[:, 1] / batch
    inner = np.array_split(np.arange(1, len(rows) - 1), max(min(most, len(rows)) - 2, 1))
    parts = [[0], *inner, [len(rows) - 1]] if len(rows) > 1 else [[0]] * len(rows)
    bins = [table[part] for part in parts if len(part)]
    found = {"episode": np.array([part[-1, 0] for part in bins])}
    for number, key in enumerate(keys[1:], 1):
        known = [part[:, number][np.isfinite(part[:, number])] for part in bins]
        for name, of in ((key, np.mean), ((key, "low"), np.min), ((key, "high"), np.max)):
            found[name] = np.array([of(values) if len(values) else np.nan for values in known])
    return found


def live_panel(
    rows: list[dict], title: str = "", band: dict | None = None, target: float = 0.0
) -> go.Figure:
    """Twelve panels from rows of metrics.jsonl: how the run earns, answers, moves and learns.

    title: a line above, such as how far the run is. band: what healthy runs looked like, of
    lab/healthy.py: "episodes" and "ranges" (key → [lows, highs]). target: the KL that β is steered
    to, in nats; 0 for none.
    """
    layout, data, traces = copy.deepcopy(_frame()), columns(rows), []
    notes = layout["annotations"]
    for panel, (_, _, curves) in enumerate(PANELS, 1):
        for place, curve in enumerate(curves):  # one without points gives its panel axes
            time = panel == TIME
            drawn = _area(place, curve, data) if time else _curve(place, curve, data, band)
            traces += [trace | _axes(panel, "axis") for trace in drawn]
        if rows and curves and not any(np.isfinite(data[curve[-1]]).any() for curve in curves):
            notes.append(PLAIN | _corner(panel, 0.5, 0.5) | {"text": "not measured here"})
    path, ends = _path(data)
    level, name = _target(target)
    lines, labels = _interventions(rows)
    notes += [*ends, *name, *labels, _foot(len(rows), bool(band))]
    layout["shapes"] = [*level, *lines]
    layout["title"]["text"] = title
    episodes = [*data["episode"][-1:], *(band["episodes"][-1:] if band else [])]
    layout["xaxis"]["range"] = [0, 1.03 * max(episodes, default=1)]
    # a critic far worse than the mean would hide how one gets better than it
    worst = np.nanmin(data["val/explained_variance"], initial=0)
    layout["yaxis11"]["range"] = [max(worst - 0.05, -1), 1]
    return go.Figure([*traces, path], layout)


@functools.cache
def _frame() -> dict:
    """The layout of a run that has not begun: plotly takes long to make it."""
    names = [name for name, _, _ in PANELS]
    fig = figure(names, rows=4, height=250, head=" ", bottom=104, between=124)
    fig.update_layout(margin_t=fig.layout.margin.t + 24)
    for panel, (_, axis, curves) in enumerate(PANELS, 1):
        layout = {f"yaxis{panel}": axis | {"hoverformat": ".3~g"}}
        if panel != PATH:  # who looks closer does so in all panels
            layout |= {f"xaxis{panel}": {"matches": "x"}}
        fig.update_layout(layout)
        if len(curves) > 1:
            fig.add_annotation(_key(panel, curves))
    for row, section in enumerate(SECTIONS):
        corner = _corner(3 * row + 1, 0, 1) | {"yshift": 26, "xanchor": "left", "yanchor": "bottom"}
        fig.add_annotation(PLAIN | corner, text=f"<b>{section}</b>", font_size=13)
    fig.update_xaxes(title_text="episodes", row=4)
    fig.update_xaxes(title_text="KL", title_standoff=0, rangemode="tozero", row=1, col=PATH)
    return fig.to_plotly_json()["layout"]


def _axes(panel: int, name: str = "ref", end: str = "") -> dict:
    number = panel if panel > 1 else ""
    return {f"x{name}": f"x{number}{end}", f"y{name}": f"y{number}{end}"}


def _corner(panel: int, x: float, y: float) -> dict:
    """A place in a panel: from 0 at its left and bottom to 1."""
    return {"x": x, "y": y} | _axes(panel, end=" domain")


def _key(panel: int, curves: list[tuple]) -> dict:
    """Names of curves below their axis: a legend of plotly's would be wider than a panel."""
    told = []
    for (mark, *_), (name, color, _) in zip(AREAS if panel == TIME else STYLES, curves):
        told.append(f'<span style="color:{color}">{mark}</span> {name}')
    below = {"xanchor": "left", "yanchor": "top", "yshift": -38 if panel == TIME else -22}
    words = {"text": "\u2002".join(told), "font": {"size": 11}}
    return PLAIN | _corner(panel, 0, 0) | below | words


def _lists(x, *values) -> list[list]:
    """The points that are known, to four digits, which is what a screen shows."""
    known = np.isfinite(values).all(0)
    short = [[float(f"{value:.4g}") for value in each[known]] for each in values]
    return [np.asarray(x)[known].astype(int).tolist(), *short]


def _curve(place: int, curve: tuple, data: dict, band: dict | None) -> list[dict]:
    """The healthy range, the extremes, the spread, the points, and the curve."""
    (name, color, key), (_, symbol, dash) = curve, STYLES[place]
    line = {"color": color, "width": 2, "dash": dash}
    drawn, behind = [], {"mode": "lines", "hoverinfo": "skip"}
    if band and key in band["ranges"]:
        drawn.append(behind | _between(band["episodes"], *band["ranges"][key], color, 0.16))
    extremes = data[(key, "low")], data[(key, "high")]
    x, means, lows, highs = _lists(data["episode"], data[key], *extremes)
    if lows != highs:  # bins of several updates
        drawn.append(behind | _between(x, lows, highs, color, 0.25))
    if key in SPREADS:
        mean, spread = data[key], data[SPREADS[key]]
        x_spread, low, high = _lists(data["episode"], mean - spread, mean + spread)
        thin = {"color": color, "width": 1, "dash": "dot"}
        both = {"x": [*x_spread, None, *x_spread], "y": [*low, None, *high]}
        drawn.append(behind | both | {"line": thin})
    points = {"x": x, "y": means, "marker": {"color": color, "size": 6, "symbol": symbol}}
    if 20 < len(x) < BINS:  # noisy: points, and the mean of seven
        drawn.append(points | {"mode": "markers", "opacity": 0.45, "name": name})
        drawn[-1]["marker"] = points["marker"] | {"size": 4}
        smooth = [np.mean(means[max(i - 3, 0) : i + 4]) for i in range(len(means))]
        points["y"] = [float(f"{value:.4g}") for value in smooth]
    mode = "lines+markers" if len(x) <= 20 else "lines"
    return [*drawn, points | {"name": name, "mode": mode, "line": line}]


def _between(x, lows, highs, color: str, opacity: float) -> dict:
    """An area without an edge."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    area = {"fill": "toself", "fillcolor": f"rgba({red},{green},{blue},{opacity})"}
    return area | {"x": [*x, *x[::-1]], "y": [*lows, *highs[::-1]], "line": {"width": 0}}


def _area(place: int, curve: tuple, data: dict) -> list[dict]:
    """One of the areas that are stacked on each other."""
    name, color, key = curve
    x, means = _lists(data["episode"], data[key])
    pattern = {"shape": AREAS[place][1], "size": 5, "solidity": 0.25}
    area = {"mode": "lines", "line": {"color": color}, "stackgroup": "time", "fillpattern": pattern}
    return [{"x": x, "y": means, "name": name} | area]


def _path(data: dict) -> tuple[dict, list[dict]]:
    """Reward against KL, from orange at first to blue; and the names of both ends."""
    _, kl, reward = _lists(data["episode"], data["objective/kl_full"], data["objective/scores"])
    scale = {"color": list(range(len(kl))), "colorscale": [[0, ORANGE], [1, BLUE]], "size": 6}
    path = {"x": kl, "y": reward, "mode": "lines+markers", "marker": scale}
    path |= {"line": {"color": FAINT, "width": 1}} | _axes(PATH, "axis")
    ends = []
    for text, end, across, down in (("first", 0, 30, 0), ("last", -1, -4, 34)):
        if len(kl) > -end:  # one point is the first alone
            arrow = {"ax": across, "ay": down, "arrowcolor": TEXT, "arrowhead": 0}
            ends.append({"x": kl[end], "y": reward[end], "text": text} | arrow | _axes(PATH))
    return path, ends


def _target(target: float) -> tuple[list[dict], list[dict]]:
    """A dashed line across the panel of KL, with its name."""
    if not target:
        return [], []
    across = {"xref": f"x{KL} domain", "yref": f"y{KL}"}
    level = across | {"x0": 0, "x1": 1, "y0": target, "y1": target, "line": COIN}
    name = {"x": 0, "y": target, "text": "target", "xanchor": "left", "yanchor": "bottom"}
    return [level], [PLAIN | across | name]


def _interventions(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """Dashed lines across the curves where somebody steered; what was done, at the reward's."""
    together, lines, labels = [], [], []
    near = rows[-1]["episode"] / 30 if rows else 0
    for row in rows:
        if told := row.get("interventions"):
            if together and row["episode"] - together[-1][0] < near:
                together[-1][1].extend(told)  # too near to be told apart
            else:
                together.append((row["episode"], list(told)))
    for episode, told in together:
        at = {"x0": episode, "x1": episode, "y0": 0, "y1": 1, "line": COIN, "layer": "below"}
        for panel in range(1, len(PANELS) + 1):
            if panel != PATH:
                axes = _axes(panel)
                lines.append(at | axes | {"yref": f"{axes['yref']} domain"})
        text = escape(told[0][:24]) if len(told) == 1 else f"{len(told)} interventions"
        label = {"x": episode, "y": 1, "xref": "x", "yref": "y domain", "text": text}
        label |= {"textangle": -90, "xanchor": "right", "yanchor": "top", "font": {"size": 10}}
        label["hovertext"] = "<br>".join(hover(each) for each in told[:5])
        labels.append(PLAIN | label)
    return lines, labels


def _foot(updates: int, healthy: bool) -> dict:
    """A line below all panels that says what areas, points and lines are."""
    told = ["dotted above and below: one standard deviation of the answers"]
    if healthy:
        told.insert(0, "shaded: the range of three healthy demo runs")
    if updates > BINS:
        told.append("pale: from least to greatest of some updates, around their mean")
    elif updates > 20:
        told.append("points: updates, and their moving mean")
    place = {"x": 0, "y": 0, "xref": "paper", "yref": "paper", "yshift": -66, "yanchor": "top"}
    return PLAIN | place | {"xanchor": "left", "text": "; ".join(told), "font": {"size": 11}}
