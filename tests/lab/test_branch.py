"""A branch begins at a checkpoint of another run; without a change it is that run, bit for bit."""

import numpy as np
import pytest
import torch
from helpers_lab import Loop, same
from helpers_run import begin, call, finish
from safetensors.numpy import load_file, save_file

from rlhf_utils.errors import PPOError, RunError
from rlhf_utils.files import read_file, read_json
from rlhf_utils.lab.branch import make_branch
from rlhf_utils.run import cli, state
from rlhf_utils.run.paths import STAGES

SETS = {1: [("set", "learning_rate=2e-3"), ("set", "kl_coef=0.5")]}


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """A finished run, steered before its second update, with checkpoints of 2, 4 and 5."""
    run = tmp_path_factory.mktemp("outputs") / "mine"
    begin(run, kl_coef=0.05)
    finish(run, "sft", "preferences", "reward_model")
    save_file({"w": np.zeros(2)}, run / "sft/policy/model.safetensors")
    return run, Loop(run / "ppo").go(SETS, every=2)


@pytest.fixture
def branch(parent, tmp_path):
    def make(update=2, **given):
        known = state.read_state(parent[0])
        asked = make_branch(parent[0], tmp_path / "new", update, known, given)
        return tmp_path / "new", asked

    return make


def test_a_branch_without_a_change_is_its_parent(parent, branch):
    new, asked = branch()
    assert asked == read_json(new / "parameters.json") and asked["asked"] == list(STAGES)
    torch.manual_seed(123)
    found = Loop(new / "ppo", resume=True, seed=1)
    assert len(found.log.rows) == 2 and found.stage.lineage == {"run": "mine", "update": 2}
    same(parent[1], found.go())


def test_what_differs_holds_from_the_branch_on(parent, branch):
    """Also a β that the parent's was set from, and more episodes."""
    given = {"ppo.cliprange": 0.05, "kl_coef": 0.2, "total_episodes": 16 * 6}
    new, asked = branch(**given)
    assert asked["parameters"]["ppo.kl_coef"] == 0.2 and asked["parameters"]["kl_coef"] == 0.05
    values = {name.removeprefix("ppo."): value for name, value in given.items()}
    found = Loop(new / "ppo", resume=True, **values).go(every=3)
    before, after = parent[1].log.rows, found.log.rows
    assert after[0] == before[0] and len(after) == 6
    assert after[1]["steered"] == {"learning_rate": before[1]["steered"]["learning_rate"]}
    assert [row["objective/kl_coef"] for row in after] == [0.05, 0.5] + [0.2] * 4
    assert after[2]["lr"] == 2e-3 * (1 - 2 / 6), "what was set of another parameter stays"
    assert after[2]["policy/clipfrac_avg"] != before[2]["policy/clipfrac_avg"]
    with pytest.raises(PPOError, match="cliprange=0.05, now 0.3"):  # its own are strict again
        Loop(new / "ppo", resume=True, **values | {"cliprange": 0.3})
    again = Loop(new / "ppo", resume=True, **values)
    assert again.stage.lineage == {"run": "mine", "update": 2}


def test_a_branch_that_asks_for_the_parents_own_value_is_not_steered(branch):
    new, _ = branch(kl_coef=0.05)
    assert Loop(new / "ppo", resume=True).steering.value("kl_coef") == 0.05


def test_a_log_that_was_changed_is_told_and_nothing_is_left(parent, branch, tmp_path):
    log = parent[0] / "ppo/metrics.jsonl"
    whole = log.read_text()
    try:
        for harm in (lambda: log.write_text("{" + whole), log.unlink):
            harm()
            with pytest.raises(PPOError, match="first 2 rows of metrics.jsonl are not those"):
                branch()
            assert not (tmp_path / "new").exists()
    finally:
        log.write_text(whole)


def test_weights_are_shared_until_one_of_them_is_written_anew(parent, branch):
    new, _ = branch()
    ours, theirs = (run / "sft/policy/model.safetensors" for run in (new, parent[0]))
    assert ours.stat().st_ino == theirs.stat().st_ino
    assert read_file(new / "ppo/metrics.jsonl") == parent[1].log.rows[:2]
    save_file({"w": np.ones(2)}, ours)
    assert load_file(theirs)["w"].sum() == 0
    note = new / "sft/manifest.json"
    note.write_text("{}")
    assert read_json(parent[0] / "sft/manifest.json"), "all else is a copy"


@pytest.mark.parametrize(
    ("update", "given", "told"),
    [
        (3, {}, "no checkpoint of update 3: there are those of 2, 4, 5"),
        (2, {"ppo.seed": 1}, "cannot have another seed"),
        (2, {"batch_size": 8}, "cannot have another batch_size"),
        (2, {"lora_r": 0}, "cannot have another lora_r"),
        (2, {"ppo.dtype": "bfloat16"}, "cannot have another dtype"),
        (2, {"num_trainable_layers": 2}, "cannot have another num_trainable_layers"),
        (2, {"total_episodes": 32}, "total_episodes=32 are not more than the 32 that update 2"),
    ],
)
def test_what_cannot_be_branched_is_refused_and_leaves_nothing(
    branch, tmp_path, update, given, told
):
    with pytest.raises(RunError) as refused:
        branch(update, **given)
    assert told in str(refused.value) and not (tmp_path / "new").exists()


def test_the_command_refuses_in_one_sentence(parent, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RLHF_OUTPUTS", str(parent[0].parent))
    for arguments, told in (
        (["mine", "mine", "--at", "2"], "There is a run 'mine' already"),
        (["mine", "new", "--at", "2", "-p", "model=tiny"], "model belongs to sft"),
        (["mine", "new", "--at", "2", "-p", "lam=2"], "Parameter lam=2.0 must be"),
        (["mine", "new", "--at", "2"], "needs sft/policy"),  # what preflight finds
    ):
        if "needs" in told:
            (parent[0] / "sft/manifest.json").rename(parent[0] / "sft/gone")
        status, _, err = call(capsys, "branch", *arguments)
        assert status == 2 and told in err and err.count("\n") == 1, err
    (parent[0] / "sft/gone").rename(parent[0] / "sft/manifest.json")
    assert not (parent[0].parent / "new").exists()


def test_the_command_goes_on_with_04_and_05(parent, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RLHF_OUTPUTS", str(parent[0].parent))
    calls = []

    def never(job, given, expected):
        calls.append((job.stages, given["ppo"]))
        return 0

    monkeypatch.setattr(cli, "execute_stages", never)
    monkeypatch.setenv("RLHF_CWD", "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def letters(completions, **columns):\n    return []\n")
    for name, given in (("new", "lam=0.9"), ("paid", "reward=mine.py:letters")):
        assert call(capsys, "branch", "mine", name, "--at", "4", "-p", given)[0] == 0
    folders = [state.read_state(parent[0].parent / name)["cwd"] for name in ("new", "paid")]
    assert folders == ["", str(tmp_path)], "a reward's module lies where it was given"
    (stages, given), _ = calls
    assert stages == ["ppo", "evaluation"] and given["resume"] is True and given["run"] == "new"
    assert given["more"] == {"lam": 0.9} and given["kl_coef"] == 0.05
    assert state.read_state(parent[0].parent / "new")["parameters"]["ppo.lam"] == 0.9
