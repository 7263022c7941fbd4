"""The figures: what is drawn is what was given, in a real browser too, and text stays text."""

import html

import plotly.graph_objects as go
import plotly.io as pio
import pytest
from browser import OUTSIDE
from helpers_evaluation import comparisons_of

from rlhf_utils.data.rows import Prompt
from rlhf_utils.evaluation import compare
from rlhf_utils.show import comparison, figures, panel, template

SCRIPT = "<script>alert(1)</script>"
HOSTILE = [SCRIPT, '"><img src=x onerror=alert(1)>', "<b>bold</b>"]


def share(name: str, accuracy: float = 0.6) -> dict:
    return {"name": name, "accuracy": accuracy, "ci": (accuracy - 0.1, accuracy + 0.1)}


REPORT = {
    "temperature": 1.5,
    "calibration": {"bins": [{"confidence": 0.6, "accuracy": 0.5}]},
    "calibration_scaled": {"bins": [{"confidence": 0.55, "accuracy": 0.5}]},
    "by_category": [share("science"), share("benign_lookalike")],
    "by_rank_gap": [share("rank gap 1"), share("rank gap 2", 0.8)],
    "by_length": [share("a: over 8 shorter"), share("c: equal")],
}
RESULTS = {"eval.wins": 0.7, "eval.ties": 0.1, "eval.losses": 0.2, "eval.gold_sft": 3.9}
RESULTS |= {"eval.wins_reward_model": 0.8, "eval.ties_reward_model": 0.0}
RESULTS |= {"eval.losses_reward_model": 0.2, "eval.gold_ppo": 4.5}
CURVE = [{"prompts": 10, "accuracy": 0.5}, {"prompts": 20, "accuracy": 0.6}]


def metrics(count: int, manners: bool = True) -> list[dict]:
    rows = []
    for n in range(count):
        row = {"episode": 16 * (n + 1), "objective/scores": 0.1 * n, "objective/kl_full": 0.5 * n}
        row |= {"policy/clipfrac_avg": 0.1, "objective/entropy": 20 - n, "loss/value_avg": 0.2}
        if manners:
            row |= {"answers/filler": 0.6, "answers/words": 18 - n, "answers/declined_other": 0.1}
            row |= {"answers/declined_harmful": 0.9}
            row |= {"answers/declined_lookalike": None if n % 2 else 0.3}  # None: none was asked
        rows.append(row)
    return rows


def every_figure() -> dict[str, tuple[go.Figure, int]]:
    """Each figure from a few numbers, with how many bars, heaps, curves or clouds it shows."""
    comparisons = comparisons_of()
    sft = [pair.sft for pair in comparisons]
    ppo = [pair.ppo for pair in comparisons]
    bias = {"longer_wins": 0.3, "longer_wins_ci": (0.2, 0.4)}
    bias |= {"first_shown_wins": 0.3, "first_shown_wins_ci": (0.2, 0.4)}
    bias |= {"first_shown_by_chance": 0.25}
    losses = [{"loss": 0.7, "epoch": 0.5}, {"eval_loss": 0.6, "epoch": 1}]
    bars = [("model", 0.7, (0.6, 0.8)), ("longer", 0.4, None)]
    rewards = {"chosen": [1.0, 2.0], "rejected": [0.0, 1.0]}
    return {
        "sft_loss": (figures.sft_loss(losses, "step 1 of 2"), 2),
        "label_bias": (
            figures.label_bias(bias, {"pairwise": 0.8, "pairwise_ci": (0.7, 0.9)}),
            2,
        ),
        "reward_training": (
            figures.reward_training([{"loss": 0.7}], [{"epoch": 1, "accuracy": 0.5}]),
            2,
        ),
        "report_card": (figures.report_card(bars, REPORT, rewards), 7),
        "accuracy_details": (figures.accuracy_details(REPORT, CURVE, 0.8), 7),
        "manners": (figures.manners(metrics(3)), 5),
        "live_panel": (panel.live_panel(metrics(3), "update 3 of 9"), 13),
        "live_panel, long": (panel.live_panel(metrics(50)), 23),
        "live_panel, other metrics": (panel.live_panel(metrics(3, manners=False)), 8),
        "two_judges": (comparison.two_judges(RESULTS), 4),
        "distributions": (comparison.distributions(sft, ppo), 5),
        "rubric_bars": (comparison.rubric_bars(compare.compare(comparisons)), 2),
        "gain_by_prompt": (comparison.gain_by_prompt(comparisons), 3),
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_every_figure(chromium, scheme):
    """In one page, on a ground of either colour: nothing fails, all is drawn, nothing is cut."""
    drawn = every_figure()
    page = chromium.new_page(viewport={"width": 800, "height": 600})
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    ground = {"light": "#ffffff", "dark": "#111111"}[scheme]
    parts = [f"<!doctype html><body style='margin:0;background:{ground}'>"]
    for number, (fig, _) in enumerate(drawn.values()):
        script = "inline" if number == 0 else False
        parts.append(pio.to_html(fig, full_html=False, include_plotlyjs=script))
    page.set_content("".join(parts))
    for number, (name, (_, count)) in enumerate(drawn.items()):
        plot = page.locator(".plotly-graph-div").nth(number)
        assert plot.locator(".trace").count() == count, name
        shown = plot.locator("svg.main-svg").first
        assert shown.evaluate("svg => svg.style.background") == "rgba(0, 0, 0, 0)", name
        # the panels' titles, the axes' words and the legend lie inside the figure
        assert plot.evaluate(OUTSIDE) == [], name
    assert errors == []
    page.close()


def luminance(color: str) -> float:
    """WCAG 2's relative luminance of "#rrggbb"."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_text_and_lines_read_on_light_and_dark():
    """Text at least 4.5 and 4 to 1, lines and shapes 3 to 1, whatever the page's ground."""
    assert contrast(template.TEXT, "#ffffff") >= 4.5 and contrast(template.TEXT, "#111111") >= 4
    for color in (template.BLUE, template.RED, template.GREEN, template.PURPLE, template.GREY):
        assert contrast(color, "#ffffff") >= 3 and contrast(color, "#111111") >= 3


# --- what single figures show


def titles(fig: go.Figure) -> list[str]:
    return [note.text for note in fig.layout.annotations if note.text.strip()]


def test_accuracies_have_names_without_what_sorts_them():
    fig = figures.accuracy_details(REPORT, CURVE, 0.8)
    bars = [trace for trace in fig.data if trace.type == "bar"]
    assert list(bars[0].y) == ["harmless look-alikes", "science"]  # plotly starts at the bottom
    assert list(bars[1].y) == ["2", "1"] and list(bars[1].x) == [0.8, 0.6]
    assert list(bars[2].y) == ["equal", "over 8 shorter"]
    assert titles(fig) == [
        "accuracy by category",
        "by rank gap",
        "by length of the chosen one",
        "accuracy by prompts learned from",
        "a coin",
        "ceiling by label noise",
    ]


def test_accuracies_that_are_unknown_leave_no_panel():
    fig = figures.accuracy_details({"by_length": REPORT["by_length"]}, [])
    assert titles(fig)[:2] == ["by length of the chosen one", "accuracy by prompts learned from"]
    assert "yaxis3" not in fig.layout


def test_a_bar_without_an_interval_gets_none():
    fig = figures.report_card([("model", 0.7, (0.6, 0.9)), ("longer", 0.4, None)], REPORT, {})
    bars, shares = fig.data[:2]
    assert list(bars.y) == ["longer", "model"] and list(bars.x) == [0.4, 0.7]
    assert list(bars.marker.color) == [template.GREY, template.BLUE]
    assert bars.error_x.array[1] == pytest.approx(0.2)
    assert bars.error_x.arrayminus[1] == pytest.approx(0.1)
    assert bars.error_x.array[0] != bars.error_x.array[0] and bars.error_x.width == 0
    assert list(shares.text) == ["40%", "70%"]


def test_an_outline_is_a_share_of_the_values_in_each_bin():
    drawn = template.outline("x", [0.5, 1.5, 1.6, 9.0], template.bins([0, 2], count=2), "#000000")
    assert list(drawn.x) == [0, 1, 2] and list(drawn.y) == [0.25, 0.75, 0.75]  # 9 is in the last


def test_many_points_get_a_moving_mean_and_unknown_ones_are_left_out():
    rows = [{"x": n, "y": float(n % 2)} for n in range(30)]
    points, mean = template.trend(
        "y", [{"x": 30, "y": float("nan")}, {"x": 31}, *rows], "x", "y", "#000"
    )
    assert points.mode == "markers" and list(points.y) == [0.0, 1.0] * 15
    assert len(mean.y) == 30 and mean.y[15] == pytest.approx(3 / 5)
    (line,) = template.trend("y", rows[:20], "x", "y", "#000")
    assert len(line.x) == 20
    fig = figures.manners(metrics(4))
    counts = {trace.name: len(trace.x) for trace in fig.data}
    assert counts["harmful"] == counts["others"] == 4 and counts["look-alikes"] == 2
    assert len({trace.marker.symbol for trace in fig.data[2:]}) == 3


def test_two_judges_say_their_shares_and_show_the_scale_that_is_known():
    fig = comparison.two_judges(RESULTS)
    assert titles(fig)[2:] == [
        "by the gold rubric<br>70% wins, 10% ties, 20% losses",
        "by the reward model<br>80% wins, 0% ties, 20% losses",
    ]
    assert list(fig.data[0].x) == [0.7, 0.8]
    assert list(fig.data[3].y) == ["π_SFT", "π_RLHF"] and list(fig.data[3].x) == [3.9, 4.5]
    more = {"eval.gold_random": 2.0, "eval.gold_base": 3.0, "eval.gold_best_of_4": 4.8}
    assert list(comparison.two_judges(RESULTS | more).data[3].x) == [2.0, 3.0, 3.9, 4.5, 4.8]


def test_scores_are_grouped_never_above_five_and_ties_lie_on_the_line():
    fig = comparison.gain_by_prompt(comparisons_of())
    assert [trace.name for trace in fig.data[:-1]] == ["ordinary (3)", "harmful (1)"]
    prompt = Prompt("How many chambers?", "science", ["four"])
    best = ["The heart has four chambers in all."] * 40  # a gold score of 5
    sides = [compare.score_answers([prompt] * 40, best, [0.0] * 40, [0.0] * 40) for _ in range(2)]
    ties = comparison.gain_by_prompt([compare.Comparison(*pair) for pair in zip(*sides)]).data[0]
    assert max(ties.y) <= 5 and len(set(ties.y)) > 30
    assert list(ties.x) == list(ties.y)


def test_loss_is_a_mean_of_up_to_eight_steps():
    assert len(figures.reward_training([], []).data[0].y) == 0
    few = figures.reward_training([{"loss": 0.6}, {"loss": 0.4}], []).data[0]
    assert list(few.y) == pytest.approx([0.5])
    many = figures.reward_training([{"loss": n} for n in range(10)], []).data[0]
    assert list(many.y) == [3.5, 4.5, 5.5] and list(many.x) == [8, 9, 10]


def test_a_loop_that_has_not_begun_has_its_figure():
    assert len(figures.manners([]).data) == 5
    assert len(figures.sft_loss([]).data) == 2
    assert figures.sft_loss([], "step 0 of 9").layout.title.text == "step 0 of 9"


# --- text of models and files


@pytest.mark.parametrize("hostile", HOSTILE + ["x" * 295 + SCRIPT])
def test_hover_escapes(hostile):
    text = template.hover(hostile)
    assert "<" not in text.replace("<br>", "")
    assert html.unescape(text.replace("<br>", " "))[:20] == hostile[:20]


def test_hover_wraps_and_cuts():
    lines = template.hover("word " * 200).split("<br>")
    assert all(len(line) <= 70 for line in lines) and 250 < sum(map(len, lines)) <= 300


@pytest.mark.parametrize("hostile", HOSTILE)
def test_figures_carry_no_tags_of_the_data(hostile):
    """plotly reads tags in hover texts, in the names of a legend and on axes alike."""
    scatter = comparison.gain_by_prompt(comparisons_of(hostile)).to_plotly_json()["data"]
    texts = []
    for trace in scatter:
        texts += [trace.get("name"), *(trace.get("text") or [])]
    texts = [text for text in texts if text]
    details = figures.accuracy_details({"by_category": [share(hostile)]}, [])
    texts += details.data[0].y
    assert len(texts) == 2 + 4 + 1
    assert all("<" not in text.replace("<br>", "") for text in texts)
