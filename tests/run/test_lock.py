"""One `rlhf run` at a time in a run's folder; threads follow the free cores."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers_run import write_notebook

from rlhf_utils.errors import RunError
from rlhf_utils.run import cores, lock
from rlhf_utils.run.lock import RunLock, at_work, share_lock
from rlhf_utils.run.stage import Stage

ROOT = Path(__file__).parents[2]
HOLDS = """import sys, time
from pathlib import Path
from rlhf_utils.run.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def held(tmp_path):
    """A run's folder, and another process that holds it."""
    folder = tmp_path / "mine"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield folder, process
    process.kill()
    process.wait()


def test_a_run_that_is_held_names_its_holder(held):
    folder, process = held
    told = (
        rf"^Run 'mine' is being made by another `rlhf run` \(process {process.pid} on .*, since 2"
    )
    with pytest.raises(RunError, match=told), RunLock(folder):
        pass
    assert f"process {process.pid} on " in RunLock.holder(folder)


def test_a_lock_ends_with_its_process_however_that_ends(held):
    folder, process = held
    process.kill()
    process.wait()
    assert RunLock.holder(folder) is None
    with RunLock(folder), pytest.raises(RunError, match=f"process {os.getpid()} "), RunLock(folder):
        pass
    with RunLock(folder):  # one that was refused has broken nothing
        pass
    assert lock.VARIABLE not in os.environ


def test_a_lock_is_free_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), RunLock(tmp_path):
        raise ZeroDivisionError
    assert RunLock.holder(tmp_path) is None and RunLock.holder(tmp_path / "nowhere") is None


LOOKS = """import sys
from pathlib import Path
from rlhf_utils.run.lock import RunLock
print(RunLock.holder(Path(sys.argv[1])))
"""


def test_kernels_that_the_holder_starts_are_let_in_and_others_are_not(tmp_path):
    def look(environment) -> str:
        command = [sys.executable, "-c", LOOKS, str(tmp_path)]
        environment = environment | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(command, env=environment, capture_output=True, text=True).stdout

    before = dict(os.environ)
    with RunLock(tmp_path):
        assert look(os.environ) == "None\n"
        assert f"process {os.getpid()} on " in look(before)


def test_many_who_look_keep_nobody_out(tmp_path):
    """A look takes the lock for an instant."""
    (tmp_path / lock.NAME).touch()
    looks = "\n".join([*LOOKS.splitlines()[:-1], "while True: RunLock.holder(Path(sys.argv[1]))"])
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", looks, str(tmp_path)], env=environment)
    until = time.time() + 2
    while time.time() < until:
        with RunLock(tmp_path):
            pass
    process.kill()
    process.wait()


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "rlhf_utils").mkdir()
    (tmp_path / "notebooks").mkdir()
    for name in ("01_sft", "02_preferences"):
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb", 'run: str = "mine"  # folder')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLHF_OUTPUTS", str(tmp_path))


def test_a_notebook_opened_by_hand_waits_for_the_run(held, project):
    told = r"^Run 'mine' is being made by another `rlhf run` .* or set another `run`\.$"
    with pytest.raises(RunError, match=told):
        Stage("sft", {"run": "mine"})


def test_two_notebooks_of_a_person_are_not_refused(project):
    """But no `rlhf run` begins before both are finished."""
    stages = [Stage("sft", {"run": "mine"}), Stage("preferences", {"run": "mine"})]
    for stage in stages:
        stage.progress("step", 1, 2)
    for stage in stages:
        assert RunLock.holder(Path("mine")) is None
        told = "by a notebook that is at work or was interrupted"
        with pytest.raises(RunError, match=told), RunLock(Path("mine")):
            pass
        stage.finish({})
    with RunLock(Path("mine")):
        stages[0].progress("step", 1, 2)  # as in a kernel that the holder began


def test_a_notebook_that_waited_does_not_go_on_in_a_run_that_has_begun(held, project, monkeypatch):
    with monkeypatch.context() as before:
        before.setattr(lock, "_held", lambda folder: None)
        stage = Stage("sft", {"run": "mine"})
    with pytest.raises(RunError, match="is being made by another `rlhf run`"):
        stage.progress("step", 1, 2)


def test_a_damaged_lock_still_locks(held):
    folder, _ = held
    for text in ("", "{", "[]", json.dumps({"process": 1})):
        (folder / lock.NAME).write_text(text)
        with pytest.raises(RunError, match="by another `rlhf run` .which has just begun.: wait"):
            RunLock(folder).__enter__()


def test_a_folder_that_cannot_be_written_is_one_sentence(project, tmp_path, monkeypatch):
    (tmp_path / "mine").write_text("a file where the run's folder should be")
    told = r"^Nothing can be written into .*mine.* \(.*\): make it writable, or set RLHF_OUTPUTS"
    with pytest.raises(RunError, match=told):
        Stage("sft", {"run": "mine"})
    with pytest.raises(RunError, match=told):
        RunLock(tmp_path / "mine").__enter__()
    assert RunLock.holder(tmp_path / "mine") is None

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(lock.os, "open", refused)
    with pytest.raises(RunError, match=r"Nothing can be written into .* \(Permission denied\)"):
        RunLock(tmp_path / "other").__enter__()


# --- threads


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Four cores, and nobody at work; says how many threads torch has."""
    monkeypatch.setattr(cores, "MOST", 4)
    monkeypatch.setattr(cores, "_given", torch.get_num_threads())
    monkeypatch.setattr(cores.tempfile, "gettempdir", lambda: str(tmp_path))
    yield cores._folder()
    torch.set_num_threads(1)


def sleeper() -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def test_stages_at_work_share_the_cores_and_one_alone_has_all(machine):
    cores.share_cores()
    assert torch.get_num_threads() == 4
    other = sleeper()
    (machine / str(other.pid)).touch()
    cores.share_cores()
    assert torch.get_num_threads() == 2
    other.kill()
    other.wait()
    cores.share_cores()
    assert torch.get_num_threads() == 4 and not (machine / str(other.pid)).exists()


def test_a_stage_that_waits_is_not_at_work(machine):
    other = sleeper()
    file = machine / str(other.pid)
    file.touch()
    long_ago = time.time() - cores.SECONDS - 1
    os.utime(file, (long_ago, long_ago))
    cores.share_cores()
    assert torch.get_num_threads() == 4
    other.kill()
    other.wait()


def test_a_number_of_threads_that_somebody_chose_stays(machine):
    cores.share_cores()
    torch.set_num_threads(3)
    cores.share_cores()
    assert torch.get_num_threads() == 3


def test_a_stage_leaves_when_it_is_finished(machine, project):
    stage = Stage("sft", {"run": "mine"})
    assert (machine / str(os.getpid())).exists()
    stage.finish({})
    assert not (machine / str(os.getpid())).exists()


def test_a_run_is_at_work_while_a_console_or_a_notebook_holds_it(tmp_path):
    assert not at_work(tmp_path)
    with RunLock(tmp_path):
        assert at_work(tmp_path)
    assert not at_work(tmp_path)
    by_hand = share_lock(tmp_path)
    assert at_work(tmp_path)
    by_hand.close()
    assert not at_work(tmp_path)
