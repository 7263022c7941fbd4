"""`rlhf run` in one process, steered by `rlhf control` from another, then resumed and branched."""

import os
import subprocess
import sys
import time

import pytest

from rlhf_utils.files import read_file, read_json
from rlhf_utils.run.paths import project_root

FEW = "evaluation.num_prompts=12"
SHORT = "num_demonstrations=24"
TINY = ("prompts=builtin", "response_length=8", "total_episodes=1024", "save_every=4")
NOT_THE_SAME = ("eps", "time/sample_s", "time/score_s", "time/update_s", "interventions")


@pytest.fixture(scope="module")
def rlhf(tmp_path_factory):
    """The command in a process of its own; `wait` for its (status, stdout, stderr)."""
    folder = tmp_path_factory.mktemp("outputs")
    environment = os.environ | {"RLHF_OUTPUTS": str(folder), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

    def call(*arguments, wait=True):
        command = [sys.executable, "-m", "rlhf_utils.run.cli", *arguments]
        process = subprocess.Popen(command, cwd=project_root(), env=environment, **pipes)
        return (process.communicate(timeout=200), process.returncode) if wait else process

    call.run = folder / "mine"
    (folder / "slow").touch()
    (folder / "mine.py").write_text(
        "import os, time\n\n"
        "def letters(completions, **columns):\n"
        f"    time.sleep(0.4 * os.path.exists({str(folder / 'slow')!r}))\n"
        "    return [text.count('e') / max(len(text), 1) * 20 for text in completions]\n"
    )
    given = [*TINY, f"reward={folder}/mine.py:letters"]
    call.options = [option for pair in given for option in ("-p", pair)]
    return call


def progress(run, process, what):
    path, deadline = run / "ppo/progress.json", time.time() + 120
    while time.time() < deadline:
        assert process.poll() is None, process.communicate()
        if path.exists() and read_json(path)["what"] == what:
            return read_json(path)["done"]
        time.sleep(0.05)
    raise AssertionError(f"never {what}")


def rows_of(run):
    rows = read_file(run / "ppo/metrics.jsonl")
    return [{n: v for n, v in row.items() if n not in NOT_THE_SAME} for row in rows]


def test_a_run_is_steered_from_another_process_and_goes_on_exactly(rlhf):
    run = rlhf.run
    (_, told), status = rlhf("run", "mine", "--profile", "smoke", "--only", "sft", "-p", SHORT)
    assert status == 0, told
    (_, told), status = rlhf("control", "mine", "pause")
    assert status == 2 and "not in the loop of 04 now" in told and told.count("\n") == 1
    process = rlhf("run", "mine", "--only", "ppo", *rlhf.options, wait=False)
    progress(run, process, "update")
    (out, told), status = rlhf("control", "mine", "pause")
    assert status == 0, told
    asked, done = out.splitlines()
    assert asked.startswith("asked; update ") and asked.endswith(" of 32 is at work")
    held = progress(run, process, "paused at update")
    when = f"after update {held}" if held else "before the first update"
    assert done == f"paused {when}; `rlhf control mine resume` goes on"

    (out, _), status = rlhf("control", "mine", "set", "kl_coef=0.5")
    assert status == 0 and out.splitlines()[1] == f"{when}: kl_coef 0.05 → 0.5"
    (_, told), status = rlhf("control", "mine", "set", "learning_rate=0")
    assert status == 2 and "learning_rate=0.0 must be above 0" in told
    (out, _), status = rlhf("control", "mine", "sample", "Who are you?\x1b[31m")
    assert status == 0 and f"{when}, reward " in out and "nats: " in out and "\x1b" not in out
    assert len(rows_of(run)) == held, "it stood still all the while"
    (out, _), status = rlhf("control", "mine", "resume")
    assert status == 0 and out.splitlines()[0] == f"asked; paused at update {held} of 32"

    (out, told), status = rlhf("control", "mine", "stop")
    assert status == 0, told
    stopped = len(rows_of(run))
    assert held < stopped < 32
    words = f"stopped after update {stopped}; checkpoint update-{stopped:06d}"
    assert out.splitlines()[1] == words
    (run.parent / "slow").unlink()
    assert process.communicate(timeout=60) and process.returncode == 0
    manifest = read_json(run / "ppo/manifest.json")
    assert manifest["results"]["ppo.stopped_early"] and (run / "ppo/policy-merged").is_dir()
    text = (run / "04_ppo.ipynb").read_text()
    assert "widget" not in text.replace("ipywidgets", "") and "rlhf control mine pause" in text
    steered = read_file(run / "ppo/metrics.jsonl")
    assert steered[held]["interventions"][0] == "kl_coef 0.05 → 0.5"
    assert steered[held]["objective/kl_coef"] == 0.5
    assert steered[-1]["interventions"][-1] == "stopped after it"

    (out, told), status = rlhf("run", "mine", "--only", "ppo", "-p", "resume=true")
    assert status == 0, told
    whole = rows_of(run)
    assert len(whole) == 32 and [row["objective/kl_coef"] for row in whole[held:]] == [0.5] * (
        32 - held
    )
    (_, told), status = rlhf("branch", "mine", "twin", "--at", "1000")
    assert status == 2 and "there are those of" in told
    there = [int(update) for update in told.split("those of ")[1].rstrip(".\n").split(", ")]
    (out, told), status = rlhf("branch", "mine", "twin", "--at", str(there[0]), "-p", FEW)
    assert status == 0, told
    twin = run.with_name("twin")
    assert rows_of(twin) == whole and there[0] < 32
    name = "ppo/policy/adapter_model.safetensors"
    assert (twin / name).read_bytes() == (run / name).read_bytes()
    manifest = read_json(twin / "ppo/manifest.json")
    assert manifest["branched_from"] == {"run": "mine", "update": there[0]}
    assert (twin / "evaluation/report.html").is_file()
