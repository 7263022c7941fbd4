"""Tables and figures in a notebook: escaped, live, with a picture where a browser can draw one."""

import base64
import contextlib
import html
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from rlhf_utils.show import figures, pictures
from rlhf_utils.show import notebook as show
from rlhf_utils.show.text import clock, marked, result_words, value_text, words

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
    assert ">1.5<" in results and ">0.50<" in results
    marks = show.table(frame, mark=lambda text: [(0, 1)]).data
    assert hostile not in marks and marks.count("<mark ") == 2  # texts only, not names of columns


def test_text_stands_left_and_numbers_right_where_styles_are_dropped():
    rows = {
        "name": ["a", "1"],
        "n": [1, float("nan")],
        "share": ["54%", "–"],
        "ci": ["0.1 to 0.2", ""],
    }
    text = show.table(pd.DataFrame(rows)).data
    sides = [cell.split("'")[1] for cell in text.split("<td ")[1:5]]
    assert sides == ["left", "right", "right", "right"]
    assert "<th align='left'" in text and "<th align='right'" in text


@pytest.mark.parametrize("hostile", HOSTILE)
def test_marks_go_around_the_spans(hostile):
    text = f"Sure! {hostile} Bye."
    shown = marked(text, [(len(text) - 4, len(text)), (0, 5), (3, 5)])
    parts = [part.split(">", 1)[1].split("</mark>")[0] for part in shown.split("<mark")[1:]]
    assert parts == ["Sure!", "Bye."] and html.escape(hostile) in shown and hostile not in shown
    assert marked(hostile, []) == html.escape(hostile)


def test_results_stand_before_and_after_and_the_others_are_folded():
    found = {"eval.gold_sft": 3.861, "eval.gold_ppo": 4.49, "eval.filler_sft": 0.62}
    found |= {"eval.filler_ppo": float("nan"), "eval.win_rate_vs_sft": 0.781, "eval.wins": 0.73}
    manifest = {"results": found, "wall_s": 90.0, "peak_memory_gb": 0.5}
    shown = show.results(manifest).data
    first, rest = shown.split("<details>")
    for text in ("gold score, of 5", "3.86", "4.49", "answers with filler", "62%", "–"):
        assert f">{text}<" in first
    for text in ("π_RLHF wins, by gold", "73%", "win rate by gold, ties half", "78%", "minutes"):
        assert f">{text}<" in rest and f">{text}<" not in first


def test_metrics_have_plain_words():
    assert words("benign_lookalike") == "harmless look-alikes"
    assert words("some_thing") == "some thing"
    assert result_words("eval.gold_sft") == "gold score, of 5, π_SFT"
    assert result_words("reward_model.accuracy_ci") == "accuracy on held-out pairs, 95% interval"


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
    picture = base64.b64decode(bundle["image/png"])
    assert picture.startswith(b"\x89PNG")
    assert picture[25] == 6  # red, green, blue and alpha: no white slab on a dark page


SLEEPER = """import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
time.sleep(60)
"""


def test_a_browser_that_hangs_costs_the_picture_and_is_killed(shown, monkeypatch, tmp_path):
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    monkeypatch.setattr(pictures, "__file__", str(tmp_path / "sleeper.py"))
    monkeypatch.setattr(pictures, "SECONDS", 1.0)
    monkeypatch.setattr(pictures.shutil, "which", lambda name: name)
    monkeypatch.setattr(show, "PAINTER", pictures.Painter())
    monkeypatch.setenv("MARK", str(tmp_path))
    show.figure(figures.sft_loss([]))
    assert len(shown) == 1 and "image/png" not in shown[0]
    assert marked_processes(tmp_path) == []


def marked_processes(mark) -> list[str]:
    """What still runs of that which was started with MARK in its environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and process.environ().get("MARK") == str(mark) and process.pid != os.getpid():
                found.append(process.name())
    return found


DRAWS = """import plotly.graph_objects as go
from rlhf_utils.show.notebook import PAINTER
print("begins", flush=True)
for each in range(100):
    assert PAINTER.draw(go.Figure(go.Scatter(y=[1, 2, 3])).to_json())
    print("drawn", flush=True)
"""


@pytest.mark.parametrize("first", ["begins", "drawn"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_browser_outlives_its_session(tmp_path, first, number):
    """Interrupted as the browser starts or while it draws, or killed."""
    from browser import chromium_or_skip

    chromium_or_skip()
    root = str(Path(show.__file__).parents[2])
    marked = os.environ | {"MARK": str(tmp_path), "PYTHONPATH": root}
    session = subprocess.Popen(
        [sys.executable, "-c", DRAWS], env=marked, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while session.stdout.readline().decode().strip() != first:
        assert session.poll() is None, session.stderr.read()
    time.sleep(0.3)
    assert first == "begins" or any("chrom" in name for name in marked_processes(tmp_path))
    session.send_signal(number)
    session.communicate(timeout=10)
    until = time.time() + 5
    while marked_processes(tmp_path) and time.time() < until:
        time.sleep(0.1)
    assert marked_processes(tmp_path) == []


def test_a_figure_without_a_browser_has_no_picture(shown, monkeypatch):
    monkeypatch.setattr(pictures.shutil, "which", lambda name: None)
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
        "step 4 of 10",
        "step 6 of 10 · about 4 s left",
        "step 8 of 10 · about 2 s left",
        "step 10 of 10",
    ]
    assert len(shown) == 1  # each took the place of the one before


def test_a_figure_that_is_slow_to_draw_takes_less_than_three_per_cent_of_the_time(
    shown, monkeypatch
):
    now, drawing = [100.0], [0.0]
    monkeypatch.setattr(show.time, "time", lambda: now[0])

    def draw(rows, title):
        now[0], drawing[0] = now[0] + 0.5, drawing[0] + 0.5
        return figures.sft_loss(rows, title)

    live = show.LivePlot(draw, 1000, "step")
    for done in range(1, 1000):
        now[0] += 0.1
        live([], done)
    assert drawing[0] > 2 and drawing[0] / (now[0] - 100) < 0.03
