"""Runs beside each other: a finished one, one that failed in 04, and one that has just begun."""

import html

import nbformat
import pytest
from helpers_run import begin, call, finish

from rlhf_utils.errors import RunError
from rlhf_utils.files import write_json, write_jsonl
from rlhf_utils.lab import compare_runs
from rlhf_utils.run.paths import STAGES

HOSTILE = "<script>alert(1)</script>"
RESULTS = {
    "eval.wins": 0.7,
    "eval.ties": 0.2,
    "eval.losses": 0.1,
    "eval.win_rate_vs_sft": 0.8,
    "eval.win_rate_ci": [0.75, 0.85],
    "eval.gold_sft": 3.75,
    "eval.gold_ppo": 4.5,
}


def metric(update: int, **more) -> dict:
    row = {"update": update, "episode": 8 * update, "objective/scores": update / 10}
    return row | {"objective/kl_full": update / 2, "answers/declined_harmful": None} | more


def answers(words: str, gold: float) -> list[dict]:
    prompts = [f"What {HOSTILE}?", "Why?"]
    return [{"policy": "ppo", "prompt": p, "answer": words, "gold": gold} for p in prompts]


@pytest.fixture
def three(outputs):
    """good is finished, bad failed in 04 after two updates and one intervention, new has begun."""
    begin(outputs / "good", kl_coef=0.05)
    finish(outputs / "good", *list(STAGES)[:-1], parameters={"seed": 0, "kl_coef": 0.05})
    finish(outputs / "good", "evaluation", results=RESULTS)
    write_jsonl(outputs / "good/ppo/metrics.jsonl", [metric(n) for n in (1, 2, 3)])
    own = [{"policy": "sft", "prompt": "Why?", "answer": "old", "gold": 1.0}]
    write_jsonl(outputs / "good/evaluation/samples.jsonl", own + answers(f"a {HOSTILE}", 4.0))
    begin(outputs / "bad", ppo__reward=HOSTILE, ppo__seed=3)
    finish(outputs / "bad", "sft", parameters={"seed": 0})
    rows = [metric(1), metric(2, interventions=[f"paused {HOSTILE}"])]
    write_jsonl(outputs / "bad/ppo/metrics.jsonl", rows)
    watched = [{"update": 2, "samples": [{"prompt": "Why?", "answer": "so", "score": -1.0}]}]
    write_jsonl(outputs / "bad/ppo/samples.jsonl", watched)
    checkpoint = outputs / "bad/ppo/checkpoints/update-000002"
    write_json(checkpoint / "state.json", {"branched_from": {"run": "good", "update": 1}})
    finish(outputs / "bad", "preferences", "reward_model")
    error = nbformat.v4.new_output("error", ename="PPOError", evalue=f"KL is 130 {HOSTILE}.")
    cell = nbformat.v4.new_code_cell("x", outputs=[error])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), outputs / "bad/04_ppo.ipynb")
    begin(outputs / "new", ppo__seed=4)
    return outputs


def test_runs_tells_how_far_each_one_is(three, capsys):
    status, out, _ = call(capsys, "runs")
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert status == 0 and out == call(capsys, "list")[1]
    assert lines["good"].endswith("gold 3.75 → 4.50  finished")
    assert f"failed in 04_ppo: KL is 130 {HOSTILE}.; branch of good at update 1" in lines["bad"]
    assert lines["new"].endswith("unfinished: 01_sft comes next")
    (three / "bad/04_ppo.ipynb").unlink()
    write_json(three / "bad/ppo/progress.json", {"what": "update", "done": 2, "total": 9})
    assert "stopped in 04_ppo after update 2 of 9; branch" in call(capsys, "runs")[1]


def test_compare_prints_what_differs_and_writes_the_page_into_outputs(three, capsys):
    status, out, _ = call(capsys, "compare", "good", "bad", "new")
    rows = {}
    for line in out.splitlines():
        name, *cells = [cell.strip() for cell in line.split("  ") if cell.strip()]
        rows[name] = cells
    assert status == 0 and rows["win rate by gold, ties half"] == ["80% (75% to 85%)", "–", "–"]
    assert rows["lineage"] == ["–", "branch of good at update 1", "–"]
    assert rows["gold score, of 5"] == ["3.75 → 4.50", "–", "–"]
    assert rows["ppo.seed"] == ["0", "3", "4"]  # 3 and 4 from what was asked
    assert f"file://{three}/compare-good-bad-new.html" in out
    assert (three / "compare-good-bad-new.html").is_file()


def test_a_finished_run_shows_its_loss_beside_one_that_has_only_begun(outputs):
    loss = {"sft.loss_heldout": 2.5}
    finish(outputs / "done", "sft", results=loss)
    finish(outputs / "done", "evaluation", results=RESULTS)
    finish(outputs / "begun", "sft", results=loss)
    found = compare_runs.results(compare_runs.load(["done", "begun"]))
    rows = {name: cells for name, *cells in found}
    assert rows["held-out loss after, nats a token"] == ["2.50", "2.50"]


def test_what_differs_in_the_same_way_in_several_stages_stands_once(outputs):
    for name, seed in (("a", 0), ("b", 1)):
        finish(outputs / name, parameters={"seed": seed, "same": 1})
    finish(outputs / "a", "sft", parameters={"seed": 0, "only_here": 1})
    assert compare_runs.differing(compare_runs.load(["a", "b"])) == [("seed", "0", "1")]


def test_curves_lie_over_each_other_and_interventions_are_marked(three):
    fig = compare_runs.figure(compare_runs.load(["good", "bad", "new"]))
    titles = [note.text for note in fig.layout.annotations]
    assert titles == ["mean reward", "KL to π_SFT, nats an answer", " "]  # nobody was asked harm
    lines = [trace for trace in fig.data if trace.mode == "lines"]
    assert [(line.name, len(line.x)) for line in lines] == [("good", 3)] * 2 + [("bad", 2)] * 2
    marks = [trace for trace in fig.data if trace.mode == "markers" and trace.x]
    assert [tuple(mark.x) for mark in marks] == [(16,), (16,)]
    assert all(f"bad: paused {html.escape(HOSTILE)}" in mark.text[0] for mark in marks)


def test_five_thousand_updates_stay_small(outputs):
    for name in ("a", "b"):
        finish(outputs / name)
        write_jsonl(outputs / name / "ppo/metrics.jsonl", (metric(n) for n in range(1, 5001)))
    fig = compare_runs.figure(compare_runs.load(["a", "b"]))
    assert max(len(trace.x) for trace in fig.data) <= 400 and len(fig.to_json()) < 100_000


def test_answers_to_the_same_prompts_stand_together(three):
    found = compare_runs.answered(compare_runs.load(["good", "bad", "new"]))
    assert [(prompt, [own and own["answer"] for _, own in rows]) for prompt, rows in found] == [
        ("Why?", [f"a {HOSTILE}", "so", None])
    ]


def test_damage_breaks_nothing_and_a_run_alone_is_refused(three):
    (three / "good/ppo/metrics.jsonl").write_text("{")
    (three / "bad/ppo/samples.jsonl").write_text("[1]")
    (three / "bad/04_ppo.ipynb").write_text("[]")
    assert "No run" not in compare_runs.page(compare_runs.load(["good", "bad"]))
    with pytest.raises(RunError, match="good alone can't be compared"):
        compare_runs.load(["good", "good"])
    with pytest.raises(RunError, match="There is no run 'god'"):
        compare_runs.load(["good", "god"])


def test_a_run_to_compare_with_that_is_not_there_is_refused_before_anything_runs(three, capsys):
    asked = ("run", "x", "--only", "evaluation", "--dry-run", "-p", "compare_with=good, gone")
    status, _, err = call(capsys, *asked)
    assert status == 2 and "there is no run 'gone' beside" in err


def test_a_browser_shows_the_page_offline_and_runs_no_text(three, chromium):
    path = compare_runs.write(compare_runs.load(["good", "bad", "new"]))
    context = chromium.new_context(offline=True, viewport={"width": 390, "height": 800})
    page, noticed = context.new_page(), []
    page.on("request", lambda r: r.url == path.as_uri() or noticed.append(r.url))
    page.on("dialog", lambda dialog: (noticed.append("a dialog"), dialog.dismiss()))
    page.on("pageerror", lambda error: noticed.append(str(error)))
    page.goto(path.as_uri())
    page.locator("html[data-ready]").wait_for()
    assert page.locator("figure .trace").count() == 6 and noticed == []
    assert f"KL is 130 {HOSTILE}" in page.locator(".card").nth(1).inner_text()
    assert page.locator(".pair .answer").count() == 2
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    context.close()
