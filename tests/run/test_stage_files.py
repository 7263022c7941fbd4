"""A file of a run that is cut, flipped or missing: one sentence names it and what to run again."""

import json
import re

import pytest
from helpers_run import write_notebook

from rlhf_utils import files
from rlhf_utils.errors import RunError
from rlhf_utils.run.manifest import MEASURED, STAGES, collect_results, read_manifest
from rlhf_utils.run.stage import Stage

# What the stages of a run write, and what reads it: file → what a later stage asks for.
WRITTEN = {
    "sft/policy/model.safetensors": "sft/policy",
    "sft/policy/config.json": "sft/policy",
    "sft/policy/tokenizer.json": "sft/policy",
    "preferences/items.jsonl": "preferences/items.jsonl",
    "preferences/pairs.jsonl": "preferences/pairs.jsonl",
    "preferences/agreement.json": "preferences/agreement.json",
    "reward_model/model.safetensors": "reward_model",
    "reward_model/head.safetensors": "reward_model",
    "reward_model/reward_config.json": "reward_model",
    "reward_model/report.json": "reward_model",
    "reward_model/classifier/model.safetensors": "reward_model",
    "ppo/policy/adapter_model.safetensors": "ppo/policy",
    "ppo/policy/adapter_config.json": "ppo/policy",
    "ppo/metrics.jsonl": "ppo/metrics.jsonl",
    "ppo/samples.jsonl": "ppo/samples.jsonl",
    "ppo/answers.jsonl": "ppo/answers.jsonl",
}
NEEDS = {
    "sft": [],
    "preferences": ["sft/policy"],
    "reward_model": ["sft/policy", "preferences/pairs.jsonl"],
    "ppo": ["sft/policy", "reward_model", "preferences/items.jsonl"],
}


@pytest.fixture
def run(tmp_path, outputs, monkeypatch):
    """A finished run, but for its evaluation."""
    for name in ("rlhf_utils", "notebooks"):
        (tmp_path / name).mkdir()
    for name, _ in STAGES.values():
        parameters = 'run: str = "demo"  # folder\nseed: int = 0  # of everything random'
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb", parameters)
    monkeypatch.chdir(tmp_path)
    for name, needed in NEEDS.items():
        stage = new_stage(name)
        for relative in needed:
            stage.needs(relative)
        for relative in WRITTEN:
            if relative.startswith(name + "/"):
                files.write_text(outputs / "demo" / relative, f'{{"what {relative} holds": 1}}\n')
        stage.finish({f"{name}.number": 1.5})
    return outputs / "demo"


def new_stage(name: str) -> Stage:
    return Stage(name, {"run": "demo", "seed": 0})


def cut(path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove(path) -> None:
    path.unlink()


def test_a_run_that_nobody_touched_is_taken(run):
    stage = new_stage("evaluation")
    for asked in WRITTEN.values():
        assert stage.needs(asked).exists()
    (run / "sft" / "policy" / ".DS_Store").write_text("left by a file browser")
    manifest = files.read_json(run / "ppo" / "manifest.json")
    assert manifest["outputs"].keys() == {
        "ppo/policy",
        "ppo/policy/adapter_config.json",
        "ppo/policy/adapter_model.safetensors",
        "ppo/metrics.jsonl",
        "ppo/samples.jsonl",
        "ppo/answers.jsonl",
    }


@pytest.mark.parametrize("damage", [cut, flip, remove])
@pytest.mark.parametrize("file", WRITTEN)
def test_a_damaged_output_is_named_with_what_to_run_again(run, file, damage):
    damage(run / file)
    notebook = STAGES[file.split("/")[0]][0]
    with pytest.raises(RunError) as caught:
        new_stage("evaluation").needs(WRITTEN[file])
    told = str(caught.value)
    assert file in told and f"run notebook {notebook} with run='demo'" in told
    assert told.count("\n") == 0 and told.count(". ") == 0 and str(run) not in told


@pytest.mark.parametrize("damage", [cut, flip, remove])
@pytest.mark.parametrize("stage", NEEDS)
def test_a_damaged_manifest_is_named_with_what_to_run_again(run, stage, damage):
    damage(run / stage / "manifest.json")
    asked = next(asked for file, asked in WRITTEN.items() if file.startswith(stage + "/"))
    with pytest.raises(RunError) as caught:
        new_stage("evaluation").needs(asked)
    told = str(caught.value)
    assert f"run notebook {STAGES[stage][0]} with run='demo'" in told
    assert (asked if damage is remove else f"{stage}/manifest.json of run 'demo'") in told


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"inputs": []}',
        '{"inputs": {}, "outputs": 3}',
        '{"results": 1}',
        "[" * 50_000,
        "\ud800",
    ],
)
def test_a_manifest_of_another_shape_is_one_sentence(run, text):
    (run / "sft" / "manifest.json").write_bytes(text.encode(errors="surrogatepass"))
    for read in (
        lambda: new_stage("preferences").needs("sft/policy"),
        lambda: collect_results(run),
        lambda: new_stage("evaluation").parameters_of("sft"),
    ):
        with pytest.raises(RunError, match="^sft/manifest.json of run 'demo' is damaged.* 01_sft"):
            read()


def test_every_flipped_bit_of_what_a_manifest_measured_is_seen(run):
    path = run / "preferences" / "manifest.json"
    whole = path.read_bytes()
    known = {name: json.loads(whole)[name] for name in MEASURED}
    seen = 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 2]) + whole[place + 1 :])
        try:
            found = read_manifest(path.parent, "results", "inputs")
        except RunError:
            seen += 1
        else:
            assert {name: found[name] for name in MEASURED} == known
    assert seen > 50


def test_files_swapped_between_runs_are_told(run):
    first, second = run / "preferences/pairs.jsonl", run / "preferences/items.jsonl"
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    told = (
        "preferences/pairs.jsonl has changed since 02_preferences wrote it: "
        "run notebook 02_preferences with run='demo' again."
    )
    with pytest.raises(RunError, match=f"^{re.escape(told)}$"):
        new_stage("reward_model").needs("preferences/pairs.jsonl")


def test_a_file_is_read_once(run, monkeypatch):
    from rlhf_utils.run import stage as module

    seen = []
    monkeypatch.setattr(module, "digest", lambda path: seen.append(path) or files.digest(path))
    stage = new_stage("evaluation")
    for asked in ("sft/policy", "reward_model", "ppo/policy", "sft/policy"):
        stage.needs(asked)
    assert len(seen) == len(set(seen)) == 5


def test_manifests_by_an_earlier_version_still_do(run):
    for name in NEEDS:
        path = run / name / "manifest.json"
        manifest = files.read_json(path)
        files.write_json(
            path, {n: v for n, v in manifest.items() if n not in ("outputs", "sha256")}
        )
    stage = new_stage("evaluation")
    assert all(stage.needs(asked).exists() for asked in WRITTEN.values())
    assert collect_results(run)["ppo.number"] == 1.5


def test_the_manifest_can_be_part_of_what_a_stage_writes_and_still_is_last(run):
    stage = new_stage("evaluation")
    manifest = stage.manifest({"eval.kl": float("nan")})
    assert not (stage.dir / "manifest.json").exists()
    assert stage.finish({"eval.kl": float("nan")}, manifest) is manifest
    assert read_manifest(stage.dir, "results")["results"] == {"eval.kl": None}


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("name, stage", [("sft.loss_heldout", "sft"), ("ppo.kl", "ppo")])
def test_training_that_diverged_is_not_finished(run, name, stage, broken):
    stage = new_stage(stage)
    stage.progress("step", 1, 2)
    with pytest.raises(RunError, match=f"{name} is {broken}: training has diverged.*learning_rate"):
        stage.finish({name: broken})
    assert not (stage.dir / "manifest.json").exists()


def test_an_interrupt_says_how_far_the_work_is_and_how_to_go_on(run):
    stage, rows = new_stage("sft"), [1, 2]
    told = "^Stopped after step 2 of 9. Run this cell again to go on.$"
    with pytest.raises(RunError, match=told), stage.pausable(lambda: f"step {len(rows)} of 9"):
        raise KeyboardInterrupt
    with pytest.raises(ZeroDivisionError), stage.pausable(lambda: ""):
        raise ZeroDivisionError
