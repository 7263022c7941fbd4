"""The panel of PPO: what is drawn is what the rows say, however many there are."""

import time

import numpy as np
import pytest
from test_figures import HOSTILE

from rlhf_utils.show import panel


def run(updates: int, **last) -> list[dict]:
    """Rows of metrics.jsonl in which every key of the panel is known."""
    rng, rows = np.random.default_rng(0), []
    for n in range(1, updates + 1):
        row = {"update": n, "episode": 8 * n, "val/num_eos_tokens": 6}
        row |= {key: float(rng.random()) for key in panel.KEYS}
        rows.append(row | dict.fromkeys(panel.SPREADS.values(), 0.5))
    rows[-1] |= last
    return rows


def drawn(fig, name: str) -> list:
    """The traces in the panel of the curve `name`."""
    (axis,) = {trace.yaxis for trace in fig.data if trace.name == name}
    return [trace for trace in fig.data if trace.yaxis == axis]


def texts(fig) -> list[str]:
    return [note.text for note in fig.layout.annotations]


def test_long_runs_are_means_of_bins_with_the_first_and_last_update_alone():
    rows = [{"update": n, "episode": 8 * n, "answers/words": n * n} for n in range(1, 11)]
    rows[4]["answers/words"] = None  # 25
    found = panel.columns(rows, most=4)
    assert list(found["episode"]) == [8, 40, 72, 80]
    assert list(found["answers/words"]) == [1, (4 + 9 + 16) / 3, (36 + 49 + 64 + 81) / 4, 100]
    assert list(found["answers/words", "low"]) == [1, 4, 36, 100]
    assert list(found["answers/words", "high"]) == [1, 16, 81, 100]
    assert np.isnan(found["answers/gold"]).all()
    short = panel.columns(rows)
    assert len(short["episode"]) == 10 and np.isnan(short["answers/words"][4])


@pytest.mark.parametrize("updates", [0, 1, 2, 3])
def test_a_run_that_has_hardly_begun_has_its_panel(updates):
    fig = panel.live_panel(run(updates) if updates else [], "update 0 of 9")
    assert fig.layout.title.text == "update 0 of 9"
    assert len(drawn(fig, "harmful")[0].x) == updates
    assert [len(trace.x) for trace in fig.data if trace.xaxis == "x3"] == [updates]
    assert "not measured here" not in texts(fig)


def test_answers_that_ended_are_a_share_of_the_batch():
    (ended,) = (trace for trace in panel.live_panel(run(2)).data if trace.name == "ended")
    assert list(ended.y) == [0.75, 0.75]


def test_spread_is_one_standard_deviation_about_the_mean():
    rows = run(2)
    rows[0] |= {"objective/scores": 1.0, "objective/scores_std": 0.25}
    rows[1] |= {"objective/scores": 2.0, "objective/scores_std": 1.0}
    spread, curve = drawn(panel.live_panel(rows), "reward")
    assert list(curve.y) == [1, 2] and curve.line.dash == "solid"
    assert list(spread.y) == [0.75, 1, None, 1.25, 3] and spread.line.dash == "dot"


def test_what_is_unknown_is_said_and_leaves_no_curve():
    rows = run(3)
    for row in rows:
        row |= {"answers/gold": None, "val/explained_variance": float("nan")}
    fig = panel.live_panel(rows)
    said = [note for note in fig.layout.annotations if note.text == "not measured here"]
    assert [note.xref for note in said] == ["x2 domain", "x11 domain"]
    assert all(len(trace.y) == 0 for trace in fig.data if trace.xaxis == "x11")


def test_the_healthy_range_lies_behind_its_curve_alone():
    band = {"episodes": [8, 16, 24], "ranges": {"answers/filler": [[0.1, 0.2, 0.3], [0.4] * 3]}}
    plain, fig = panel.live_panel(run(2)), panel.live_panel(run(2), band=band)
    assert len(fig.data) == len(plain.data) + 1
    area = drawn(fig, "filler")[0]
    assert list(area.x) == [8, 16, 24, 24, 16, 8]
    assert list(area.y) == [0.1, 0.2, 0.3, 0.4, 0.4, 0.4] and area.fill == "toself"
    assert fig.layout.xaxis.range[1] > 24 > plain.layout.xaxis.range[1]
    words = "the range of three healthy demo runs"
    assert any(words in text for text in texts(fig))
    assert not any(words in text for text in texts(plain))


def test_curves_of_one_panel_differ_by_more_than_their_colours():
    for _, _, curves in panel.PANELS:
        assert len({color for _, color, _ in curves}) == len(curves)
    lines = [trace for trace in panel.live_panel(run(3)).data if trace.name and not trace.fill]
    for axis in {trace.xaxis for trace in lines}:
        found = [trace for trace in lines if trace.xaxis == axis and not trace.stackgroup]
        for look in (lambda trace: trace.line.dash, lambda trace: trace.marker.symbol):
            assert len({look(trace) for trace in found}) == len(found)
    marks = [text for text in texts(panel.live_panel([])) if "look-alikes" in text]
    assert len(marks) == 1 and all(mark in marks[0] for mark in "●◆■")


def test_the_target_of_kl_is_a_line_in_its_panel():
    def levels(fig):
        return [(shape.yref, shape.y0) for shape in fig.layout.shapes]

    assert levels(panel.live_panel(run(2), target=6.0)) == [("y7", 6.0)]
    assert levels(panel.live_panel(run(2))) == []


def test_a_critic_that_is_far_worse_than_the_mean_hides_nothing():
    assert panel.live_panel(run(2)).layout.yaxis11.range[0] > -0.1
    worse = panel.live_panel(run(2, **{"val/explained_variance": -40.0}))
    assert worse.layout.yaxis11.range == (-1, 1)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_interventions_are_dashed_lines_in_all_panels_and_text_stays_text(hostile):
    rows = run(100)
    rows[30]["interventions"] = [hostile]
    rows[60]["interventions"] = ["kl_coef 0.05 → 0.1"]
    rows[61]["interventions"] = ["paused 40 s"]  # too near to be a line of its own
    fig = panel.live_panel(rows)
    lines = {(shape.x0, shape.xref) for shape in fig.layout.shapes}
    assert {at for at, _ in lines} == {8 * 31, 8 * 61}
    assert len(lines) == 2 * 11 and "x3" not in {axis for _, axis in lines}
    assert {shape.line.dash for shape in fig.layout.shapes} == {"dash"}
    first, second = (note for note in fig.layout.annotations if note.hovertext)
    assert "<" not in first.text and "<" not in first.hovertext.replace("<br>", "")
    assert second.text == "2 interventions"
    assert second.hovertext == "kl_coef 0.05 → 0.1<br>paused 40 s"


def test_interventions_without_end_are_bounded():
    rows = [row | {"interventions": ["x" * 1000] * 3} for row in run(5000)]
    fig = panel.live_panel(rows)
    assert len(fig.layout.shapes) <= 11 * 31
    assert len(fig.to_json()) < 300_000


def test_extremes_of_a_long_run_are_drawn():
    rows = run(5000)
    rows[2345]["policy/clipfrac_avg"] = 9.0
    area = drawn(panel.live_panel(rows), "ratios clipped")[0]
    assert max(area.y) == 9 and area.fill == "toself"


def test_browser_five_thousand_updates_are_drawn_within_two_seconds(chromium):
    rows, began = run(5000), time.perf_counter()
    text = panel.live_panel(rows, "update 5000 of 5000").to_json()
    built = time.perf_counter() - began
    assert len(text) < 300_000
    page = chromium.new_page(viewport={"width": 1000, "height": 800})
    page.set_content(panel.go.Figure().to_html(include_plotlyjs="inline"))
    seconds = page.evaluate(
        """async (text) => {
          const began = performance.now();
          const { data, layout } = JSON.parse(text);
          const plot = document.body.appendChild(document.createElement("div"));
          await Plotly.newPlot(plot, data, layout);
          plot.getBoundingClientRect();
          return (performance.now() - began) / 1000;
        }""",
        text,
    )
    page.close()
    assert built + seconds < 2, (built, seconds)
