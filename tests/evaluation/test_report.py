"""The report as a page: every text is shown as text, and all of it is there without a network."""

import pytest
from helpers_evaluation import comparisons_of
from markupsafe import escape

from rlhf_utils.evaluation import compare, report
from rlhf_utils.show import figures
from rlhf_utils.show.text import value_text

SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(1)>'
HOSTILE = [SCRIPT, IMAGE]
METRICS = {
    "objective/scores": 0.5,
    "objective/kl_full": 1.5,
    "policy/clipfrac_avg": 0.1,
    "objective/entropy": 20.0,
    "val/length": 12.0,
}


def results_of(comparisons: list[compare.Comparison]) -> dict:
    return compare.compare(comparisons) | {
        "time.sft_s": 150.0,
        "time.ppo_s": 90.0,
        "reward_model.accuracy": 0.8,
        "reward_model.ceiling": 0.9,
    }


def page_of(text: str = "plain", run: str = "demo", examples: list | None = None) -> str:
    comparisons = comparisons_of(text)
    results = results_of(comparisons) | {"odd": text}
    drawn = [
        figures.rubric_bars(results),
        figures.ppo_progress([METRICS | {"episode": 16}, METRICS | {"episode": 32}]),
        figures.distributions(
            [pair.sft for pair in comparisons], [pair.ppo for pair in comparisons]
        ),
        figures.gain_by_prompt(comparisons),
    ]
    examples = examples or compare.examples(comparisons)
    return report.html_page(run, results, examples, drawn, {"run": run, "note": text})


@pytest.mark.parametrize("hostile", HOSTILE)
def test_the_report_escapes_every_text(hostile):
    page = page_of(hostile, run=hostile)
    assert not any(piece in page for piece in (SCRIPT, "<img src=x"))
    escaped = escape(hostile)
    for kind in "pcab":  # prompt, category, both answers are shown, as text
        assert f"{kind} {escaped}" in page
    assert page.count(escaped) >= 4 * 4 + 3  # four examples; run, result and parameter


def test_an_example_is_marked_as_won_or_lost():
    pair = comparisons_of()[0]
    won = page_of(examples=[pair])
    lost = page_of(examples=[compare.Comparison(pair.ppo, pair.sft)])
    assert 'class="pair win"' in won and "made worse" not in won
    assert 'class="pair loss"' in lost and "· made worse" in lost


def test_numbers_as_text():
    assert report.number(None) == report.percent(float("nan")) == "–"
    assert report.number(1.236) == "1.24" and report.percent(0.256) == "26%"


# --- in a browser


@pytest.fixture
def opened(chromium, tmp_path):
    """Opens a page from its file, offline; gives it with what it asked the network for and said."""
    context = chromium.new_context(offline=True)

    def open_page(text: str):
        path = tmp_path / "report.html"
        path.write_text(text, encoding="utf-8")
        page = context.new_page()
        noticed = []
        page.on("pageerror", lambda error: noticed.append(str(error)))
        page.on("dialog", lambda dialog: (noticed.append("a dialog"), dialog.dismiss()))
        page.on("requestfailed", lambda request: noticed.append(request.url))
        page.goto(path.as_uri())
        return page, noticed

    yield open_page
    context.close()


def test_the_report_in_a_browser_holds_everything_itself(opened):
    """Its figures are drawn, and it says every number, with the network cut."""
    page, noticed = opened(page_of())
    results = results_of(comparisons_of())
    cards = page.locator(".card").all_inner_texts()
    assert noticed == [] and len(cards) == 8
    low, high = results["eval.win_rate_ci"]
    assert cards[0].startswith(f"{results['eval.win_rate_vs_sft']:.0%}\n")
    assert f"(95%: {low:.0%} to {high:.0%})" in cards[0]
    assert f"{results['eval.gold_sft']:.2f} → {results['eval.gold_ppo']:.2f}" in cards[1]
    assert "1.25 nats" in cards[4]
    assert cards[6] == "80%\nreward-model accuracy; label noise allows 90%"
    assert cards[7].startswith("4 min\n")
    said = page.locator("details td").all_text_contents()
    told = dict(zip(said[::2], said[1::2]))
    for name, value in results.items():
        assert told[name].strip() == value_text(value)
    assert page.locator(".pair").count() == 4
    drawn = page.locator(".figure")
    marks = [drawn.nth(i).locator(".trace").count() for i in range(drawn.count())]
    # pairs of bars; five lines and a path; two heaps twice and one; two categories and the line
    assert marks == [2, 6, 5, 3]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_browser_runs_nothing_that_a_text_holds(opened, hostile):
    page, noticed = opened(page_of(hostile, run=hostile))
    page.locator(".figure").nth(3).locator(".point").first.hover(force=True)
    label = page.locator(".hovertext").first.text_content()
    assert noticed == [] and f"p {hostile}" in label
    assert f"p {hostile}" in page.locator(".pair h3").first.text_content()
    assert page.locator("img, script[src]").count() == 0
