"""Runs stay inside outputs/, and leave a manifest that tells all but secrets."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers_run import write_notebook

from rlhf_utils import files
from rlhf_utils.data.rows import load_prompts
from rlhf_utils.errors import RunError
from rlhf_utils.files import digest
from rlhf_utils.run.manifest import STAGES, collect_results
from rlhf_utils.run.paths import project_root, run_dir
from rlhf_utils.run.stage import Stage

PARAMETERS_CELL = """run: str = "demo"  # folder
seed: int = 0  # of everything random
learning_rate: float = 1e-3  # of AdamW
more: dict = {}  # other settings"""


@pytest.fixture(autouse=True)
def project(tmp_path_factory, monkeypatch):
    """A project whose notebooks have these parameters, whatever the real ones have."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("rlhf_utils", "notebooks"):
        (folder / name).mkdir()
    for name, _ in STAGES.values():
        write_notebook(folder / "notebooks" / f"{name}.ipynb", PARAMETERS_CELL)
    monkeypatch.chdir(folder)
    return folder


def notebook(**values) -> dict:
    """The namespace of a notebook whose parameters cell was executed."""
    return {"run": "demo", "seed": 0, "learning_rate": 1e-3, "more": {}} | values


# --- the run directory


def test_the_project_is_looked_for_upwards_and_then_beside_the_package(project, monkeypatch):
    (project / "notebooks" / "mine").mkdir()
    monkeypatch.chdir(project / "notebooks" / "mine")
    assert project_root() == project
    (project / "notebooks" / "01_sft.ipynb").unlink()
    assert project_root() == Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "..",
        ".",
        "a/b",
        "/etc",
        "a\\b",
        "",
        " ",
        ".hidden",
        "-p",
        "x" * 65,
        "a b",
        "a\n",
        "é",
        None,
        7,
    ],
)
def test_run_names_that_leave_outputs_or_are_none(outputs, name):
    with pytest.raises(RunError, match=re.escape(f"run={name!r}")):
        run_dir(name)


@pytest.mark.parametrize("name", ["demo", "a", "x" * 64, "2026-10-01_lr.1e-4", "a..b"])
def test_run_names(outputs, name):
    assert run_dir(name).resolve().parent == outputs.resolve() and not run_dir(name).exists()


# --- a stage and its manifest


def test_stage_whose_input_is_missing_names_the_notebook(outputs):
    stage = Stage("ppo", notebook(run="mine"))
    with pytest.raises(
        RunError,
        match="reward_model/head.safetensors is missing in run 'mine': "
        "run notebook 03_reward_model with run='mine' first",
    ):
        stage.needs("reward_model/head.safetensors")


def made(outputs, stage: str, name: str, text: str, inputs: dict | None = None) -> Path:
    """A file of a finished stage."""
    path = outputs / "demo" / stage / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    files.write_json(path.parent / "manifest.json", {"inputs": inputs or {}})
    return path


def test_stage_refuses_an_unfinished_input(outputs):
    path = made(outputs, "sft", "weights", "w")
    path.with_name("manifest.json").unlink()
    with pytest.raises(
        RunError, match="sft/weights is unfinished in run 'demo': run notebook 01_sft"
    ):
        Stage("preferences", notebook()).needs("sft/weights")


def test_stage_refuses_an_input_made_from_what_has_changed_since(outputs):
    """SFT was run again, PPO was not: its adapter fits the older policy."""
    weights = made(outputs, "sft", "weights", "old")
    made(outputs, "ppo", "adapter", "a", {"sft/weights": digest(weights)})
    stage = Stage("evaluation", notebook())
    assert stage.needs("ppo/adapter").is_file()
    for change in (lambda: weights.write_text("new"), weights.unlink):
        change()
        with pytest.raises(
            RunError,
            match="ppo/adapter was made from another sft/weights than .* "
            "run notebook 04_ppo with run='demo' again",
        ):
            Stage("evaluation", notebook()).needs("ppo/adapter")


@dataclass
class Settings:
    learning_rate: float = 1.0
    gamma: float = 1.0


def test_settings_are_filled_from_the_notebook(outputs):
    stage = Stage("ppo", notebook(more={"gamma": "0.9"}))
    assert stage.settings(Settings) == Settings(1e-3, 0.9)
    assert stage.finish({})["settings"] == {"learning_rate": 1e-3, "gamma": 0.9}
    with pytest.raises(RunError, match="no setting 'gama': did you mean gamma"):
        Stage("ppo", notebook(more={"gama": 0.9})).settings(Settings)


def test_a_stage_of_a_users_own_has_the_annotated_parameters(outputs):
    annotations = {"run": str, "seed": int}
    stage = Stage("my_ppo", notebook(seed="4", __annotations__=annotations))
    assert stage.parameters == {"run": "demo", "seed": 4}
    assert stage.dir == outputs / "demo" / "my_ppo"


def test_data_is_noted_by_its_content(outputs):
    stage = Stage("sft", notebook())
    prompts = load_prompts("builtin", "heldout")
    assert stage.note_data("heldout", prompts) is prompts
    stage.note_data("others", prompts[1:])
    stage.note_data("again", load_prompts("builtin", "heldout"))
    rows = [{"prompt": "p", "chosen": "c", "rejected": "r"}]
    assert stage.note_data("preferences", rows) is rows
    data = stage.data
    assert data["heldout"] == data["again"] != data["others"] and len(data["preferences"]) == 64


def test_manifest(outputs, monkeypatch):
    for name in ("HF_TOKEN", "WANDB_API_KEY", "SOME_SETTING", "USER", "HOSTNAME"):
        monkeypatch.setenv(name, f"secret-of-{name}")
    made(outputs, "sft", "weights", "w")
    stage = Stage("preferences", notebook(seed=5))
    path = stage.needs("sft/weights")
    stage.note_data("prompts", load_prompts("builtin"))
    assert path.read_text() == "w"
    returned = stage.finish({"preferences.pairs": 12})
    text = (outputs / "demo" / "preferences" / "manifest.json").read_text()
    manifest = json.loads(text)
    assert manifest == json.loads(json.dumps(returned))
    assert set(manifest) == {
        "stage",
        "run",
        "parameters",
        "settings",
        "seed",
        "inputs",
        "outputs",
        "sha256",
        "data",
        "results",
        "wall_s",
        "peak_memory_gb",
        "versions",
        "python",
        "machine",
        "device",
        "finished_at",
    }
    assert manifest["parameters"] == notebook(seed=5) and manifest["seed"] == 5
    assert manifest["inputs"] == {"sft/weights": digest(path)}
    assert manifest["results"] == {"preferences.pairs": 12} and manifest["settings"] == {}
    assert len(manifest["data"]["prompts"]) == 64
    assert manifest["wall_s"] >= 0 and manifest["peak_memory_gb"] > 0.05
    assert manifest["versions"]["torch"]
    assert "secret-of-" not in text
    assert str(outputs) not in text and str(Path.home()) + "/" not in text


def test_work_that_begins_takes_the_old_manifest_away(outputs):
    """Else a stage that failed on its second run would look finished.

    One that never began loses nothing.
    """
    Stage("sft", notebook()).finish({"sft.loss": 1.0})
    stage = Stage("sft", notebook())
    assert collect_results(outputs / "demo")["sft.loss"] == 1.0
    stage.progress("step", 1, 2)
    assert not (stage.dir / "manifest.json").exists() and collect_results(outputs / "demo") == {}


def test_progress_is_there_while_it_runs(outputs):
    stage = Stage("sft", notebook())
    seen = [
        files.read_json(stage.dir / "progress.json") for _ in stage.track(["a", "b"], "reading")
    ]
    assert seen == [
        {"what": "reading", "done": 0, "total": 2},
        {"what": "reading", "done": 1, "total": 2},
    ]
    stage.finish({})
    assert not (stage.dir / "progress.json").exists()


def test_collect_results(outputs):
    Stage("sft", notebook()).finish({"sft.loss_heldout": 1.5})
    Stage("ppo", notebook()).finish({"ppo.kl": 3.0})
    results = collect_results(outputs / "demo")
    assert set(results) == {
        "sft.loss_heldout",
        "ppo.kl",
        "time.sft_s",
        "memory.sft_peak_gb",
        "time.ppo_s",
        "memory.ppo_peak_gb",
    }
    assert results["sft.loss_heldout"] == 1.5 and results["ppo.kl"] == 3.0


INTERRUPTED = """
from IPython.core.interactiveshell import InteractiveShell
from rlhf_utils.run.stage import calm_interrupts
shell = InteractiveShell.instance()
shell.run_cell("def deep(): raise KeyboardInterrupt")
calm_interrupts()
result = shell.run_cell("deep()")
assert isinstance(result.error_in_exec, KeyboardInterrupt)
shell.run_cell("1 / 0")
"""


def test_an_interrupted_cell_ends_in_one_sentence_and_other_errors_as_ever():
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", INTERRUPTED]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    first, rest = ended.stdout.split("\n", 1)
    assert first == "Stopped. Run this cell again, or the notebook from its top."
    assert "ZeroDivisionError" in rest and "KeyboardInterrupt" not in rest and not ended.stderr
