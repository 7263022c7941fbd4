"""What there is, compare, open and keep runs; whatever is damaged breaks none of them."""

import json
import types
import webbrowser

import nbformat
import pytest
from helpers_run import begin, call, finish

from rlhf_utils.files import write_json
from rlhf_utils.run import runs
from rlhf_utils.run.lock import share_lock
from rlhf_utils.run.paths import STAGES

RESULTS = {
    "eval.gold_sft": 3.8,
    "eval.gold_ppo": 4.42,
    "eval.wins": 0.7,
    "eval.ties": 0.16,
    "eval.losses": 0.14,
    "eval.filler_sft": 0.61,
    "eval.filler_ppo": 0.05,
    "eval.refusal_harmful_sft": 0.7,
    "eval.refusal_harmful_ppo": 0.71,
    "eval.refusal_ordinary_sft": 0.27,
    "eval.refusal_ordinary_ppo": 0.18,
    "eval.kl": 3.0,
}


@pytest.fixture
def two(outputs):
    """A finished demo, another with a parameter of its own, and all kinds of damage."""
    begin(outputs / "demo")
    finish(outputs / "demo", *list(STAGES)[:-1], parameters={"seed": 0, "kl_coef": 0.05})
    finish(outputs / "demo", "evaluation", results=RESULTS)
    begin(outputs / "mine", profile="quick")
    finish(outputs / "mine", "sft", "ppo", at="2020-01-03T10:00:00Z", parameters={"seed": 3})
    finish(outputs / "mine", "evaluation", results=RESULTS | {"eval.gold_ppo": 4.3})
    for name, text in (("cut", "{"), ("list", "[1]"), ("text", '"x"'), ("null", "null")):
        (outputs / name / "sft").mkdir(parents=True)
        (outputs / name / "sft/manifest.json").write_text(text)
        (outputs / name / "parameters.json").write_text(text)
    finish(outputs / "odd", "sft", results={"eval.gold_sft": "much"}, wall_s="long")
    finish(outputs / "odd", "ppo", results={"ppo.kl": None}, at=7)
    (outputs / "no run").mkdir()
    return outputs


def test_a_run_without_05_has_the_numbers_of_the_stages_so_far(outputs):
    finish(outputs / "mine", "sft", results={"sft.loss_heldout": 1.5})
    assert runs.closing(outputs / "mine").startswith("  held-out loss after, nats a token  1.50")


def test_a_run_ends_with_numbers_and_a_link(two):
    lines = runs.closing(two / "demo").splitlines()
    assert len(lines) == 6 and "3.80 → 4.42" in lines[1]
    assert lines[-1] == f"Report: file://{two}/demo/evaluation/report.html"
    assert runs.closing(two / "cut") == f"Results: {two / 'cut'}"


def test_runs(two, capsys):
    status, out, err = call(capsys, "runs")
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert status == 0 and err == "" and len(lines) == 8  # with the head
    assert "5 of 5" in lines["demo"] and "3.80 → 4.42" in lines["demo"] and "5 min" in lines["demo"]
    assert "2020-01-02 09:53" in lines["demo"] and "3 of 5" in lines["mine"]
    assert "damaged" in lines["cut"] and "0 of 5" in lines["cut"]


def test_a_notebook_at_work_by_hand_is_running_and_not_stopped(outputs):
    run = outputs / "mine"
    finish(run, "sft", "preferences", "reward_model")
    write_json(run / "ppo/progress.json", {"what": "update", "done": 5, "total": 13})
    held = share_lock(run)
    assert runs.state_of(run) == "running 04_ppo after update 5 of 13"
    held.close()
    assert runs.state_of(run) == "stopped in 04_ppo after update 5 of 13"


def test_runs_without_runs(outputs, capsys):
    assert "There is no run" in call(capsys, "list")[1]


def test_compare(two, capsys):
    status, out, _ = call(capsys, "compare", "demo", "mine")
    cells = [line.split("  ") for line in out.splitlines()]
    found = {row[0]: [cell.strip() for cell in row[1:] if cell.strip()] for row in cells}
    assert status == 0 and found["gold score, of 5"] == ["3.80 → 4.42", "3.80 → 4.30"]
    assert found["seed"] == ["0", "3"] and "sft.run" not in found
    assert call(capsys, "compare", "demo", "demo")[0] == 2
    for name in ("cut", "list", "text", "null", "odd"):
        assert call(capsys, "compare", "demo", name)[0] == 0


def test_open(two, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "get", lambda: types.SimpleNamespace(open=opened.append))
    link = f"file://{two}/demo/evaluation/report.html"
    assert call(capsys, "open", "demo")[:2] == (0, link + "\n") and opened == [link]

    def none():
        raise webbrowser.Error

    monkeypatch.setattr(webbrowser, "get", none)
    assert call(capsys, "open", "demo")[:2] == (0, link + "\n") and opened == [link]


# --- keep


@pytest.fixture
def project(two, monkeypatch, tmp_path_factory):
    """notebooks/ with originals, and executed notebooks in demo/."""
    folder = tmp_path_factory.mktemp("notebooks")
    monkeypatch.setattr(runs, "notebook_path", lambda stage: folder / f"{STAGES[stage][0]}.ipynb")
    for name, _ in STAGES.values():
        (folder / f"{name}.ipynb").write_text("original")
        cells = [nbformat.v4.new_code_cell("run = 1", metadata={"tags": ["parameters"], "x": 1})]
        made = nbformat.v4.new_notebook(cells=cells, metadata={"papermill": {"a": 1}})
        nbformat.write(made, two / "demo" / f"{name}.ipynb")
    return folder


def texts(folder) -> list[str]:
    return [path.read_text() for path in sorted(folder.iterdir())]


def test_keep_copies_all(project, two, capsys):
    assert call(capsys, "keep")[:2] == (0, "notebooks/ now holds the outputs of run demo.\n")
    assert len(texts(project)) == 5
    for text in texts(project):
        notebook = json.loads(text)
        assert "papermill" not in notebook["metadata"]
        assert notebook["cells"][0]["metadata"] == {"tags": ["parameters"]}


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda run: (run / "05_evaluation.ipynb").unlink(), "is missing or damaged"),
        (lambda run: (run / "05_evaluation.ipynb").write_text("{"), "is missing or damaged"),
        (lambda run: (run / "05_evaluation.ipynb").write_text("[]"), "is missing or damaged"),
        (lambda run: (run / "evaluation/manifest.json").unlink(), "is not finished (evaluation)"),
        (lambda run: spoil(run, tags=["injected-parameters"]), "parameters of its own"),
        (lambda run: spoil(run, error=True), "ends with an error"),
    ],
)
def test_keep_copies_none_if_one_cannot_be_kept(project, two, capsys, spoil, told):
    spoil(two / "demo")
    status, _, err = call(capsys, "keep", "demo")
    assert status == 2 and told in err and err.count("\n") == 1
    assert texts(project) == ["original"] * 5


def spoil(run, tags=(), error=False) -> None:
    """A last notebook with an injected cell or an error."""
    cell = nbformat.v4.new_code_cell("x", metadata={"tags": list(tags)})
    if error:
        cell.outputs = [nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])]
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), run / "05_evaluation.ipynb")


def test_a_full_disk_keeps_none(project, two, capsys, monkeypatch):
    def full(path, text):
        if "05" in path.name:
            raise OSError(28, "No space left on device")
        path.write_text(text)

    monkeypatch.setattr(runs, "write_text", full)
    status, _, err = call(capsys, "keep")
    assert status == 2 and "cannot be written: No space left" in err
    assert texts(project) == ["original"] * 5
