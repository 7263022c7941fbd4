"""`rlhf run` in one process, steered by `rlhf control` from another, then resumed and branched."""

import io
import os
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout

import pytest

from rlhf_utils.files import read_file, read_json
from rlhf_utils.run import cli
from rlhf_utils.run.paths import project_root

UPDATES = 32
TINY = ("prompts=builtin", "response_length=8", "save_every=8", f"total_episodes={32 * UPDATES}")
NOT_THE_SAME = ("eps", "time/sample_s", "time/score_s", "time/update_s", "interventions")
REWARD = """import os, time

def letters(completions, **columns):
    time.sleep(0.3 * os.path.exists({!r}))
    return [text.count("e") / max(len(text), 1) * 20 for text in completions]
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")
    (folder / "mine.py").write_text(REWARD.format(str(folder / "slow")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLHF_OUTPUTS", str(folder))
        patch.setenv("RLHF_CWD", "")
        yield folder


def start(*arguments):
    """The command in a process of its own, with one thread, as numbers are compared."""
    command = [sys.executable, "-m", "rlhf_utils.run.cli", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=project_root(), env=environment, **pipes)


def done(process):
    out, told = process.communicate(timeout=200)
    assert process.returncode == 0, told
    return out


def control(*arguments) -> tuple[int, list[str], str]:
    """(exit status, lines, what went wrong) of `rlhf control mine`, in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err):
        status = cli.main(["control", "mine", *arguments])
    for stream in (out, err):
        stream.seek(0)
    return status, out.read().splitlines(), err.read()


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


def test_a_run_is_steered_from_another_process(outputs):
    run = outputs / "mine"
    sft = ("--only", "sft", "-p", "num_demonstrations=24")
    done(start("run", "mine", "--profile", "smoke", *sft))
    status, _, told = control("pause")
    assert status == 2 and "not in the loop of 04 now" in told and told.count("\n") == 1
    (outputs / "slow").touch()
    given = [*TINY, f"reward={outputs}/mine.py:letters"]
    options = [option for pair in given for option in ("-p", pair)]
    process = start("run", "mine", "--only", "ppo", *options)
    progress(run, process, "update")

    status, (asked, told), _ = control("pause")
    held = progress(run, process, "paused at update")
    when = f"after update {held}" if held else "before the first update"
    assert status == 0 and told == f"paused {when}; `rlhf control mine resume` goes on"
    assert asked.startswith("asked; update ") and asked.endswith(f" of {UPDATES} is at work")
    status, lines, _ = control("set", "kl_coef=0.5")
    assert lines == [
        f"asked; paused at update {held} of {UPDATES}",
        f"{when}: kl_coef 0.05 → 0.5",
    ]
    status, _, told = control("set", "learning_rate=0")
    assert status == 2 and "learning_rate=0.0 must be above 0" in told
    status, (_, told), _ = control("sample", "Who are you?\x1b[31m")
    assert status == 0 and told.startswith(f"{when}, reward ") and "\x1b" not in told
    assert len(rows_of(run)) == held, "it stood still all the while"
    assert control("resume")[0] == 0
    progress(run, process, "update")

    status, lines, _ = control("stop")
    stopped = len(rows_of(run))
    assert held < stopped < UPDATES
    assert lines[1] == f"stopped after update {stopped}; checkpoint update-{stopped:06d}"
    done(process)
    assert read_json(run / "ppo/manifest.json")["results"]["ppo.stopped_early"]
    text = (run / "04_ppo.ipynb").read_text()
    assert "widget-" not in text and "rlhf control mine pause" in text
    steered = read_file(run / "ppo/metrics.jsonl")
    assert steered[held]["interventions"][0] == "kl_coef 0.05 → 0.5"
    assert steered[-1]["interventions"][-1] == "stopped after it"


def test_a_steered_run_goes_on_and_its_branch_is_the_same(outputs):
    """After the test above. The branch begins at its oldest checkpoint."""
    run, twin = outputs / "mine", outputs / "twin"
    before = rows_of(run)
    (outputs / "slow").unlink()
    done(start("run", "mine", "--only", "ppo", "-p", "resume=true"))
    whole = rows_of(run)
    assert whole[: len(before)] == before and len(whole) == UPDATES
    assert whole[-1]["objective/kl_coef"] == 0.5

    there = sorted(int(path.name[-6:]) for path in (run / "ppo/checkpoints").iterdir())
    few = ("-p", "evaluation.num_prompts=8")
    done(start("branch", "mine", "twin", "--at", str(there[0]), *few))
    assert rows_of(twin) == whole and there[0] < UPDATES / 2
    name = "ppo/policy/adapter_model.safetensors"
    assert (twin / name).read_bytes() == (run / name).read_bytes()
    manifest = read_json(twin / "ppo/manifest.json")
    assert manifest["branched_from"] == {"run": "mine", "update": there[0]}
    assert (twin / "evaluation/report.html").is_file()
