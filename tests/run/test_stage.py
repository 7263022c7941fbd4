"""Runs stay inside outputs/, say in one sentence what is wrong, and leave a manifest that tells all but secrets."""

import json
import os
import re
import threading
from pathlib import Path

import pytest

from rlhf_utils import files
from rlhf_utils.errors import RunError
from rlhf_utils.files import digest
from rlhf_utils.run.stage import Stage, check_parameters, collect_results, convert, run_dir

PARAMETERS_CELL = """run: str = "demo"  # folder
seed: int = 0  # of everything random
learning_rate: float = 1e-3  # of AdamW
resume: bool = False  # go on"""


def notebook(injected: str = "", **values) -> dict:
    """The namespace of a notebook whose parameters cell and papermill's injected one were executed."""
    cells = ["", "import torch", PARAMETERS_CELL] + (
        [f"# Parameters\n{injected}"] if injected else []
    )
    return {"In": cells, "run": "demo", "seed": 0, "learning_rate": 1e-3, "resume": False} | values


# --- names and parameters


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


@pytest.mark.parametrize(
    ("value", "kind", "wanted"),
    [
        ("1e-4", "float", 1e-4),
        (3, "float", 3.0),
        ("3", "float", 3.0),
        (0.5, "float", 0.5),
        ("-2", "int", -2),
        (3.0, "int", 3),
        ("1e3", "int", 1000),
        ("true", "bool", True),
        ("False", "bool", False),
        (True, "bool", True),
        ("x", "str", "x"),
        ("", "str", ""),
        (9007199254740993, "int", 9007199254740993),
        ("9007199254740993", "int", 9007199254740993),  # more digits than a float holds
    ],
)
def test_convert_loses_nothing(value, kind, wanted):
    converted = convert("x", value, kind)
    assert converted == wanted and type(converted) is type(wanted)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("many", "int"),
        (2.5, "int"),
        ("2.5", "int"),
        (True, "int"),
        (True, "float"),
        (1, "bool"),
        ("yes", "bool"),
        (None, "str"),
        (3, "str"),
        ([1], "float"),
        (None, "float"),
        ("", "int"),
        ("inf", "int"),
        ("nan", "int"),
        (10**400, "float"),
        (float("nan"), "float"),
        (float("inf"), "float"),
    ],
)
def test_convert_refuses_with_name_value_and_type(value, kind):
    with pytest.raises(RunError) as error:
        convert("my_parameter", value, kind)
    assert (
        f"my_parameter={value!r}" in str(error.value)
        and f"type {kind}" in str(error.value)
        and type(value).__name__ in str(error.value)
    )


def test_check_parameters_converts_in_the_namespace():
    namespace = notebook(
        'learning_rate = "1e-4"\nresume = "true"\nseed = 7.0\n',
        learning_rate="1e-4",
        resume="true",
        seed=7.0,
        other="not a parameter",
    )
    values = check_parameters(namespace)
    assert values == {"run": "demo", "seed": 7, "learning_rate": 1e-4, "resume": True}
    assert (
        namespace["learning_rate"] == 1e-4
        and namespace["resume"] is True
        and namespace["other"] == "not a parameter"
    )


def test_check_parameters_names_what_nobody_knows():
    with pytest.raises(RunError, match="'lerning_rate'.*learning_rate, resume, run, seed"):
        check_parameters(notebook("seed = 1\nlerning_rate = 0.1\n", lerning_rate=0.1))


def test_check_parameters_names_the_wrong_type():
    with pytest.raises(RunError, match="seed='many' should be of type int"):
        check_parameters(notebook('seed = "many"\n', seed="many"))


def test_check_parameters_lets_a_profile_serve_all_notebooks():
    check_parameters(notebook("kl_coef = 0.1\n", kl_coef=0.1))  # a parameter of 04


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be above 0"),
        ({"seed": -1}, "seed=-1 must not be negative"),
    ],
)
def test_check_parameters_names_what_is_out_of_range(changes, told):
    with pytest.raises(RunError, match=told):
        check_parameters(notebook(**changes))


def test_check_parameters_knows_the_dtypes():
    with pytest.raises(RunError, match="dtype='float16' must be 'auto', 'float32' or 'bfloat16'"):
        check_parameters(
            notebook(dtype="float16")
            | {"In": [PARAMETERS_CELL + '\ndtype: str = "auto"  # of weights']}
        )


# --- a stage and its manifest


def test_stage_whose_input_is_missing_names_the_notebook(outputs):
    stage = Stage("ppo", notebook(run="mine"))
    with pytest.raises(
        RunError,
        match="reward_model/head.safetensors is missing in run 'mine': run notebook 03_reward_model with run='mine'",
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
            match="ppo/adapter was made from another sft/weights than .* run notebook 04_ppo with run='demo' again",
        ):
            Stage("evaluation", notebook()).needs("ppo/adapter")


def test_manifest(outputs, monkeypatch):
    for name in ("HF_TOKEN", "WANDB_API_KEY", "SOME_SETTING", "USER", "HOSTNAME"):
        monkeypatch.setenv(name, f"secret-of-{name}")
    made(outputs, "sft", "weights", "w")
    stage = Stage("preferences", notebook(seed=5))
    path = stage.needs("sft/weights")
    assert len(stage.rows("builtin", "prompts")) >= 800
    assert path.read_text() == "w"
    returned = stage.finish({"preferences.pairs": 12})
    text = (outputs / "demo" / "preferences" / "manifest.json").read_text()
    manifest = json.loads(text)
    assert manifest == json.loads(json.dumps(returned))
    assert set(manifest) == {
        "stage",
        "run",
        "parameters",
        "seed",
        "inputs",
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
    assert (
        manifest["parameters"] == {"run": "demo", "seed": 5, "learning_rate": 1e-3, "resume": False}
        and manifest["seed"] == 5
    )
    assert manifest["inputs"] == {"sft/weights": digest(path)} and manifest["results"] == {
        "preferences.pairs": 12
    }
    assert len(manifest["data"]["prompts"]) == 64
    assert (
        manifest["wall_s"] >= 0
        and manifest["peak_memory_gb"] > 0.05
        and manifest["versions"]["torch"]
    )
    assert (
        "secret-of-" not in text and str(outputs) not in text and str(Path.home()) + "/" not in text
    )


def test_work_that_begins_takes_the_old_manifest_away(outputs):
    """Else a stage that failed on its second run would look finished; one that never began loses nothing."""
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


# --- files


def folder_of(path: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    return path


def test_digest_changes_with_names_contents_and_number_of_files(tmp_path):
    cases = [
        {"a": "x"},
        {"a": "y"},
        {"b": "x"},
        {"a": "x", "b": "x"},
        {"a": "x", "b": "y"},
        {"a": "y", "b": "x"},
    ]
    folders = [folder_of(tmp_path / str(number), files) for number, files in enumerate(cases)]
    assert len({digest(folder) for folder in folders}) == len(cases)
    assert digest(folders[0] / "a") == digest(folders[3] / "a") != digest(folders[1] / "a")
    assert digest(folder_of(tmp_path / "again", {"b": "x", "a": "x"})) == digest(
        folders[3]
    )  # not with the order of writing


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": "xb"}, {"ax": "b"}),
        ({"a": "x", "b": ""}, {"a": "xb"}),
        ({"a": "x", "b": "x"}, {"a": "x", "c/b": "x"}),
    ],
)
def test_digest_knows_where_names_end_and_in_which_folder_they_are(tmp_path, one, other):
    assert digest(folder_of(tmp_path / "1", one)) != digest(folder_of(tmp_path / "2", other))


def test_write_json_is_never_met_half_written(tmp_path):
    path, stop, met, broken = tmp_path / "new" / "x.json", threading.Event(), [], []
    files.write_json(path, {"n": 0, "text": "x" * 200_000})

    def read():
        while not stop.is_set():
            try:
                met.append(json.loads(path.read_text())["n"])
            except ValueError as error:
                broken.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(100):
        files.write_json(path, {"n": n, "text": "x" * 200_000})
    stop.set()
    reader.join()
    assert met and met == sorted(met) and not broken


def test_write_json_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    files.write_json(path, {"old": 1})
    with pytest.raises((AttributeError, ValueError)):
        files.write_json(path, {"new": object()})
    monkeypatch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError):
        files.write_json(path, {"new": 1})
    assert files.read_json(path) == {"old": 1}


def test_jsonl_log_keeps_and_cuts(tmp_path):
    path = tmp_path / "new" / "metrics.jsonl"
    log = files.JsonlLog(path)
    rows = [{"n": n, "text": "é\n"} for n in range(4)]
    for row in rows:
        log.add(row)
    log.cut(9)
    assert log.rows == rows
    log.cut(3)
    assert len(path.read_text().strip("\n").split("\n")) == 3
    again = files.JsonlLog(path, keep=True)
    assert again.rows == rows[:3]
    again.add({"n": 9})
    assert [row["n"] for row in files.JsonlLog(path, keep=True).rows] == [0, 1, 2, 9]
    assert files.JsonlLog(path).rows == [] and path.read_text() == ""


def test_jsonl_log_keeps_what_a_model_may_write(tmp_path):
    """str.splitlines ends a line at U+2028, JSON does not."""
    files.JsonlLog(tmp_path / "samples.jsonl").add({"response": "a\u2028b"})
    assert files.JsonlLog(tmp_path / "samples.jsonl", keep=True).rows == [{"response": "a\u2028b"}]
