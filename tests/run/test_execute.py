"""Notebooks are executed, fail in one sentence, and stop cleanly at a signal."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import nbformat
import psutil
import pytest

from rlhf_utils.files import read_json, write_json
from rlhf_utils.run import execute as running
from rlhf_utils.run.paths import STAGES, project_root

TINY = ("num_prompts=24", "num_demonstrations=24", "classifier=false", "total_episodes=3200")
TINY += ("response_length=8", "head_epochs=2", "save_every=1", "num_other_prompts=8")


def write(path, *sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (
            "from rlhf_utils.errors import DataError\nraise DataError('row 3 is empty.')",
            "row 3 is empty.",
        ),
        ("1 / 0", "cell 2 raised ZeroDivisionError: division by zero"),
        ("raise ValueError('\x1b[31mred\x07')", "cell 2 raised ValueError: red\\x07"),
    ],
)
def test_a_failure_is_its_sentence_alone(tmp_path, source, told):
    target = tmp_path / "made.ipynb"
    notebook = write(tmp_path / "a.ipynb", "print('before')", source)
    assert running.execute(notebook, target, {}) == told
    text = target.read_text()
    assert "before" in text and [p.name for p in tmp_path.glob(".*")] == []
    notes = json.loads(text)["metadata"]["papermill"]
    assert "input_path" not in notes and "output_path" not in notes


def test_a_kernel_that_died_is_told(tmp_path, capfd):
    notebook = write(tmp_path / "a.ipynb", "import os\nos._exit(1)")
    assert running.execute(notebook, tmp_path / "b.ipynb", {}).startswith("DeadKernelError: ")
    assert "Traceback" not in capfd.readouterr().err


def test_a_signal_ends_the_work_and_its_processes():
    """Also one that has only just begun when the signal comes."""
    started = []

    def work():
        time.sleep(0.5)
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        started[0].wait()
        return "never"

    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(running.Stopped) as stopped:
        running.watched(work)
    assert stopped.value.status == 130 and started[0].poll() is not None
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("progress", "told"),
    [
        ({"what": "update", "done": 66, "total": 600}, " after update 66 of 600"),
        ({"what": "update", "done": 0, "total": 600}, ""),
        ({"what": "update"}, ""),
        ([1], ""),
    ],
)
def test_how_far_a_stage_is(tmp_path, progress, told):
    write_json(tmp_path / "progress.json", progress)
    assert running.how_far(tmp_path / "progress.json") == told
    assert running.how_far(tmp_path / "nothing.json") == ""


# --- a run of its own process, real signals


def begin_run(folder, *arguments):
    command = [sys.executable, "-m", "rlhf_utils.run.cli", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"RLHF_OUTPUTS": str(folder)}
    return subprocess.Popen(command, cwd=project_root(), env=environment, **pipes)


def stop(process, run, number) -> tuple[list, str]:
    """Signals once 04 has done five updates more; returns its processes and what it said."""
    progress, deadline, first = run / "ppo/progress.json", time.time() + 240, None
    while time.time() < deadline and process.poll() is None:
        time.sleep(0.1)
        try:
            done = read_json(progress)["done"]
        except (OSError, ValueError):
            continue
        first = done if first is None else first
        if done >= first + 5:
            break
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return below, err


def test_a_stopped_run_says_how_to_go_on_and_goes_on(tmp_path):
    """Ctrl-C in 04, SIGTERM after it went on; the kernel is dead, the notebook is there."""
    given = [option for pair in TINY for option in ("-p", pair)]
    process = begin_run(tmp_path, "run", "mine", "--profile", "smoke", *given)
    run = tmp_path / "mine"
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        below, told = stop(process, run, number)
        assert process.returncode == status, told
        assert "Stopped in 04_ppo after update " in told and told.count("\n") <= 2, told
        assert "of 100. Go on with: rlhf resume mine" in told
        assert below and not any(p.is_running() for p in below)
        cells = nbformat.read(run / "04_ppo.ipynb", 4).cells
        assert sum(bool(cell.get("execution_count")) for cell in cells) > 5
        done = len((run / "ppo/metrics.jsonl").read_text().splitlines())
        process = begin_run(tmp_path, "resume", "mine")
    stop(process, run, signal.SIGINT)
    again = (run / "ppo/metrics.jsonl").read_text().splitlines()
    assert len(again) > done, "it went on, and did not begin anew"
    state = read_json(run / "parameters.json")
    assert state["parameters"]["total_episodes"] == 3200 and set(state["asked"]) == set(STAGES)
