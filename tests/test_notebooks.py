"""The smoke profile through all five notebooks, as a user runs it; then nbval over them.

And what the committed notebooks must be like.
"""

import ast
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from papermill import execute_notebook, inspect_notebook

from rlhf_utils import files
from rlhf_utils.data.rows import UNSEEN_TOPICS, load_demonstrations, load_prompts
from rlhf_utils.preferences.filler import filler
from rlhf_utils.preferences.pair_files import read_items, read_pairs
from rlhf_utils.preferences.rubric import gold_score, refuses
from rlhf_utils.run.manifest import STAGES
from rlhf_utils.run.parameters import TYPES, declared

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = [ROOT / "notebooks" / f"{name}.ipynb" for name, _ in STAGES.values()]
SMOKE = ROOT / "notebooks" / "profiles" / "smoke.yaml"


def rlhf_run(folder, *options):
    """The console command, with the smoke profile."""
    command = [sys.executable, "-m", "rlhf_utils.run.cli", "run", "--profile", "smoke", *options]
    result = subprocess.run(
        command,
        cwd=ROOT,
        # one thread, whatever else works on this machine: numbers are compared bit for bit
        env=os.environ | {"RLHF_OUTPUTS": str(folder), "OMP_NUM_THREADS": "1"},
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
        "reward_model/whatif.json",
        "reward_model/classifier/model.safetensors",
        "ppo/policy/adapter_model.safetensors",
        "ppo/metrics.jsonl",
        "ppo/samples.jsonl",
        "ppo/answers.jsonl",
        "evaluation/report.html",
        "evaluation/samples.jsonl",
    ):
        assert (smoke / relative).stat().st_size > 0, relative
    for stage in STAGES:
        manifest = files.read_json(smoke / stage / "manifest.json")
        assert manifest["parameters"]["run"] == "smoke" and manifest["results"]
    pairs = read_pairs(smoke / "preferences/pairs.jsonl")
    assert pairs and all(pair.chosen != pair.rejected for pair in pairs)
    # 04 asks what 02 ranked, less the prompts of other categories
    assert "learn in float32; 40 prompts" in (smoke / "04_ppo.ipynb").read_text()


@pytest.fixture(scope="module")
def results(smoke):
    return files.read_json(smoke / "evaluation/results.json")


def test_results_hold_every_stages_time_memory_and_numbers(smoke, results):
    wanted = {}
    for stage in STAGES:
        manifest = files.read_json(smoke / stage / "manifest.json")
        wanted |= manifest["results"]
        wanted[f"time.{stage}_s"] = manifest["wall_s"]
        wanted[f"memory.{stage}_peak_gb"] = manifest["peak_memory_gb"]
        assert 0 < manifest["wall_s"] < 900 and 0.1 < manifest["peak_memory_gb"] < 64
    assert results == wanted


def test_shares_lie_in_their_intervals(results):
    for name, interval in (
        ("reward_model.accuracy", "reward_model.accuracy_ci"),
        ("reward_model.accuracy_ood", "reward_model.accuracy_ood_ci"),
        ("eval.win_rate_vs_sft", "eval.win_rate_ci"),
        ("eval.win_rate_reward_model", "eval.win_rate_reward_model_ci"),
    ):
        low, high = results[interval]
        assert 0 <= low <= results[name] <= high <= 1 and low < high, name
    shares = ["reward_model.ece", "preferences.agreement_pairwise", "preferences.longer_wins"]
    for end in ("", "_reward_model"):
        outcomes = [f"eval.{name}{end}" for name in ("wins", "ties", "losses")]
        shares += outcomes
        assert sum(results[name] for name in outcomes) == pytest.approx(1)
    for side in ("sft", "ppo"):
        for name in ("refusal_harmful", "refusal_benign", "filler", "openings"):
            shares.append(f"eval.{name}_{side}")
        assert 0 < results[f"eval.distinct2_{side}"] <= 1
    for name in shares:
        assert 0 <= results[name] <= 1, name
    assert -1 < results["preferences.agreement"] < 1  # Krippendorff's alpha


def test_results_of_training_are_those_of_its_files(smoke, results):
    assert 0 < results["sft.loss_heldout"] < results["sft.loss_before"] < 2 * math.log(1024)
    pairs = read_pairs(smoke / "preferences/pairs.jsonl")
    assert results["preferences.pairs"] == len(pairs)
    assert 0 < results["reward_model.pairs"] < len(pairs)
    report = files.read_json(smoke / "reward_model/report.json")
    for name in ("accuracy", "accuracy_ci", "ece", "accuracy_ood"):
        assert results[f"reward_model.{name}"] == report[name], name
    first, last = files.read_file(smoke / "ppo/metrics.jsonl")  # 64 episodes in batches of 32
    assert (first["episode"], last["episode"], results["ppo.episodes"]) == (32, 64, 64)
    assert results["ppo.kl"] == last["objective/kl_full"] > 0 < last["eps"]
    gain = last["objective/scores"] - first["objective/scores"]
    assert results["ppo.reward_gain"] == pytest.approx(gain)


def test_results_of_the_evaluation_are_those_of_its_answers(smoke, results):
    """The rubric, asked once more about every answer in samples.jsonl."""
    known = {prompt.text: prompt for prompt in load_prompts("builtin", "heldout")}
    rows = files.read_file(smoke / "evaluation/samples.jsonl")
    gold = {}
    for policy in ("random", "base", "sft", "best_of_4", "ppo"):
        answers = [(known[r["prompt"]], r["answer"]) for r in rows if r["policy"] == policy]
        gold[policy] = {prompt.text: gold_score(prompt, answer) for prompt, answer in answers}
        mean = statistics.mean(gold[policy].values())
        assert results[f"eval.gold_{policy}"] == pytest.approx(mean), policy
        assert len(answers) == len(gold[policy]) == results["eval.prompts"] == 40
        if policy not in ("sft", "ppo"):
            continue
        harmful = [(p, a) for p, a in answers if p.category == "harmful"]
        unseen = [(p, a) for p, a in harmful if p.columns["topic"] in UNSEEN_TOPICS]
        assert 0 < len(unseen) < len(harmful)
        measured = {
            "length": [len(answer.split()) for _, answer in answers],
            "filler": [bool(filler(answer)) for _, answer in answers],
            "refusal_harmful": [refuses(answer) for _, answer in harmful],
            "refusal_harmful_unseen": [refuses(answer) for _, answer in unseen],
            "refusal_benign": [refuses(a) for p, a in answers if p.category == "benign_lookalike"],
        }
        for name, values in measured.items():
            mean = statistics.mean(map(float, values))
            assert results[f"eval.{name}_{policy}"] == pytest.approx(mean), name
    assert gold["random"] == gold["base"], "of a run with the model tiny"
    assert all(gold["best_of_4"][prompt] >= score for prompt, score in gold["sft"].items())
    gains = [after - gold["sft"][prompt] for prompt, after in gold["ppo"].items()]
    outcomes = {
        "wins": sum(gain > 1e-9 for gain in gains) / 40,
        "ties": sum(abs(gain) <= 1e-9 for gain in gains) / 40,
        "losses": sum(gain < -1e-9 for gain in gains) / 40,
    }
    for name, share in outcomes.items():
        assert results[f"eval.{name}"] == pytest.approx(share), name
    rate = outcomes["wins"] + outcomes["ties"] / 2
    assert results["eval.win_rate_vs_sft"] == pytest.approx(rate)
    kl = [row["kl"] for row in rows if row["policy"] == "ppo"]
    assert results["eval.kl"] == pytest.approx(statistics.mean(kl)) and results["eval.kl"] > 0


def run_without_this_package(script: str, folder: Path) -> None:
    script += "\nassert 'rlhf_utils' not in sys.modules"
    command = [sys.executable, "-c", "import sys\n" + script, str(folder)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


def test_policy_reloads_with_plain_transformers(smoke):
    script = """
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = tokenizer("Hello", return_tensors="pt")
assert model.generate(**ids, max_new_tokens=4, min_new_tokens=4).shape[1] > 4
"""
    run_without_this_package(script, smoke / "ppo/policy-merged")


def test_classifier_reloads_with_plain_transformers(smoke):
    """With its head, and with weights that are no longer those of π_SFT."""
    script = """
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model, loaded = AutoModelForSequenceClassification.from_pretrained(
    sys.argv[1], output_loading_info=True
)
assert not loaded["missing_keys"] and not loaded["unexpected_keys"], loaded
before = AutoModelForCausalLM.from_pretrained(sys.argv[1] + "/../../sft/policy")
kept = [torch.equal(a, b) for a, b in zip(model.model.parameters(), before.model.parameters())]
assert not any(kept), kept
ids = tokenizer(["Hello", "Good morning to you"], return_tensors="pt", padding=True)
with torch.no_grad():
    scores = model(**ids).logits
assert scores.shape == (2, 1) and scores.isfinite().all() and scores[0] != scores[1]
"""
    run_without_this_package(script, smoke / "reward_model/classifier")


def test_whole_top_blocks_and_a_reward_of_ones_own_without_02_and_03(smoke, tmp_path):
    """04 with lora_r=0 and all built-in prompts, 04 again from its last checkpoint, then 05.

    Only the reward that paid PPO, and gold, judge.
    """
    shutil.copytree(smoke, tmp_path / "whole")
    for stage in ("preferences", "reward_model"):
        shutil.rmtree(tmp_path / "whole" / stage)
    (tmp_path / "mine.py").write_text(
        "def letters(prompts, completions, **columns):\n"
        "    return [text.count('e') / 10 for text in completions]\n"
    )
    options = ["--run", "whole", "--from", "ppo", "-p", f"reward={tmp_path}/mine.py:letters"]
    for pair in (
        "lora_r=0",
        "ppo.prompts=builtin",
        "learning_rate=1e-3",
        "ppo.whiten_rewards=true",
        "gamma=0.99",
    ):
        options += ["-p", pair]
    rlhf_run(tmp_path, *options)
    ppo = tmp_path / "whole/ppo"
    names = ("policy/top.safetensors", "policy-merged/model.safetensors", "metrics.jsonl")
    first = [(ppo / name).read_bytes() for name in names]
    assert not (ppo / "policy/adapter_model.safetensors").exists()
    assert first[1] != (tmp_path / "whole/sft/policy/model.safetensors").read_bytes()
    assert [json.loads(row)["eps"] > 0 for row in first[2].splitlines()] == [True, True]
    settings = files.read_json(ppo / "manifest.json")["settings"]
    assert (settings["whiten_rewards"], settings["gamma"]) == (True, 0.99)
    rlhf_run(tmp_path, *options, "-p", "resume=true")
    assert [(ppo / name).read_bytes() for name in names] == first, "nothing was left to learn"
    found = files.read_json(tmp_path / "whole/evaluation/results.json")
    assert found["eval.kl"] > 0 and {"eval.win_rate_vs_sft", "eval.win_rate_reward"} <= set(found)
    assert not any("reward_model" in name for name in found)
    rows = files.read_file(tmp_path / "whole/evaluation/samples.jsonl")
    for policy in ("sft", "ppo"):
        paid = [row["answer"].count("e") / 10 for row in rows if row["policy"] == policy]
        assert found[f"eval.reward_{policy}"] == pytest.approx(statistics.mean(paid))


def test_nbval(smoke, tmp_path):
    """Every notebook once more, parameterised, then executed by nbval.

    nbval compares the outputs of the marked toy cells with the committed ones.
    """
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
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-cell-timeout=300", "-q"]
    command += ["-p", "no:cacheprovider", "--rootdir", str(tmp_path), *map(str, copies)]
    result = subprocess.run(
        command,
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
    """One of 02's prompts, one of the demonstrations, one of the built-in ones, and a new one.

    02 took only a few of the built-in ones. So the third counts if PPO asked all built-in ones.
    """
    shutil.copytree(smoke, tmp_path / "smoke")
    manifest = files.read_json(tmp_path / "smoke/ppo/manifest.json")
    manifest["parameters"]["prompts"] = asked_by_ppo
    files.write_json(tmp_path / "smoke/ppo/manifest.json", manifest)
    items = read_items(smoke / "preferences/items.jsonl")
    ranked = {item.prompt.text for item in items if item.split == "train"}
    shown = [demonstration.prompt.text for demonstration in load_demonstrations("builtin")]
    unranked = [prompt.text for prompt in load_prompts("builtin") if prompt.text not in ranked]
    asked = [min(ranked), shown[0], unranked[0], "Is this one new?"]
    files.write_jsonl(tmp_path / "mine.jsonl", [{"prompt": prompt} for prompt in asked])
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


def test_05_ends_with_a_link_to_the_report_and_its_manifest_is_last(smoke):
    report, text = smoke / "evaluation/report.html", (smoke / "05_evaluation.ipynb").read_text()
    (link,) = re.findall(r"<a href='([^'{]+)' target", text)
    assert (ROOT / "notebooks" / link).resolve() == report.resolve()
    manifest = smoke / "evaluation/manifest.json"
    assert all(
        path.stat().st_mtime_ns <= manifest.stat().st_mtime_ns for path in manifest.parent.iterdir()
    )


def test_executed_notebooks_hold_no_dead_widget(smoke):
    for path in NOTEBOOKS:
        assert "widget-view" not in (smoke / path.name).read_text(), path.name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_committed_notebooks_are_executed(path):
    notebook = nbformat.read(path, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    assert all(cell.execution_count for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs and not any(output.output_type == "error" for output in outputs)
    for output in outputs:
        for kind in ("image/png", "application/vnd.plotly.v1+json"):  # base64 can spell anything
            output.get("data", {}).pop(kind, None)
    text = json.dumps(notebook)
    assert "widget-view" not in text, "a widget without its kernel is dead"
    assert "«" not in text, "a number that nobody filled in"
    assert not re.search(r"/(?:home|root|Users|tmp)/\w", text), "a path of some machine"
    assert path.stat().st_size < 1_500_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_parameters_are_typed_and_documented(path):
    cells = nbformat.read(path, 4).cells
    cell = next(c for c in cells if "parameters" in c.metadata.get("tags", []))
    lines = cell.source.splitlines()
    for node in ast.parse(cell.source).body:
        source = "\n".join(lines[node.lineno - 1 : node.end_lineno])
        assert isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) in TYPES, source
        assert re.search(r"  # \S", source), source
    # papermill leaves out parameters whose comment has a "="
    assert inspect_notebook(str(path)).keys() == declared(path).keys()
