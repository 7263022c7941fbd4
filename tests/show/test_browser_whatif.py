"""The what-if figure: its slider works in a browser without network, and on a phone."""

import json
import re
from pathlib import Path

import plotly.io as pio
import pytest
from browser import OUTSIDE
from plotly.offline import get_plotlyjs

from rlhf_utils.show import notebook
from rlhf_utils.show.whatif import figure

PAGE = Path(__file__).parents[2] / "rlhf_utils/show/page.js"


def row(number: int, gold: bool = True, **columns) -> dict:
    """A row of which every number tells which one it is."""
    found = {"kl": number / 4, "ess": 64 / 2**number, "trusted": number < 4, "reward": number / 4}
    found |= {"words": 17 - number, "declined_harmful": 0.7, "declined_lookalike": 0.3}
    found |= {"declined_other": 0.1} | ({"gold": 3.8 + number / 10} if gold else {})
    return found | columns


def data(gold: bool = True) -> dict:
    betas = [None, 5.0, 2.0, 1.0, 0.5, 0.25, 0.1]
    best = [row(power, gold, n=2**power) for power in range(7)]
    return {
        "answers": 64,
        "tilted": [row(n, gold, beta=beta) for n, beta in enumerate(betas)],
        "best_of": {"reward": best, "gold": best} if gold else {"reward": best},
    }


def open_page(chromium, fig, width: int, script: str = ""):
    """The figure in a page that may not load anything; what it asked for is in `page.asked`."""
    page = chromium.new_page(viewport={"width": width, "height": 800})
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.asked.append(str(error)))
    drawn = pio.to_html(fig, {"responsive": True}, full_html=False, include_plotlyjs="inline")
    page.set_content(f"<!doctype html><body style='margin:0'>{drawn}<script>{script}</script>")
    return page


def slide(page, share: float) -> None:
    """Clicks on the slider, so far along it."""
    box = page.locator(".slider-rail-touch-rect").bounding_box()
    page.mouse.click(box["x"] + box["width"] * share, box["y"] + box["height"] / 2)


@pytest.mark.parametrize("width", [960, 700])
def test_a_browser_moves_all_markers_and_says_their_numbers(chromium, width):
    page = open_page(chromium, figure(data()), width)
    told = page.locator(".gtitle")
    assert "KL 0.75 nats · reward +0.75 · gold 4.10" in told.text_content(), "the last one trusted"
    assert "too few" not in told.text_content()
    slide(page, 0.99)
    page.wait_for_function("document.querySelector('.gtitle').textContent.includes('KL 1.50')")
    assert "1 of 64 answers count: too few" in told.text_content()
    markers = page.evaluate(
        """() => document.querySelector('.plotly-graph-div').data.slice(-3)
            .map(trace => [trace.x, trace.y])"""
    )
    assert markers == [
        [[1.5], [1.5]],
        [[1.5], [pytest.approx(4.4)]],
        [[1.5] * 3, [0.7, 0.3, 0.1]],
    ]
    slide(page, 0.01)
    page.wait_for_function("document.querySelector('.gtitle').textContent.includes('KL 0.00')")
    assert "β = ∞" in page.locator(".slider-container").text_content()
    assert page.locator(".plotly-graph-div").evaluate(OUTSIDE) == []
    assert page.asked == []
    page.close()


def test_a_browser_as_small_as_a_phone_shows_panels_below_each_other(chromium):
    """By the report's own script; the slider still works, and covers nothing."""
    script = PAGE.read_text(encoding="utf-8")
    stack = re.search(r"function stack\(plot\) \{.*?\n\}\n?", script, re.DOTALL).group()
    start = f"{stack} const plot = document.querySelector('.plotly-graph-div');"
    start += "plot.style.height = 'auto'; stack(plot);"  # it has no height of its own there
    page = open_page(chromium, figure(data()), 380, f"onload = () => {{ {start} }}")
    page.wait_for_function("document.querySelector('.plotly-graph-div').layout.height > 900")
    plot = page.locator(".plotly-graph-div")
    boxes = [panel.bounding_box() for panel in plot.locator(".bglayer .bg").all()] or [
        panel.bounding_box() for panel in plot.locator(".gridlayer > g").all()
    ]
    assert len(boxes) == 3 and len({round(box["x"]) for box in boxes}) == 1, boxes
    assert all(box["height"] > 120 for box in boxes), boxes
    slider = page.locator(".slider-container").bounding_box()
    numbers = page.locator(".gtitle").bounding_box()
    assert numbers["y"] + numbers["height"] <= slider["y"] + 1
    assert slider["y"] + slider["height"] <= boxes[0]["y"] + 1
    slide(page, 0.99)
    page.wait_for_function("document.querySelector('.gtitle').textContent.includes('KL 1.50')")
    assert plot.evaluate(OUTSIDE) == [] and page.asked == []
    page.close()


def test_a_browser_keeps_the_figure_where_its_output_has_no_height(chromium, monkeypatch):
    """As in JupyterLab, which fits a figure to its cell's width, and then forgets its height."""
    shown = []
    monkeypatch.setattr(notebook, "display", lambda bundle, raw: shown.append(bundle))
    notebook.figure(figure(data()), static=False)
    drawn = json.dumps(shown[0]["application/vnd.plotly.v1+json"])
    page = chromium.new_page(viewport={"width": 960, "height": 800})
    page.set_content(
        f"<!doctype html><div id=cell style='height:9px'></div><script>{get_plotlyjs()}</script>"
    )
    page.evaluate(
        f"""async () => {{
            const cell = document.getElementById('cell'), drawn = {drawn};
            await Plotly.newPlot(cell, drawn.data, drawn.layout, drawn.config);
            cell.style.height = 'auto';
            delete cell.layout.height;
        }}"""
    )
    before = page.locator("#cell").bounding_box()
    slide(page, 0.99)
    page.wait_for_function("document.querySelector('.gtitle').textContent.includes('KL 1.50')")
    assert page.locator("#cell").bounding_box() == before and before["height"] > 400
    page.close()


def test_where_nothing_is_trusted_or_gold_is_missing_it_is_drawn_all_the_same():
    few = data(gold=False)
    few["tilted"] = [row | {"trusted": False} for row in few["tilted"]]
    fig = figure(few)
    assert [title.text for title in fig.layout.annotations] == [
        "reward",
        "declined, by kind of prompt",
    ]
    assert "gold" not in fig.layout.title.text and fig.layout.sliders[0].active == 0
    assert len(fig.layout.sliders[0].steps) == 7
    named = [trace.name for trace in fig.data if trace.showlegend]
    assert len(named) == len(set(named)), "each told once"


def test_what_too_few_answers_stand_behind_is_grey():
    fig = figure(data())
    curves = [trace for trace in fig.data if trace.mode == "lines"]
    sure, unsure = curves[:2]
    assert list(sure.y) == [0, 0.25, 0.5, 0.75] and list(unsure.y) == [0.75, 1, 1.25, 1.5]
    assert unsure.line.dash == "dot" and unsure.line.color != sure.line.color
    best = next(trace for trace in fig.data if trace.name == "best of n by gold")
    assert len(set(best.marker.color[:3])) == 1 and best.marker.color[3] != best.marker.color[0]
