"""Checkpoints: a resumed run is the run that never stopped, also after kill -9.

Damaged checkpoints are passed over, and a failure says where it happened.
"""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers_ppo import CONFIG, PROMPTS, checkpoints, fresh_run, train, weights, whole_blocks
from safetensors import SafetensorError

from rlhf_utils import files
from rlhf_utils.data.rows import Endless
from rlhf_utils.errors import PPOError
from rlhf_utils.fast import matmul
from rlhf_utils.ppo import loop
from rlhf_utils.ppo.checkpoint import must_match


@pytest.mark.parametrize(
    "start, turned",
    [(fresh_run, True), (partial(whole_blocks, 1), True), (partial(whole_blocks, 1), False)],
)
def test_a_resumed_run_is_the_run_that_never_stopped(start, turned, tmp_path, monkeypatch):
    """Adapters and whole blocks, also where frozen weights are laid out otherwise than others."""
    if turned:
        monkeypatch.setattr(matmul, "prefers_onednn", torch.backends.mkldnn.is_available)
    straight = start()
    expected = train(straight)
    assert len(expected) == 6
    assert straight.controller.value != CONFIG.kl_coef, "β has moved, so it must be restored too"

    run = start()
    first = train(run, stop=3)
    checkpoints(tmp_path, run).save(3)

    # as a new process would: other random states, other adapters, no moments
    resumed = start(seed=1)
    resumed.order = Endless(PROMPTS, 0)
    torch.manual_seed(123)
    assert checkpoints(tmp_path, resumed).load_last() == 3
    assert first + train(resumed, start=3) == expected
    assert all(torch.equal(new, weights(straight)[name]) for name, new in weights(resumed).items())
    assert resumed.controller.value == straight.controller.value


def test_the_last_checkpoints_are_kept_and_half_written_ones_ignored(tmp_path):
    state = checkpoints(tmp_path, fresh_run(), {"lora_r": 4})
    with pytest.raises(PPOError, match="no checkpoint"):
        state.load_last()
    for update in (8, 9, 10):
        state.save(update)
    (tmp_path / "update-000011.part").mkdir()  # what a crash while saving leaves
    assert [path.name for path in state.saved()] == ["update-000009", "update-000010"]
    assert state.load_last() == 10
    assert state.save(11).name == "update-000011" and state.load_last() == 11
    state.settings = {"lora_r": 8}
    with pytest.raises(PPOError, match="lora_r=4, now 8"):
        state.load_last()
    # a new run of 4 updates must not meet those of an older, longer one
    assert state.clear() == 0 and state.saved() == []


def test_besides_the_newest_those_nearest_to_each_quarter_of_the_run_are_kept(tmp_path):
    state = checkpoints(tmp_path, fresh_run(), {"total_episodes": 160, "batch_size": 8})
    for update in (3, 6, 9, 12, 15, 18, 20):
        state.save(update)
    assert [int(path.name[-6:]) for path in state.saved()] == [6, 9, 15, 18, 20]


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
def test_a_checkpoint_cut_short_is_passed_over(tmp_path, file):
    state = checkpoints(tmp_path, fresh_run())
    state.save(1)
    path = state.save(2) / file
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.warns(UserWarning, match="update-000002 is damaged"):
        assert state.load_last() == 1
    state.save(3)  # also counting what is there must not stumble over it


def test_a_failure_says_the_update_and_the_last_good_checkpoint(tmp_path):
    state = checkpoints(tmp_path, fresh_run())
    with (
        pytest.raises(PPOError, match="^Update 1: Broken. There is no checkpoint yet.$"),
        state.guard(1),
    ):
        raise PPOError("Broken.")
    state.save(1)
    (state.save(2) / "state.json").write_text("{")
    told = "Update 3: Broken. The last good checkpoint is update-000001: resume=True"
    with pytest.raises(PPOError, match=told) as caught, state.guard(3):
        raise PPOError("Broken.")
    shown = caught.value._render_traceback_()
    assert shown == [f"PPOError: {caught.value}"], "a notebook shows the sentence alone"


@pytest.mark.parametrize("kind", [OSError, SafetensorError])
def test_a_full_disk_is_told_in_one_sentence(tmp_path, kind):
    state = checkpoints(tmp_path, fresh_run())
    before = weights(fresh_run())
    told = (
        "^Update 1 cannot be written .*No space left.*: make room on the disk, or open its folder"
    )
    with pytest.raises(PPOError, match=told), state.guard(1):
        state.state.policy.value_head.bias.data += 1.0
        raise kind("No space left on device")
    assert torch.equal(state.state.policy.value_head.bias, before["value_head.bias"])


def test_a_checkpoint_of_other_weights_is_refused_and_changes_nothing(tmp_path):
    state = checkpoints(tmp_path, fresh_run())
    state.state.learning["more"] = torch.zeros(2)
    state.save(1)
    state.state.learning["more"] = torch.zeros(3)
    before = weights(state.state)
    state.state.policy.value_head.bias.data += 1.0
    with pytest.raises(PPOError, match="holds another more, .*: run with resume=False"):
        state.load_last()
    assert torch.equal(state.state.policy.value_head.bias, before["value_head.bias"] + 1.0)


def flipped(path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "flipped": flipped,
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
def test_a_checkpoint_that_is_damaged_is_named_and_never_used(tmp_path, file, damage):
    state = checkpoints(tmp_path, fresh_run())
    for update in (1, 2):
        DAMAGE[damage](state.save(update) / file)
        others = "and is passed over"
        told = f"Every checkpoint in .* is damaged, the oldest in {file}: run with resume=False"
        warned = pytest.warns(UserWarning, match=rf"00000{update} is damaged \({file}\) {others}")
        with pytest.raises(PPOError, match=told), warned:
            state.load_last()
    state.save(3)
    assert state.load_last() == 3


def test_every_flipped_bit_of_a_checkpoints_description_is_seen(tmp_path):
    """A β or an update that has changed would go on as another run, and say nothing."""
    state = checkpoints(tmp_path, fresh_run(), {"lora_r": 4})
    path = state.save(1) / "state.json"
    whole = path.read_text()
    for name in ("update", "kl_coef", "lora_r"):
        place = whole.index(":", whole.index(f'"{name}"')) + 2
        path.write_text(whole[:place] + "7" + whole[place + 1 :])
        assert json.loads(path.read_text())
        with pytest.raises(PPOError, match="state.json"), pytest.warns(UserWarning):
            state.load_last()
    path.write_text(whole)
    assert state.load_last() == 1


LOGS = {"metrics.jsonl": [{"update": i, "lr": 0.1 * i} for i in range(1, 9)]}
LOGS["samples.jsonl"] = [{"update": i, "samples": []} for i in (0, 4, 8)]


@pytest.fixture
def logged(tmp_path):
    """A run of 8 updates with a checkpoint after the last, and the way to resume it."""

    def resume():
        state = checkpoints(tmp_path / "checkpoints", run)
        return state, state.load_last()

    run = fresh_run()
    state = checkpoints(tmp_path / "checkpoints", run)
    for name, rows in LOGS.items():
        log = state.open_log(name, state.clear())
        for row in rows:
            log.add(row)
    state.save(8)
    return resume


@pytest.mark.parametrize("name", LOGS)
@pytest.mark.parametrize(
    "tail", [b'{"update": 9}\n', b'{"update": 9, "te', b"\0\0\n", b'"\xc3', b"7"]
)
def test_a_resumed_run_has_the_rows_that_its_checkpoint_knows(logged, tmp_path, name, tail):
    """Not those made after it, before a kill, nor what a power cut left of them."""
    with (tmp_path / name).open("ab") as file:
        file.write(tail)
    state, start = logged()
    state.open_log(name, start)
    assert files.read_file(tmp_path / name) == LOGS[name]


@pytest.mark.parametrize("damage", [*DAMAGE, "empty", "shorter"])
@pytest.mark.parametrize("name", LOGS)
def test_a_log_that_lost_rows_is_told_and_nothing_is_lost(logged, tmp_path, name, damage):
    whole = (tmp_path / name).read_bytes()
    harm = DAMAGE | {
        "empty": lambda path: path.write_bytes(b""),
        "shorter": lambda path: path.write_bytes(b"".join(whole.splitlines(keepends=True)[:2])),
    }
    harm[damage](tmp_path / name)
    state, start = logged()
    told = f"The first (8|3) rows of {name} are not those that the checkpoint of update 8 knows"
    with pytest.raises(PPOError, match=f"{told}: put the file back as it was, or run with resume"):
        state.open_log(name, start)
    assert state.saved()
    (tmp_path / name).write_bytes(whole)
    assert state.open_log(name, start).rows == LOGS[name]


KILLED = """
import json, os, pathlib, signal, sys
sys.path.insert(0, {tests!r})
import torch
import helpers_ppo as h
torch.set_num_threads(1)
run, updates = h.fresh_run(), []

def reward(completions, **columns):
    if len(updates) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return h.letter_e(completions=completions, **columns)

for index in range(6):
    updates += h.train(run, start=index, stop=index + 1, reward=reward)
    print(json.dumps(updates[-1]), flush=True)
    if index == 2:
        h.checkpoints(pathlib.Path({folder!r}), run).save(3)
"""


def test_a_run_killed_and_resumed_in_another_process_is_the_run_that_never_stopped(tmp_path):
    """kill -9 in the fourth update, after the checkpoint of the third."""
    expected = train(fresh_run())
    code = KILLED.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path))
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == -9, ended.stderr
    first = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(first) == 3
    resumed = fresh_run(seed=1)
    resumed.order = Endless(PROMPTS, 0)
    assert checkpoints(tmp_path, resumed).load_last() == 3
    assert first + train(resumed, start=3) == expected


def test_a_fixed_beta_may_be_changed_to_get_over_a_failure(tmp_path):
    run = fresh_run()
    run.controller = loop.KLController(0.05)
    checkpoints(tmp_path, run).save(1)
    run.controller = loop.KLController(0.2)
    checkpoints(tmp_path, run).load_last()
    assert run.controller.value == 0.2


def test_what_a_resumed_run_may_change_is_left_out_of_what_must_match():
    found = must_match(CONFIG, {"run": "a", "lora_r": 4, "resume": True}, {"sft/policy": "digest"})
    assert found["lora_r"] == 4 and found["sft/policy"] == "digest"
    assert found["batch_size"] == CONFIG.batch_size
    assert not found.keys() & {"run", "resume", "more", "save_every", "learning_rate", "kl_coef"}
    assert CONFIG.kl_coef, "the settings themselves stay"
