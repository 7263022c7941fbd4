"""The smoke profile through all five notebooks, as a user runs it; then nbval over them; and what the committed ones must be like."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from papermill import execute_notebook

from rlhf_utils import files
from rlhf_utils.data.rows import load_rows
from rlhf_utils.run.stage import STAGES

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = [ROOT / "notebooks" / f"{name}.ipynb" for name, _ in STAGES.values()]
SMOKE = ROOT / "notebooks" / "profiles" / "smoke.yaml"


def rlhf_run(folder, *options):
    """The console command, with the smoke profile."""
    command = [sys.executable, "-m", "rlhf_utils.run.cli", "run", "--profile", "smoke", *options]
    result = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"RLHF_OUTPUTS": str(folder)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "report.html" in result.stdout


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A finished smoke run."""
    folder = tmp_path_factory.mktemp("outputs")
    rlhf_run(folder, "--run", "smoke")
    return folder / "smoke"


def test_every_stage_leaves_what_the_next_one_needs(smoke):
    for relative in (
        "sft/policy/model.safetensors",
        "preferences/labels.sqlite",
        "preferences/pairs.jsonl",
        "preferences/agreement.json",
        "reward_model/head.safetensors",
        "reward_model/report.json",
        "ppo/policy/adapter_model.safetensors",
        "ppo/metrics.jsonl",
        "ppo/samples.jsonl",
        "evaluation/report.html",
        "evaluation/samples.jsonl",
    ):
        assert (smoke / relative).stat().st_size > 0, relative
    for stage in STAGES:
        manifest = files.read_json(smoke / stage / "manifest.json")
        assert (
            manifest["wall_s"] > 0
            and manifest["peak_memory_gb"] > 0.1
            and manifest["parameters"]["run"] == "smoke"
        )
    pairs = load_rows(str(smoke / "preferences/pairs.jsonl"), "preferences")
    assert all(pair["chosen"] != pair["rejected"] for pair in pairs)
    assert "learn in float32; 40 prompts" in (smoke / "04_ppo.ipynb").read_text(), (
        "04 asks what 02 ranked, less the 8 of other categories"
    )


def test_results_have_the_contract_keys(smoke):
    results = files.read_json(smoke / "evaluation/results.json")
    wanted = [
        "sft.loss_heldout",
        "reward_model.accuracy",
        "reward_model.accuracy_ci",
        "reward_model.ece",
        "reward_model.accuracy_ood",
        "preferences.agreement",
        "ppo.kl",
        "ppo.reward_gain",
        "eval.win_rate_vs_sft",
        "eval.win_rate_ci",
    ]
    wanted += [
        f"eval.{name}_{side}"
        for name in ("refusal_harmful", "refusal_benign", "distinct2", "length")
        for side in ("sft", "ppo")
    ]
    wanted += [
        f"{kind}" for stage in STAGES for kind in (f"time.{stage}_s", f"memory.{stage}_peak_gb")
    ]
    assert not [key for key in wanted if key not in results]


def test_policy_reloads_with_plain_transformers(smoke):
    script = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1]); model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "ids = tokenizer('Hello', return_tensors='pt'); print(model.generate(**ids, max_new_tokens=4).shape); assert 'rlhf_utils' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(smoke / "ppo/policy-merged")],
        check=True,
        cwd=smoke,
        capture_output=True,
    )


def test_whole_top_blocks_are_saved_merged_resumed_and_evaluated(smoke, tmp_path):
    """04 with lora_r=0 and all built-in prompts, then 04 again from its last checkpoint, then 05."""
    shutil.copytree(smoke, tmp_path / "whole")
    options = (
        "--run",
        "whole",
        "--from",
        "ppo",
        "-p",
        "lora_r=0",
        "-p",
        "ppo.prompts=builtin",
        "-p",
        "learning_rate=1e-3",
        "-p",
        "more=whiten_rewards=true, gamma=0.99",
    )
    rlhf_run(tmp_path, *options)
    ppo, names = (
        tmp_path / "whole/ppo",
        ("policy/top.safetensors", "policy-merged/model.safetensors", "metrics.jsonl"),
    )
    first = [(ppo / name).read_bytes() for name in names]
    assert (
        not (ppo / "policy/adapter_model.safetensors").exists()
        and first[1] != (tmp_path / "whole/sft/policy/model.safetensors").read_bytes()
    )
    assert [json.loads(row)["eps"] > 0 for row in first[2].splitlines()] == [True, True]
    rlhf_run(tmp_path, *options, "-p", "resume=true")
    assert [(ppo / name).read_bytes() for name in names] == first, "nothing was left to learn"
    assert files.read_json(tmp_path / "whole/evaluation/results.json")["eval.kl"] > 0


def test_nbval(smoke, tmp_path):
    """Every notebook once more, parameterised and then executed by nbval, with the marked toy outputs compared to the committed ones."""
    parameters = yaml.safe_load(SMOKE.read_text())
    copies = []
    for path in NOTEBOOKS:
        copies.append(tmp_path / path.name)
        execute_notebook(
            str(path), str(copies[-1]), {"run": "smoke"} | parameters, prepare_only=True
        )
    marked = sum(
        "NBVAL_CHECK_OUTPUT" in c.source for copy in copies for c in nbformat.read(copy, 4).cells
    )
    assert marked >= 8
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--nbval-lax",
            "--nbval-cell-timeout=300",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(tmp_path),
            *map(str, copies),
        ],
        cwd=tmp_path,
        env=os.environ | {"RLHF_OUTPUTS": str(smoke.parent)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout[-4000:]


@pytest.mark.parametrize(("asked_by_ppo", "found"), [("", 2), ("builtin", 3)])
def test_prompts_that_a_stage_has_learned_from_are_no_held_out_ones(
    smoke, tmp_path, monkeypatch, asked_by_ppo, found
):
    """Of 02's prompts, the demonstrations and the built-in prompts one each, of which PPO asks 02's or all; the other two were not among the few that 02 took."""
    shutil.copytree(smoke, tmp_path / "smoke")
    manifest = files.read_json(tmp_path / "smoke/ppo/manifest.json")
    files.write_json(
        tmp_path / "smoke/ppo/manifest.json",
        manifest | {"parameters": manifest["parameters"] | {"prompts": asked_by_ppo}},
    )
    ranked = {
        row["prompt"]
        for row in load_rows(str(smoke / "preferences/items.jsonl"), "prompts")
        if row["split"] == "train"
    }
    fresh = [
        next(row for row in load_rows("builtin", kind) if row["prompt"] not in ranked)
        for kind in ("demonstrations", "prompts")
    ]
    files.write_jsonl(
        tmp_path / "mine.jsonl",
        [
            {"prompt": prompt}
            for prompt in (min(ranked), fresh[0]["prompt"], fresh[1]["prompt"], "Is this one new?")
        ],
    )
    monkeypatch.setenv("RLHF_OUTPUTS", str(tmp_path))
    with pytest.raises(Exception, match=f"{found} held-out prompts were trained on"):
        values = {
            "run": "smoke",
            "dtype": "float32",
            "heldout_prompts": str(tmp_path / "mine.jsonl"),
        }
        execute_notebook(
            str(NOTEBOOKS[4]), str(tmp_path / "x.ipynb"), values, progress_bar=False, cwd=str(ROOT)
        )


def test_unknown_and_ill_typed_parameters_stop_plain_papermill(outputs):
    for parameters, told in (
        ({"lerning_rate": 0.1}, "lerning_rate"),
        ({"num_train_epochs": "many"}, "num_train_epochs='many'"),
    ):
        with pytest.raises(Exception, match=told):
            execute_notebook(
                str(NOTEBOOKS[0]),
                str(outputs / "x.ipynb"),
                {"run": "bad"} | parameters,
                progress_bar=False,
                cwd=str(ROOT),
            )


def test_stage_without_its_input_names_the_notebook_to_run(outputs):
    with pytest.raises(Exception, match="run notebook 01_sft"):
        execute_notebook(
            str(NOTEBOOKS[1]),
            str(outputs / "x.ipynb"),
            {"run": "empty", "dtype": "float32"},
            progress_bar=False,
            cwd=str(ROOT),
        )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_committed_notebooks_are_executed_and_short(path):
    notebook = nbformat.read(path, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    assert max(cell.source.count("\n") + 1 for cell in code) <= 25
    assert (
        all(cell.execution_count for cell in code)
        and any(cell.outputs for cell in code)
        and not any(o.output_type == "error" for cell in code for o in cell.outputs)
    )
    for output in (o for cell in code for o in cell.outputs):
        for kind in ("image/png", "application/vnd.plotly.v1+json"):  # base64 can spell anything
            output.get("data", {}).pop(kind, None)
    text = json.dumps(notebook)
    assert not re.search(r"/(?:home|root|Users|tmp)/\w", text), "a path of some machine"
    assert path.stat().st_size < 1_500_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_parameters_are_documented(path):
    cell = next(
        c for c in nbformat.read(path, 4).cells if "parameters" in c.metadata.get("tags", [])
    )
    for line in cell.source.splitlines():
        assert re.fullmatch(r"\w+: (str|int|float|bool) = .+  # .+", line), line
