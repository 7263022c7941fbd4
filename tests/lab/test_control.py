"""Steering: what is asked is done between two updates, kept, and exact after a resume.

The loop is that of 04 on the built-in `tiny` model.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from helpers_lab import Loop, same
from helpers_ppo import CONFIG

from rlhf_utils import files
from rlhf_utils.errors import RunError
from rlhf_utils.lab import commands
from rlhf_utils.lab.control import Steering
from rlhf_utils.run.lock import RunLock


def test_a_stopped_run_leaves_a_checkpoint_and_goes_on_as_if_it_had_not_stopped(tmp_path):
    straight = Loop(tmp_path / "a").go()
    first = Loop(tmp_path / "b").go({2: [("stop",)]})
    assert len(first.log.rows) == 2 and first.watched == [2]
    assert [path.name for path in first.saved.saved()] == ["update-000002"]
    assert first.replies() == ["stopped after update 2; checkpoint update-000002"]
    torch.manual_seed(123)
    again = Loop(tmp_path / "b", resume=True, seed=1).go()
    same(straight, again, "interventions")
    found = [row.get("interventions") for row in again.log.rows]
    assert found == [None, ["stopped after it"], None, None, None]


def test_a_stop_before_the_first_update_waits_for_one(tmp_path):
    found = Loop(tmp_path).go({0: [("stop",)]})
    assert len(found.log.rows) == 1 and found.steering.stopped
    short = Loop(tmp_path / "short", total_episodes=16).go({0: [("stop",)]})
    assert short.replies() == ["The loop has ended."], "a reply, though there was only one update"


def test_a_stop_keeps_what_was_set_just_before_and_may_be_interrupted(tmp_path, monkeypatch):
    found = Loop(tmp_path)
    monkeypatch.setattr(found.saved, "save", lambda update: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        found.go({2: [("set", "kl_coef=0.5"), ("stop",)]})
    monkeypatch.undo()
    found.go()
    told = ["kl_coef 0.05 → 0.5", "stopped after it"]
    assert found.steering.stopped and found.log.rows[1]["interventions"] == told
    again = Loop(tmp_path, resume=True)
    assert again.steering.value("kl_coef") == 0.5
    assert again.go().log.rows[2]["objective/kl_coef"] == 0.5


@pytest.mark.parametrize("target", [0.0, 2.0])
def test_what_is_set_holds_from_the_next_update_on(tmp_path, target):
    found = Loop(tmp_path, kl_target=target)
    found.go({2: [("set", "kl_coef=0.5"), ("set", "learning_rate=1e-3")]})
    rows, rate = found.log.rows, CONFIG.learning_rate
    lrs = [rate * (1 - i / 5) for i in range(2)] + [1e-3 * (1 - i / 5) for i in range(2, 5)]
    assert [row["lr"] for row in rows] == pytest.approx(lrs, rel=1e-12)
    assert rows[2]["objective/kl_coef"] == 0.5 != rows[1]["objective/kl_coef"]
    assert (rows[3]["objective/kl_coef"] == 0.5) == (target == 0), "a target steers it from there"
    assert rows[2]["steered"] == {"kl_coef": [CONFIG.kl_coef, 0.5], "learning_rate": [rate, 1e-3]}
    assert rows[2]["interventions"][1] == f"learning_rate {rate:.4g} → 0.001"
    assert not any("interventions" in row for row in rows[:2] + rows[3:])
    assert found.replies()[1] == f"after update 2: learning_rate {rate:.4g} → 0.001"


KILLED = """
import os, signal, sys
sys.path[:0] = [{tests!r}, {here!r}]
import torch
torch.set_num_threads(1)
from pathlib import Path
from test_control import Loop, SET
kill = lambda index: index == 3 and os.kill(os.getpid(), signal.SIGKILL)
Loop(Path({folder!r})).go(SET, before=kill)
"""
SET = {2: [("set", "kl_coef=0.5"), ("set", "learning_rate=2e-3")]}


def test_what_was_set_survives_a_kill_in_the_next_update_but_one(tmp_path):
    """No checkpoint was due: what is set saves one. The resumed run is the unbroken one."""
    straight = Loop(tmp_path / "a").go(SET)
    here = Path(__file__).parent
    code = KILLED.format(tests=str(here.parent), here=str(here), folder=str(tmp_path / "b"))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    torch.manual_seed(123)
    again = Loop(tmp_path / "b", resume=True, seed=1)
    assert len(again.log.rows) == 3 and again.steering.value("kl_coef") == 0.5
    same(straight, again.go())


def test_a_parameter_that_a_resumed_run_is_given_goes_over_what_was_set(tmp_path):
    Loop(tmp_path).go({1: [("set", "kl_coef=0.5"), ("set", "learning_rate=2e-3")], 3: [("stop",)]})
    again = Loop(tmp_path, resume=True, kl_coef=0.2)
    assert again.steering.value("kl_coef") == 0.2
    assert again.steering.value("learning_rate") == 2e-3


def test_pause_holds_until_resume_and_says_so(tmp_path):
    found = Loop(tmp_path)
    timer = threading.Timer(0.7, commands.ask, (tmp_path, "resume"))
    timer.start()
    found.go({1: [("pause",), ("set", "kl_coef=0.5")]})
    assert found.stage.told == [("paused at update", 1), ("update", 1)]
    first, second = found.log.rows[1]["interventions"]
    assert first == "kl_coef 0.05 → 0.5" and second == "paused 1 s"
    assert found.replies()[2] == "goes on after update 1"


def test_an_interrupt_ends_a_pause_and_the_loop_goes_on_when_it_is_run_again(tmp_path):
    straight = Loop(tmp_path / "a").go()
    found = Loop(tmp_path / "b")
    threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        found.go({2: [("pause",)]})
    assert len(found.log.rows) == 2
    same(straight, found.go(), "interventions")
    assert found.log.rows[2]["interventions"] == ["paused 1 s"], "though the cell was run twice"


def test_a_sample_changes_nothing(tmp_path):
    straight = Loop(tmp_path / "a").go()
    found = Loop(tmp_path / "b").go({1: [("sample", "Who?"), ("sample", "break")]})
    same(straight, found)
    assert found.replies() == [
        "after update 1, reward 1.25, KL 0.5 nats: <b>Who?</b>",
        "ValueError: no such answer",
    ]


HOSTILE = [
    b"{",
    b"null",
    b"[1, 2]",
    b'{"do": "stop"}',
    b'{"id": 7, "at": 1e12, "do": "stop"}',
    b'{"id": "a", "at": NaN, "do": "stop"}',
    b'{"id": "b", "at": 1e12, "do": "__init__"}',
    b'{"id": "c", "at": 1e12, "do": "set", "what": {"kl_coef": 1}}',
    b'{"id": "d", "at": 1e12, "do": "set", "what": "kl_coef=nan"}',
    b'{"id": "e", "at": 1e12, "do": "set", "what": "learning_rate=0"}',
    b'{"id": "f", "at": 1e12, "do": "sample", "what": "' + b"x" * 3000 + b'"}',
    b"[" * 50_000,
    b"\xff\xfe\x00",
    b'{"id": "' + b"g" * 300_000,
]


def test_hostile_and_damaged_lines_harm_nothing_and_get_a_reply(tmp_path):
    straight = Loop(tmp_path / "a").go()
    found = Loop(tmp_path / "b")
    (tmp_path / "b" / commands.COMMANDS).write_bytes(b"\n".join(HOSTILE) + b"\n{half a li")
    found.go()
    same(straight, found)
    told = commands.replies(tmp_path / "b")
    assert len(told) >= len(HOSTILE) - 1 and not any(row["ok"] for row in told)
    assert all(len(row["told"]) < 400 for row in told)
    # a half line swallows nothing
    again = Loop(tmp_path / "b")
    commands.ask(tmp_path / "b", "stop")
    again.go()
    assert again.steering.stopped
    # nor does a file that was begun anew
    (tmp_path / "b" / commands.COMMANDS).unlink()
    commands.ask(tmp_path / "b", "set", "kl_coef=0.5")
    assert again.steering.obey(1)["steered"] == {"kl_coef": [0.05, 0.5]}


def test_commands_of_an_earlier_start_are_not_obeyed_and_none_twice(tmp_path):
    commands.ask(tmp_path, "stop")
    found = Loop(tmp_path)
    found.stage.started = time.time() + 1e-3
    time.sleep(0.01)
    assert len(found.go({1: [("set", "kl_coef=0.5")]}).log.rows) == 5
    once = Steering(found.stage, found.saved, found.config, None, None)  # its cell is run again
    once.obey(5)
    assert "interventions" not in once.part


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("halt",), "There is no command 'halt'; there are pause, resume"),
        (("set", "kl_coef"), "set needs NAME=VALUE"),
        (("set", "gamma=1"), "cannot set 'gamma'; there are kl_coef, learning_rate."),
        (("set", "kl_coef=much"), "Parameter kl_coef='much' should be of type float"),
        (("set", "kl_coef=-1"), "Parameter kl_coef=-1.0 must be from 0"),
        (("set", "learning_rate=0"), "Parameter learning_rate=0.0 must be above 0"),
        (("sample", " "), "sample needs a prompt"),
        (("pause", "now"), "pause stands alone"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(tmp_path, asked, told):
    with pytest.raises(RunError) as refused:
        commands.ask(tmp_path, *asked)
    assert told in str(refused.value) and list(tmp_path.iterdir()) == []


def test_the_end_of_the_loop_answers_what_came_too_late(tmp_path):
    found = Loop(tmp_path)
    found.go(before=lambda index: index == 4 and commands.ask(tmp_path, "pause"))
    assert found.replies() == ["The loop has ended."]
    assert json.loads((tmp_path / commands.REPLIES).read_text())["ok"] is False


@pytest.fixture
def at_loop(tmp_path):
    """A run that some process holds in the loop of 04."""
    progress = {"what": "update", "done": 5, "total": 13}
    files.write_json(tmp_path / "mine/ppo/progress.json", progress)
    with RunLock(tmp_path / "mine"):
        yield tmp_path / "mine"


def test_ctrl_c_at_the_terminal_leaves_the_command_standing(at_loop, monkeypatch, capsys):
    def press(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands.time, "sleep", press)
    assert commands.from_terminal(at_loop, "pause") == 130
    assert "asked; update 6 of 13 is at work\n\nIt stays asked: pause" in capsys.readouterr().out
    asked = files.read_file(at_loop / "ppo" / commands.COMMANDS)
    assert [command["do"] for command in asked] == ["pause"]


def test_a_run_that_left_the_loop_meanwhile_is_told(at_loop, monkeypatch):
    def leave(seconds):
        (at_loop / "ppo/progress.json").unlink(missing_ok=True)

    monkeypatch.setattr(commands.time, "sleep", leave)
    with pytest.raises(RunError, match="'mine' has left the loop of 04 before it was done"):
        commands.from_terminal(at_loop, "pause")
    with pytest.raises(RunError, match="not in the loop of 04 now"):
        commands.from_terminal(at_loop, "pause")
