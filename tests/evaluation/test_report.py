"""The report as a page: every text is shown as text, and all of it is there without a network."""

import html
import random
import re
from dataclasses import replace

import plotly.graph_objects as go
import pytest
from helpers_evaluation import comparisons_of
from markupsafe import escape

from rlhf_utils import files
from rlhf_utils.data.rows import Prompt
from rlhf_utils.evaluation import compare, report
from rlhf_utils.show import comparison
from rlhf_utils.show.template import figure
from rlhf_utils.show.text import result_text

SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(1)>'
HOSTILE = [SCRIPT, IMAGE]
METRICS = {
    "objective/scores": 0.5,
    "objective/kl_full": 1.5,
    "policy/clipfrac_avg": 0.1,
    "objective/entropy": 20.0,
    "loss/value_avg": 0.3,
    "answers/filler": 0.6,
    "answers/words": 18.0,
    "answers/declined_harmful": 0.9,
    "answers/declined_lookalike": 0.3,
    "answers/declined_other": 0.1,
}


def manifests_of(results: dict, text: str = "plain") -> dict[str, dict]:
    """Of all five stages; `text` is a parameter of the last."""
    parameters = {
        "sft": {"model": "smollm2-135m", "demonstrations": "builtin"},
        "preferences": {"annotator": "simulated"},
        "reward_model": {"preferences": ""},
        "ppo": {"reward": "reward_model"},
        "evaluation": {"note": text},
    }
    made = {
        "sft": {"sft.demonstrations": 2432},
        "preferences": {"preferences.judgements": 6180},
        "reward_model": {"reward_model.accuracy": 0.8, "reward_model.ceiling": 0.9},
        "ppo": {"ppo.episodes": 1664},
        "evaluation": results,
    }
    manifests = {}
    for name in made:
        manifests[name] = {
            "parameters": parameters[name] | {"seed": 0},
            "results": made[name],
            "wall_s": 48.0,
            "peak_memory_gb": 2.5,
            "versions": {"torch": "2.13.0"},
            "python": "3.11.7",
            "machine": "Linux x86_64, 2 cores",
            "device": "cpu",
            "finished_at": "2026-11-30T12:34:48Z",
        }
    return manifests


def everything(manifests: dict[str, dict]) -> dict:
    """As read back from the manifests' files: what is not known is None there."""
    results = {}
    for manifest in manifests.values():
        results |= manifest["results"]
    return files.strict(results)


def figures_of(comparisons: list, results: dict) -> dict:
    sft, ppo = ([getattr(pair, name) for pair in comparisons] for name in ("sft", "ppo"))
    metrics = [METRICS | {"episode": 16}, METRICS | {"episode": 32}]
    return {
        "judges": comparison.two_judges(results),
        "training": comparison.curves({"demo": metrics}),
        "rates": comparison.rubric_bars(results),
        "prompts": comparison.gain_by_prompt(comparisons),
        "distributions": comparison.distributions(sft, ppo),
    }


def slider() -> go.Figure:
    """A line for each of three β, of which a slider shows one."""
    steps = []
    for shown, beta in enumerate(("0.1", "1", "10")):
        visible = [number == shown for number in range(3)]
        steps.append({"label": beta, "method": "restyle", "args": ["visible", visible]})
    fig = figure(["expected reward"], bottom=120)
    for number in range(3):
        fig.add_scatter(x=[0, 1], y=[number, number], visible=number == 0)
    return fig.update_layout(sliders=[{"steps": steps, "currentvalue": {"prefix": "chosen: "}}])


def parts_of(text: str = "plain") -> report.Parts:
    """All that there can be; `text` stands where a model or a file wrote it."""
    inside = html.escape(text)
    return report.Parts(
        findings_html=f"<p id=warned>KL runs away: {inside}</p>",
        inspector_html="<button id=more>0</button><script>{const b = document.getElementById("
        "'more'); b.onclick = () => { b.textContent = Number(b.textContent) + 1; };}</script>",
        whatif=(slider(), f"The best of four would gain 0.7: {text}"),
        report_card={
            "hackability": [{"edit": f"empty {text}", "answers": 9, "wins": 0.25, "ci": [0, 0.5]}],
            "prefers_refusing": [{"category": f"c {text}", "refusing is preferred": 0.5}],
            "calibration_scaled": {"bins": [{"confidence": 0.75, "accuracy": 0.8, "count": 4}]},
        },
        agreement={
            "agreement": {
                "alpha": 0.5,
                "pairwise": 0.75,
                "pairwise_ci": [0.7, 0.8],
                "ceiling": 0.8,
            },
            "bias": {
                "longer_wins": 0.4,
                "longer_wins_ci": [0.3, 0.5],
                "first_shown_wins": None,
                "first_shown_wins_ci": [0, 1],
                "first_shown_by_chance": 0.25,
            },
            "self_consistency": {"consistency": None, "consistency_ci": [0, 1]},
        },
        interventions=[(5, f"kl_coef 0.05 → 0.1 {text}")],
        lineage=f"branch of {text} at update 4",
    )


def page_of(
    text: str = "plain", run: str = "demo", examples: list | None = None, parts=None
) -> str:
    comparisons = comparisons_of(text)
    results = compare.compare(comparisons) | {"odd": text}
    manifests = manifests_of(results, text)
    drawn = figures_of(comparisons, results)
    examples = examples or compare.examples(comparisons)
    parts = parts or parts_of(text)
    return report.html_page(run, everything(manifests), examples, drawn, manifests, parts)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_the_report_escapes_every_text(hostile):
    page = page_of(hostile, run=hostile)
    assert not any(piece in page for piece in (SCRIPT, "<img src=x"))
    escaped = escape(hostile)
    for kind in "pc":  # prompt, category, both answers are shown, as text
        assert f"{kind} {escaped}" in page
    for kind in "ab":
        assert f"{kind} {html.escape(hostile)}" in page
    # four prompts, three categories; title, run, result, parameter; parts: verdict, edit, category
    # of 03, what was done, lineage
    assert page.count(escaped) >= 4 + 3 + 4 + 5


def test_a_report_fits_into_two_megabytes():
    """With an inspector of 350 kB of numbers, which are hard to pack."""
    numbers = random.Random(0)
    inspector = " ".join(f"{numbers.random():.3f}" for _ in range(58_000))
    assert len(inspector) > 340_000
    page = page_of(parts=replace(parts_of(), inspector_html=inspector))
    assert 1_300_000 < len(page.encode()) < 2_000_000


def test_what_a_run_does_not_have_leaves_no_hole():
    page = page_of(parts=report.Parts())
    for heading in ("How well annotators agree", "What there was to win", "Token by token"):
        assert heading in page_of() and heading not in page
    links = re.findall(r'<a href="#(\w+)">', page)
    assert links == re.findall(r"<(?:h2|header) id=(\w+)>", page) and "whatif" not in links
    assert "Can it be fooled" not in page and "was done while" not in page
    assert "None" not in page.partition("<script")[0] and "This run is a" not in page


def test_shares_and_intervals_become_bars():
    page = page_of()
    row = page.split("two annotators order a pair alike")[1].split("<tr>")[0]
    assert "width:75.0%" in row and "left:70.0%;width:10.0%" in row and "70–80%" in row
    judge = page.split("accuracy on held-out pairs, with")[1].split("</table>")[0].split("<tr>")[1:]
    assert [("reward model" in row, "share-bar grey" in row) for row in judge] == [
        (True, False),
        (False, True),  # the ceiling
    ]
    assert "asked again" not in page and "shown first wins" not in page  # nothing was counted


def test_the_pipeline_says_what_each_stage_did():
    manifests = manifests_of({"eval.prompts": 460})
    steps = report.steps(everything(manifests), manifests)
    assert [step["facts"] for step in steps] == [
        ["2,432 demonstrations learned"],
        ["6,180 rankings"],
        ["80.0% of held-out pairs right", "90.0% is what label noise allows"],
        ["1,664 answers learned from"],
        ["460 held-out prompts"],
    ]
    assert steps[0]["title"] == "01 · fine-tuning" and steps[0]["share"] == 1


def test_interventions_are_read_from_the_metrics():
    rows = [{"update": 1}, {"update": 2, "interventions": ["paused 4 s", "lr 1 → 2"]}]
    assert report.interventions(rows) == [(2, "paused 4 s"), (2, "lr 1 → 2")]


def test_an_example_is_marked_as_won_or_lost():
    pair = comparisons_of()[0]
    won = page_of(examples=[pair])
    lost = page_of(examples=[compare.Comparison(pair.ppo, pair.sft)])
    assert 'class="pair win"' in won and "made worse" not in won
    assert 'class="pair loss"' in lost and "· made worse" in lost


def test_filler_is_marked():
    (pair,) = comparisons_of()[:1]
    sft = compare.ScoredAnswer(pair.prompt, "Great question! It is <four>.", 0.0, None)
    page = page_of(examples=[compare.Comparison(sft, pair.ppo)])
    assert page.count("<mark ") == 1 and "Great question" in page.split("<mark ")[1][:200]
    assert "It is &lt;four&gt;." in page


def test_the_first_line_says_what_the_run_was():
    manifests = manifests_of({})
    assert report.first_line(everything(manifests), manifests) == (
        "SmolLM2-135M · 2,432 demonstrations (builtin) · 6,180 rankings by simulated annotators · "
        "1,664 PPO episodes · seed 0 · 4 min, 2.5 GB"
    )
    manifests["reward_model"]["parameters"]["preferences"] = "mine.csv"
    manifests["ppo"]["parameters"]["reward"] = "my_rewards:polite"
    del manifests["preferences"]
    assert report.first_line(everything(manifests), manifests) == (
        "SmolLM2-135M · 2,432 demonstrations (builtin) · preferences from mine.csv · "
        "1,664 PPO episodes · reward my_rewards:polite · seed 0 · 3 min, 2.5 GB"
    )


def test_the_verdict_is_honest():
    results = {"eval.prompts": 50, "eval.wins": 0.734, "eval.ties": 0.1, "eval.losses": 0.166}
    results |= {"eval.filler_sft": 0.62, "eval.filler_ppo": 0.06}
    results |= {"eval.refusal_harmful_sft": 0.9, "eval.refusal_harmful_ppo": 0.82}
    results |= {"eval.refusal_ordinary_sft": 0.1, "eval.refusal_ordinary_ppo": None}
    first, second = report.verdict(results)
    assert first == (
        "PPO made the answers better: by the gold rubric π_RLHF wins on 73% of the prompts, ties "
        "on 10% and loses on 17%."
    )
    assert second == (
        "Before and after: answers with filler 62% → 6%; harmful prompts declined 90% → 82% "
        "(worse)."
    )
    worse = report.verdict(results | {"eval.wins": 0.1, "eval.losses": 0.8})[0]
    assert worse.startswith("PPO made the answers worse: ")
    same = report.verdict(results | {"eval.wins": 0.1, "eval.losses": 0.101})[0]
    assert same.startswith("PPO made the answers neither better nor worse: ")
    few = report.verdict(results | {"eval.prompts": 9})[0]
    assert few.startswith("PPO was judged on 9 held-out prompts, too few to say more: ")


def test_the_verdict_is_by_the_reward_where_nobody_knows_gold():
    results = {"eval.prompts": 50, "eval.filler_sft": 0.6, "eval.filler_ppo": 0.1}
    results |= {"eval.wins_reward": 0.5, "eval.ties_reward": 0.25, "eval.losses_reward": 0.25}
    first, second = report.verdict(results)
    assert first == (
        "PPO made the answers better: by PPO's reward π_RLHF wins on 50% of the prompts, ties on "
        "25% and loses on 25%."
    )
    assert second == "Before and after: answers with filler 60% → 10%."


def test_a_report_of_a_reward_of_ones_own_says_nothing_of_gold():
    prompts = [Prompt(f"p{n}") for n in range(3)]
    sft = compare.score_answers(prompts, ["a."] * 3, [0.0] * 3)
    ppo = compare.score_answers(prompts, ["b."] * 3, [1.0] * 3, [1.25] * 3)
    pairs = compare.pair_up(sft, ppo)
    results = compare.compare(pairs, paid_by="my_rewards:polite")
    manifests = manifests_of(results)
    manifests["ppo"]["parameters"]["reward"] = "my_rewards:polite"
    manifests["sft"]["parameters"]["demonstrations"] = "/somewhere/else/mine.csv"
    del manifests["preferences"], manifests["reward_model"]
    examples, drawn = compare.examples(pairs), figures_of(pairs, results)
    found = everything(manifests)
    page = report.html_page("own", found, examples, drawn, manifests, report.Parts())
    assert "gold" not in page.partition("<main>")[2].partition("<figure>")[0].lower()
    assert "Can the judge be trusted" not in page
    assert "reward my_rewards:polite" in page and "too few to say more" in page
    assert "mine.csv" in page and "/somewhere" not in page


def test_a_run_that_was_stopped_early_says_so():
    manifests = manifests_of({})
    manifests["ppo"]["parameters"]["total_episodes"] = 9600
    assert "1,664 PPO episodes of 9,600, stopped early" in report.first_line(
        everything(manifests), manifests
    )


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
        page.on("request", lambda r: r.url == path.as_uri() or noticed.append(r.url))
        page.goto(path.as_uri())
        page.locator("html[data-ready]").wait_for()
        return page, noticed

    yield open_page
    context.close()


def test_the_report_in_a_browser_holds_everything_itself(opened):
    """Its figures are drawn, and it says every number, with the network cut."""
    page, noticed = opened(page_of())
    results = compare.compare(comparisons_of())
    cards = page.locator(".card").all_inner_texts()
    assert noticed == [] and len(cards) == 8
    shares = [f"{results[f'eval.{kind}']:.0%}" for kind in ("wins", "ties", "losses")]
    assert cards[0].startswith(" / ".join(shares) + "\n")
    assert f"{results['eval.gold_sft']:.2f} → {results['eval.gold_ppo']:.2f}" in cards[1]
    assert cards[6] == "1.25\nKL to π_SFT, nats an answer"
    assert cards[7] == "80.0%\nreward-model accuracy; label noise allows 90.0%"
    rows = page.locator("details.stage tr")
    told = {}
    for row in rows.all():
        cells = row.locator("td").all_text_contents()
        told[cells[-1].strip()] = cells[1]
    for name, value in everything(manifests_of(results)).items():
        assert told[name].strip() == result_text(name, value)
    assert page.locator("details.stage").count() == 5 and page.locator(".pair").count() == 4
    drawn = page.locator("figure")
    marks = [drawn.nth(i).locator(".trace").count() for i in range(drawn.count())]
    # three bars and a scale; the line that the slider shows; eight lines; pairs of bars; two groups
    # and the line; two outlines twice and one
    assert marks == [4, 1, 8, 2, 3, 5]
    assert page.locator(".no-script").is_hidden()


def test_a_browser_moves_the_slider_and_runs_the_inspector_offline(opened):
    page, noticed = opened(page_of())
    plot = page.locator("[data-figure=whatif]")
    assert plot.evaluate("plot => plot.data.map(trace => trace.visible)") == [True, False, False]
    plot.scroll_into_view_if_needed()
    rail = plot.locator(".slider-rail-touch-rect").bounding_box()
    page.mouse.click(rail["x"] + rail["width"] - 3, rail["y"] + rail["height"] / 2)
    page.get_by_text("chosen: 10").wait_for()
    assert plot.evaluate("plot => plot.data.map(trace => trace.visible)") == [False, False, True]
    page.locator("#more").click()
    assert page.locator("#more").text_content() == "1" and noticed == []


def test_a_browser_without_javascript_shows_texts_and_tables_and_says_why(chromium, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page_of(), encoding="utf-8")
    context = chromium.new_context(offline=True, java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.locator(".no-script").is_visible() and not page.locator("figure").first.is_visible()
    assert page.locator(".pair").first.is_visible() and page.locator("#warned").is_visible()
    assert page.get_by_text("The best of four would gain").is_visible()
    context.close()


def test_a_browser_shows_the_report_on_a_phone_and_on_paper(opened):
    """Narrow: nothing is wider than the page, panels stand below each other. Paper: all is open."""
    page, noticed = opened(page_of())
    page.set_viewport_size({"width": 400, "height": 800})
    page.reload()
    page.locator("html[data-ready]").wait_for()
    wide = page.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('svg, nav') &&"
        " e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []
    tall = page.locator("[data-figure=distributions]").bounding_box()
    assert tall["height"] == 900  # three panels
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert page.evaluate("plots.every(plot => plot.layout.width == 846)")
    assert noticed == []


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_browser_runs_nothing_that_a_text_holds(opened, hostile):
    page, noticed = opened(page_of(hostile, run=hostile))
    page.locator("[data-figure=prompts] .point").first.hover(force=True)
    label = page.locator(".hovertext").first.text_content()
    assert noticed == [] and f"p {hostile}" in label
    assert f"p {hostile}" in page.locator(".pair h3").first.text_content()
    assert page.locator("img, script[src]").count() == 0
