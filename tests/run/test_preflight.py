"""All is checked before the first notebook: rows, models, rewards, room, held-out prompts."""

import sys
import types

import pytest
from helpers_run import finish

from rlhf_utils.errors import DataError, ExplainedError, ModelError, RunError, SettingError
from rlhf_utils.files import write_jsonl
from rlhf_utils.run import plan, preflight
from rlhf_utils.run.paths import STAGES


@pytest.fixture
def seen(monkeypatch):
    """What the checks ask other modules, which say yes unless `seen` holds an error for them."""
    asked = {"lengths": []}

    def answer(name, value):
        if isinstance(asked.get(name), Exception):
            raise asked[name]
        asked[name] = value

    facts = types.SimpleNamespace(parameters=70_000_000)
    models = types.ModuleType("check")
    models.check_model = lambda name: answer("model", name) or facts
    models.check_lengths = lambda facts, texts, length: asked["lengths"].append((texts, length))
    monkeypatch.setitem(sys.modules, "rlhf_utils.models.check", models)

    rewards = types.ModuleType("functions")
    rewards.check_reward = lambda name, trained: answer("reward", name) or f"function {name}"
    monkeypatch.setitem(sys.modules, "rlhf_utils.reward.functions", rewards)

    return asked


def checked(outputs, stages=None, **given):
    """What the checks have found. given: parameters, with __ for the dot after a stage."""
    values = {stage: {} for stage in STAGES}
    for name, value in given.items():
        stage, _, parameter = name.partition("__")
        values[stage][parameter] = value
    return preflight.check(outputs / "mine", list(stages or STAGES), values)


def ask(path, *texts, **columns):
    write_jsonl(path, [{"prompt": text} | columns for text in texts])
    return str(path)


# --- counts and plan


def test_the_defaults_are_counted(outputs, seen):
    job = checked(outputs)
    assert list(job.counts.values()) == [2174, 2000, 0, 0, 460]
    assert job.notes == [] and seen == {"lengths": []}, "what is built in is not looked at"
    sizes = {stage: plan.size_of(stage, job) for stage in STAGES}
    assert sizes == {
        "sft": "2,174 demonstrations × 2",
        "preferences": "2,000 prompts × 4 answers",
        "reward_model": "the pairs of 02",
        "ppo": "13 updates of 128",
        "evaluation": "460 held-out prompts",
    }


def test_the_plan_says_what_it_writes_over(outputs, seen):
    finish(outputs / "mine", "sft", "ppo")
    job = checked(outputs)
    text = plan.plan(job, dict.fromkeys(STAGES, 120.0))
    assert text.count("writes over 2020-01-02 09:53") == 2 and "about 10 min in all" in text
    assert plan.plan(job, dict.fromkeys(STAGES, 60.0), "ppo").count("goes on") == 1


def test_expected_time_follows_the_sizes(outputs, seen):
    usual = plan.expected_seconds(checked(outputs), "ppo")
    job = checked(outputs, ppo__total_episodes=16640)
    assert 9 < plan.expected_seconds(job, "ppo") / usual < 10.5
    finish(outputs / "mine", wall_s=100.0, parameters={"total_episodes": 16640})
    assert plan.expected_seconds(job, "ppo") == pytest.approx(100.0)


def test_own_rows_are_shown(outputs, seen, tmp_path):
    texts = [f"Is {number} even?\x1b[2J" for number in range(8)]
    path = ask(tmp_path / "mine.jsonl", *texts)
    job = checked(outputs, preferences__prompts=path)
    assert job.counts["preferences"] == 8 and path in job.notes[0]
    assert job.notes[1].count("even?\\x1b[2J") == 3 and "\x1b" not in job.notes[1]


# --- models and rewards


def test_a_model_of_ones_own_is_checked_with_the_longest_prompts(outputs, seen, tmp_path):
    path = ask(tmp_path / "mine.jsonl", "short", "much longer", "long", "the longest of all")
    job = checked(
        outputs, sft__model="my/model", preferences__prompts=path, preferences__response_length=7
    )
    assert seen["model"] == "my/model" and "model: my/model, 70 M weights" in job.notes
    assert seen["lengths"] == [(["short", "much longer", "the longest of all"], 7)]
    seen["model"] = ModelError("my/model lacks a layer.")
    with pytest.raises(ModelError, match="lacks a layer"):
        checked(outputs, sft__model="my/model")


def test_rewards_and_annotators_are_checked(outputs, seen):
    job = checked(outputs, ppo__reward="my:polite")
    assert seen["reward"] == "my:polite" and job.notes == ["reward: function my:polite"]
    job = checked(outputs, preferences__annotator="my:strict")
    assert seen["reward"] == "my:strict" and job.notes == ["annotator: function my:strict"]
    seen["reward"] = SettingError("my:polite cannot be imported.")
    with pytest.raises(SettingError, match="my:polite cannot be imported"):
        checked(outputs, ppo__reward="my:polite")
    with pytest.raises(SettingError, match="'nobody' is no annotator, file of labels or reward"):
        checked(outputs, preferences__annotator="nobody")


def test_03s_model_ranks_in_02_only_where_it_is_made_before(outputs, seen):
    with pytest.raises(RunError, match="02_preferences needs reward_model, which is missing"):
        checked(outputs, preferences__annotator="reward_model")
    finish(outputs / "mine", "sft", "reward_model")
    checked(outputs, ["preferences"], preferences__annotator="reward_model")


def test_a_persons_rankings_are_read_where_there_are_some(outputs, seen):
    finish(outputs / "mine", "sft", "preferences")
    with pytest.raises(RunError, match="--only sft`, open notebook 02 there with run='mine'"):
        checked(outputs, ["preferences"], preferences__annotator="person")
    (outputs / "mine/preferences/labels.sqlite").write_text("")
    checked(outputs, ["preferences"], preferences__annotator="person")


# --- what a stage starts from


def test_what_earlier_stages_left_must_be_whole(outputs, seen):
    run = outputs / "mine"
    finish(run, "sft", "preferences", "reward_model")
    checked(outputs, ["ppo", "evaluation"])
    (run / "reward_model/manifest.json").unlink()
    with pytest.raises(RunError, match="04_ppo needs reward_model, which is unfinished"):
        checked(outputs, ["ppo", "evaluation"])
    checked(outputs, ["ppo", "evaluation"], ppo__reward="my:polite")
    (run / "preferences/items.jsonl").unlink()
    with pytest.raises(RunError, match="needs preferences/items.jsonl, which is missing"):
        checked(outputs, ["ppo"], ppo__reward="my:polite")
    checked(outputs, ["ppo"], ppo__reward="my:polite", ppo__prompts="builtin")


# --- room


def test_a_full_disk_and_a_full_memory_are_told(outputs, seen, monkeypatch):
    import psutil

    disk = types.SimpleNamespace(free=1e9)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda folder: disk)
    with pytest.raises(RunError, match=r"1\.0 GB are free below .*, and a run needs 3 GB"):
        checked(outputs)
    checked(outputs, sft__model="tiny")
    disk.free = 1e12
    monkeypatch.setattr(preflight.shutil, "which", lambda name: None)
    memory = types.SimpleNamespace(available=1.2e9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(RunError, match=r"1\.2 GB of memory are free.* 135 million .* 1\.6 GB"):
        checked(outputs)
    checked(outputs, sft__model="tiny")


def test_a_folder_that_cannot_be_written_is_told(outputs, monkeypatch):
    monkeypatch.setattr(preflight.os, "access", lambda folder, mode: False)
    with pytest.raises(RunError, match="cannot be written: change its permissions"):
        preflight.check_folder(outputs / "mine")


# --- held-out prompts


def test_held_out_prompts_are_new_to_every_stage(outputs, seen, tmp_path):
    mine = ask(tmp_path / "mine.jsonl", "Is 3 even?", "Is 4 even?", "Is 5 even?")
    others = ask(tmp_path / "others.jsonl", " is 5  EVEN?", "Is 6 even?")
    told = "1 held-out prompts were trained on, such as .* among the prompts of 02_preferences"
    with pytest.raises(RunError, match=told):
        checked(outputs, preferences__prompts=mine, evaluation__heldout_prompts=others)
    checked(outputs, preferences__prompts=mine)
    path = tmp_path / "demonstrations.jsonl"
    write_jsonl(path, [{"prompt": f"Is {n} even?", "completion": "Yes."} for n in range(40)])
    with pytest.raises(RunError, match="2 held-out prompts .* demonstrations of 01_sft"):
        checked(outputs, sft__demonstrations=str(path), evaluation__heldout_prompts=others)


def test_own_pairs_must_split(outputs, seen, tmp_path):
    path = tmp_path / "pairs.jsonl"
    write_jsonl(path, [{"prompt": "Why?", "chosen": "So.", "rejected": "No."}])
    with pytest.raises(DataError, match="1 prompts cannot be split with heldout_fraction=0.2"):
        checked(outputs, reward_model__preferences=str(path))
    rows = [{"prompt": f"Why {n}?", "chosen": "So.", "rejected": "No."} for n in range(40)]
    write_jsonl(path, rows)
    job = checked(outputs, reward_model__preferences=str(path))
    assert plan.size_of("reward_model", job) == "40 pairs of your own"


def test_errors_name_the_parameter(outputs, seen, tmp_path):
    path = ask(tmp_path / "mine.jsonl")
    for name in ("preferences__prompts", "evaluation__heldout_prompts", "ppo__prompts"):
        with pytest.raises(ExplainedError, match=f"prompts={path!r}: "):
            checked(outputs, **{name: path})
