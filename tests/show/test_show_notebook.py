"""Tables and figures in a notebook: escaped, live, with a picture where a browser can draw one."""

import base64
import html

import pandas as pd
import pytest

from rlhf_utils.show import figures
from rlhf_utils.show import notebook as show
from rlhf_utils.show.text import clock, value_text

HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>']


@pytest.mark.parametrize("hostile", HOSTILE)
def test_tables_escape(hostile):
    """Names of columns come from a user's file, too."""
    frame = pd.DataFrame({f"c {hostile}": [f"r {hostile}", "x"], "n": [0.123, float("nan")]})
    text = show.table(frame).data
    assert hostile not in text and text.count(html.escape(hostile)) == 2
    assert ">0.12<" in text and ">–<" in text
    manifest = {"results": {"some": hostile}, "wall_s": 90.0, "peak_memory_gb": 0.5}
    results = show.results(manifest).data
    assert hostile not in results and html.escape(hostile) in results
    assert ">1.5<" in results and ">0.5<" in results


def test_numbers_and_times_as_text():
    assert value_text([0.123456, 2.0]) == "0.1235 to 2" and value_text(7) == "7"
    assert clock(45) == "45 s" and clock(89.6) == "90 s" and clock(180) == "3 min"
    assert clock(80 * 60) == "80 min" and clock(100 * 60) == "1 h 40 min"


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, instead of the notebook; clearing starts again."""
    bundles = []
    monkeypatch.setattr(show, "display", lambda bundle, raw: bundles.append(bundle))
    monkeypatch.setattr(show, "clear_output", lambda wait: bundles.clear())
    return bundles


def test_a_figure_is_plotly_with_a_picture_from_a_browser(shown):
    from browser import chromium_or_skip

    chromium_or_skip()
    show.figure(figures.sft_loss([{"loss": 0.7, "epoch": 1}]))
    (bundle,) = shown
    assert bundle["application/vnd.plotly.v1+json"]["data"][0]["y"] == [0.7]
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")


def test_a_figure_without_a_browser_has_no_picture(shown, monkeypatch):
    monkeypatch.setattr(show.shutil, "which", lambda name: None)
    show.figure(figures.sft_loss([]))
    assert len(shown) == 1 and "image/png" not in shown[0]


def test_a_loop_is_redrawn_every_two_seconds_and_at_its_end(shown, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(show.time, "time", lambda: now[0])
    titles = []

    def draw(rows, title):
        titles.append(title)
        return figures.sft_loss(rows, title)

    live = show.LivePlot(draw, 10, "step")
    for done in range(4, 11):  # resumed: three steps were done before
        now[0] += 1
        live([], done)
    assert titles == [
        "step 4 of 10 · about 6 s left",
        "step 6 of 10 · about 4 s left",
        "step 8 of 10 · about 2 s left",
        "step 10 of 10",
    ]
    assert len(shown) == 1  # each took the place of the one before
