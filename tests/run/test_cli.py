"""The console command: what it runs, what it never loses, and what it says."""

import re
import subprocess
import sys
import time

import pytest
from helpers_run import begin, call, checkpoint, finish

from rlhf_utils.files import read_json, write_json
from rlhf_utils.ppo.config import PPOConfig
from rlhf_utils.run import cli, ticker, values
from rlhf_utils.run.parameters import declared, fill_settings
from rlhf_utils.run.paths import STAGES, notebook_path
from rlhf_utils.show.text import clock

STAGES_BY_NOTEBOOK = {notebook: stage for stage, (notebook, _) in STAGES.items()}
AGAIN = ["--overwrite"]


@pytest.fixture
def executed(monkeypatch, outputs):
    """What `rlhf run` would execute, without executing it. What stages start from is there."""
    calls = []
    monkeypatch.setenv("RLHF_CWD", "")

    def never(job, given, expected):
        calls.extend((STAGES[stage][0], given[stage]) for stage in job.stages)
        return 0

    monkeypatch.setattr(cli, "execute_stages", never)
    monkeypatch.setattr(cli.preflight, "check_outputs", lambda job: None)
    return calls


def test_errors_without_traceback_in_a_process_of_its_own(outputs):
    command = [sys.executable, "-m", "rlhf_utils.run.cli", "run", "--run", "a/b"]
    started = time.time()
    result = subprocess.run(command, capture_output=True, text=True, cwd=outputs)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "'a/b' is no run name" in result.stderr and time.time() - started < 10
    debugged = subprocess.run([*command, "--debug"], capture_output=True, text=True, cwd=outputs)
    assert debugged.returncode == 2 and "Traceback" in debugged.stderr


def test_checks_and_plan_need_no_torch(outputs):
    """With built-in data, so that they take a second."""
    script = (
        "import sys\nfrom rlhf_utils.run.cli import main\nstatus = main(['run', '--dry-run'])\n"
        "slow = {'torch', 'transformers', 'papermill', 'datasets'} & sys.modules.keys()\n"
        "sys.exit(f'loaded {slow}' if slow else status)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "13 updates of 128" in result.stdout and list(outputs.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--help"], "usage: rlhf"),
        (["run", "--help"], "Relative paths are those of this folder"),
        (["--version"], "rlhf 0."),
    ],
)
def test_help_and_version(capsys, arguments, told):
    status, out, err = call(capsys, *arguments)
    assert status == 0 and told in " ".join(out.split()) and err == ""


def test_stages_run_in_order_with_the_parameters_that_they_have(executed, outputs, capsys):
    names = [name for name, _ in STAGES.values()]
    asked = ("kl_coef=1e-4", "resume=true", "ppo.seed=2", "seed=1")
    options = [option for pair in asked for option in ("-p", pair)]
    assert cli.main(["run", "--run", "mine", "--profile", "smoke", *options]) == 0
    assert [name for name, _ in executed] == names
    given = dict(executed)
    assert all(parameters["run"] == "mine" for parameters in given.values())
    assert given["04_ppo"]["kl_coef"] == 1e-4 and "kl_coef" not in given["01_sft"]
    seeds = [parameters["seed"] for parameters in given.values()]
    assert seeds == [1, 1, 1, 2, 1]  # one stage's own goes before everybody's
    assert given["01_sft"]["model"] == "tiny" and str(outputs / "mine") in capsys.readouterr().out


def test_the_run_is_named_after_its_profile(executed, outputs):
    assert cli.main(["run", "--profile", "smoke", "--only", "sft"]) == 0
    assert executed[0][1]["run"] == "smoke" and [path.name for path in outputs.iterdir()] == [
        "smoke"
    ]


@pytest.mark.parametrize("profile", ["smoke", "quick", "gpu"])
def test_every_name_in_a_profile_reaches_a_notebook(executed, profile):
    assert cli.main(["run", "--profile", profile]) == 0
    given = {STAGES_BY_NOTEBOOK[name]: parameters for name, parameters in executed}
    for name, value in values.load_profile(profile).items():
        takers = [stage for stage in given if values.takes(stage, name)]
        parameter = name.rpartition(".")[2]
        for stage in takers:
            got = given[stage] if parameter in given[stage] else given[stage]["more"]
            own = values.load_profile(profile).get(f"{stage}.{parameter}", value)
            assert got[parameter] == own, (name, stage)
        assert takers, name


@pytest.mark.parametrize("profile", ["smoke", "quick", "demo", "gpu"])
def test_the_batches_of_a_profile_divide(executed, profile):
    """PPOConfig raises SettingError for sizes that do not."""
    assert cli.main(["run", "--profile", profile]) == 0
    fill_settings(PPOConfig, dict(executed)["04_ppo"])


def test_the_gpu_profiles_batch_is_ppos_alone(executed):
    """As 01's it would leave 76 of the 608 steps of SFT."""
    assert cli.main(["run", "--profile", "gpu"]) == 0
    given = dict(executed)
    assert "per_device_train_batch_size" not in given["01_sft"]
    assert fill_settings(PPOConfig, given["04_ppo"]).per_device_train_batch_size == 64


def test_settings_are_merged_into_more(executed, outputs):
    """Over the profile's, and over those that the run began with."""
    asked = ["-p", "gamma=0.99", "-p", "ppo.num_mini_batches=2", "-p", "seed=1"]
    assert cli.main(["run", "--run", "mine", "--profile", "gpu", *asked]) == 0
    given = dict(executed)
    more = {"per_device_train_batch_size": 64, "num_mini_batches": 2, "gamma": 0.99}
    assert given["04_ppo"]["more"] == more
    assert "gamma" not in given["02_preferences"].get("more", {})
    executed.clear()
    assert cli.main(["run", "--run", "mine", "--only", "ppo", "-p", "ppo.lam=0.9"]) == 0
    assert executed[0][1]["more"] == more | {"lam": 0.9}
    executed.clear()
    assert cli.main(["run", "--run", "mine", "--only", "ppo", "-p", "gamma=0.9"]) == 0
    assert executed[0][1]["more"] == more | {"lam": 0.9, "gamma": 0.9}


def test_what_is_asked_goes_over_what_a_profile_gives_to_one_stage(executed, outputs):
    """And over what the run began with: the last word counts, not the longest name."""
    asked = ["-p", "learning_rate=5e-4", "-p", "ppo.kl_coef=0.2"]
    assert cli.main(["run", "--run", "mine", "--profile", "quick", *asked]) == 0
    assert dict(executed)["04_ppo"]["learning_rate"] == 5e-4
    executed.clear()
    assert cli.main(["run", "--run", "mine", "--only", "ppo", "-p", "kl_coef=0.3"]) == 0
    assert executed[0][1]["kl_coef"] == 0.3 and executed[0][1]["learning_rate"] == 5e-4


def test_a_notebook_with_more_has_settings_that_are_no_parameters():
    for stage in STAGES:
        kinds = declared(notebook_path(stage))
        assert ("more" in kinds) == (stage in values.SETTINGS), stage
        if stage in values.SETTINGS:
            names = values.settings_of(stage)
            assert kinds["more"] == ("dict", {}) and names - kinds.keys(), stage


def test_a_run_of_older_notebooks_goes_on_without_what_is_gone(executed, outputs, capsys):
    """One sentence tells what that is."""
    (outputs / "old").mkdir()
    parameters = {"read_middle": False, "ppo.more": "gamma: 0.9", "more": "x", "seed": 3}
    parameters |= {"ppo.kl_coef": 0.1, "ppo.lam": 0.9}
    write_json(outputs / "old/parameters.json", {"profile": "demo", "parameters": parameters})
    assert cli.main(["run", "--run", "old", "--from", "ppo"]) == 0
    given = {"run": "old", "seed": 3, "kl_coef": 0.1, "more": {"lam": 0.9}}
    assert dict(executed)["04_ppo"] == given
    gone = "read_middle=False, ppo.more='gamma: 0.9', more='x'"
    told = f"Run 'old' began with {gone}, which no notebook has now"
    assert capsys.readouterr().out.count(told) == 1
    kept = {"seed": 3, "ppo.kl_coef": 0.1, "ppo.lam": 0.9}
    assert read_json(outputs / "old/parameters.json")["parameters"] == kept


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [(["--only", "ppo"], ["04_ppo"]), (["--from", "ppo"], ["04_ppo", "05_evaluation"])],
)
def test_only_and_from(executed, arguments, wanted):
    assert cli.main(["run", "--profile", "smoke", *arguments]) == 0
    assert [name for name, _ in executed] == wanted


def test_later_stages_go_on_with_the_parameters_that_the_run_was_given(executed, outputs, capsys):
    """By whichever call; what is given to some stages is theirs alone."""
    mine = ["run", "--run", "mine"]
    asked = ["-p", "seed=3", "-p", "ppo.kl_coef=0.1"]
    assert cli.main([*mine, "--profile", "smoke", *asked]) == 0
    began = dict(executed)
    executed.clear()
    assert cli.main([*mine, "--from", "ppo"]) == 0
    assert dict(executed) == {name: began[name] for name in ("04_ppo", "05_evaluation")}
    assert "profile smoke, seed=3, ppo.kl_coef=0.1" in capsys.readouterr().out
    executed.clear()
    assert cli.main([*mine, "--only", "ppo", "-p", "kl_coef=0.2", "-p", "seed=4"]) == 0
    assert executed[0][1] == began["04_ppo"] | {"kl_coef": 0.2, "seed": 4}
    executed.clear()
    assert cli.main([*mine, "--from", "ppo"]) == 0
    assert dict(executed)["04_ppo"] == began["04_ppo"] | {"kl_coef": 0.2, "seed": 4}
    assert dict(executed)["05_evaluation"] == began["05_evaluation"]  # seed 3
    executed.clear()
    assert cli.main([*mine, "--only", "ppo", "--profile", "demo"]) == 0
    assert executed == [("04_ppo", {"run": "mine", "seed": 4, "kl_coef": 0.2})]
    assert cli.main([*mine, "--only", "evaluation", "-p", "kl_coef=0.2"]) == 2
    assert "kl_coef belongs to ppo, not to evaluation" in capsys.readouterr().err
    assert cli.main(mine) == 0  # anew, as nothing was finished, with nothing asked
    assert executed[-1] == ("05_evaluation", {"run": "mine"})


def test_a_run_that_begins_with_a_single_stage_goes_on_with_its_parameters(executed):
    assert cli.main(["run", "--run", "mine", "--only", "sft", "-p", "seed=3"]) == 0
    assert cli.main(["run", "--run", "mine", "--from", "evaluation"]) == 0
    assert executed == [
        ("01_sft", {"run": "mine", "seed": 3}),
        ("05_evaluation", {"run": "mine", "seed": 3}),
    ]


def test_the_time_left_follows_the_pace_of_a_slower_machine(tmp_path, monkeypatch):
    """100 s expected, and 100 s later; but a part that began at 20 s is at 2 of 10 after 60 more.

    So 240 s are left of it, and what comes later takes 3.2 times as long.
    """
    progress, now = tmp_path / "progress.json", [0.0]
    monkeypatch.setattr(ticker.time, "time", lambda: now[0])
    line = ticker.Ticker("[1/2] 01_sft", progress, 100.0, 100.0).line
    now[0] = 10.0
    assert "about 3 min left in all" in line()  # 90 and 100 s
    progress.write_text('{"what": "step", "done": 0, "total": 10}')
    now[0] = 20.0
    assert "about 3 min left in all" in line()
    progress.write_text('{"what": "step", "done": 2, "total": 10}')
    now[0] = 80.0
    left = 240 + (80 + 240) / 100 * 100
    assert f"step 2 of 10 · 80 s so far · about {clock(left)} left in all" in line()


# --- a run that is there is never written over


def test_a_finished_run_stays_unless_it_is_told_to_go(executed, outputs, capsys):
    begin(outputs / "demo")
    finish(outputs / "demo")
    for arguments in (["run"], ["run", "demo"], ["run", "--run", "demo", "--profile", "demo"]):
        status, out, err = call(capsys, *arguments)
        assert status == 2 and out == "" and executed == []
        assert err.startswith(f"rlhf: {outputs / 'demo'} holds a finished run of 2020-01-02 09:53:")
        assert "--overwrite" in err and "--run NAME" in err
    status, out, _ = call(capsys, "run", "--dry-run")
    assert status == 0 and out.count("writes over 2020-01-02 09:53") == 5 and executed == []
    assert call(capsys, "run", "--overwrite")[0] == 0 and len(executed) == 5


def test_make_smoke_may_write_over_its_run_and_make_demo_may_not():
    text = (notebook_path("sft").parents[1] / "Makefile").read_text()
    smoke, demo = (
        next(line for line in text.splitlines() if f"--run {name}" in line)
        for name in ("smoke", "demo")
    )
    assert "--overwrite" in smoke and "--overwrite" not in demo


def test_an_unfinished_run_is_not_begun_anew_by_chance(executed, outputs, capsys):
    begin(outputs / "mine")
    finish(outputs / "mine", "sft")
    status, _, err = call(capsys, "run", "mine")
    assert status == 2 and "(done: sft): `rlhf resume mine`" in err and executed == []
    assert call(capsys, "run", "mine", "--overwrite")[0] == 0 and len(executed) == 5


def test_a_stage_goes_on_in_a_finished_run_by_design(executed, outputs, capsys):
    """But not over the checkpoints of a 04 that has stopped."""
    begin(outputs / "mine")
    finish(outputs / "mine")
    status, out, _ = call(capsys, "run", "mine", "--from", "ppo")
    assert status == 0 and out.count("writes over 2020-01-02 09:53") == 2
    checkpoint(outputs / "mine")
    executed.clear()
    status, _, err = call(capsys, "run", "mine", "--from", "ppo")
    assert status == 2 and "would be deleted: `rlhf resume mine` goes on with it" in err
    assert call(capsys, "run", "mine", "--from", "evaluation")[0] == 0
    assert call(capsys, "run", "mine", "--only", "ppo", "-p", "resume=true")[0] == 0
    assert executed[-1][1]["resume"] is True
    assert call(capsys, "run", "mine", "--only", "ppo", "--overwrite")[0] == 0
    assert "resume" not in executed[-1][1], "it is no parameter that a run keeps"


# --- rlhf resume


def test_resume_knows_all_that_was_given(executed, outputs, capsys):
    assert cli.main(["run", "mine", "--profile", "smoke", "-p", "seed=3"]) == 0
    assert cli.main(["run", "mine", "--from", "ppo", "-p", "kl_coef=0.2", "-p", "ppo.lam=0.9"]) == 0
    finish(outputs / "mine", "sft", "preferences")
    executed.clear()
    assert call(capsys, "resume", "mine")[0] == 0
    given = dict(executed)
    assert list(given) == ["03_reward_model", "04_ppo", "05_evaluation"]
    assert given["04_ppo"]["kl_coef"] == 0.2 and given["04_ppo"]["more"]["lam"] == 0.9
    assert given["04_ppo"]["seed"] == 3 and given["04_ppo"]["num_trainable_layers"] == 1
    assert all("resume" not in parameters for parameters in given.values())


def test_resume_goes_on_from_checkpoints_only_if_what_they_began_from_is_there(
    executed, outputs, capsys
):
    run = outputs / "mine"
    begin(run)
    finish(run, "sft", "preferences", "reward_model")
    checkpoint(run)
    status, out, _ = call(capsys, "resume", "mine")
    assert status == 0 and executed[0] == ("04_ppo", {"run": "mine", "resume": True})
    assert re.search(r"04_ppo .*goes on", out) and len(executed) == 2
    executed.clear()
    (run / "reward_model/manifest.json").unlink()
    assert call(capsys, "resume", "mine")[0] == 0
    assert [name for name, _ in executed][:2] == ["03_reward_model", "04_ppo"]
    assert "resume" not in dict(executed)["04_ppo"]
    executed.clear()
    finish(run)
    assert call(capsys, "run", "mine", "--overwrite")[0] == 0  # these are an older run's
    finish(run, "sft", "preferences", "reward_model")
    executed.clear()
    assert call(capsys, "resume", "mine")[0] == 0
    assert executed[0] == ("04_ppo", {"run": "mine"})


def test_resume_repeats_what_is_stale(executed, outputs, capsys):
    run = outputs / "mine"
    begin(run)
    finish(run)
    finish(run, "ppo", inputs={"sft/policy": "another digest"})
    assert call(capsys, "resume", "mine")[0] == 0
    assert [name for name, _ in executed] == ["04_ppo", "05_evaluation"]


def test_resume_ends_with_the_stage_that_was_asked(executed, outputs, capsys):
    assert cli.main(["run", "mine", "--only", "sft"]) == 0
    executed.clear()
    assert call(capsys, "resume", "mine")[0] == 0 and [n for n, _ in executed] == ["01_sft"]
    finish(outputs / "mine", "sft")
    executed.clear()
    status, out, _ = call(capsys, "resume", "mine")
    assert status == 0 and executed == [] and "nothing is left to do" in out


def test_a_reward_is_looked_for_where_the_run_was_begun(executed, outputs, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert cli.main(["run", "mine", "--only", "sft"]) == 0
    assert cli.os.environ["RLHF_CWD"] == str(tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["resume", "mine"]) == 0
    assert cli.os.environ["RLHF_CWD"] == str(tmp_path / "here")


# --- values


@pytest.mark.parametrize(
    ("text", "stage", "wanted"),
    [
        ("annotator_name=2024-01-01", "preferences", "2024-01-01"),
        ("annotator_name=on", "preferences", "on"),
        ("annotator_name=null", "preferences", "null"),
        ("annotator_name=1e3", "preferences", "1e3"),
        ("annotator_name=a: b", "preferences", "a: b"),
        ("annotator_name='a b'", "preferences", "a b"),
        ("annotator_name=[x]", "preferences", "[x]"),
        ("seed=1e3", "ppo", 1000),
        ("seed=010", "ppo", 10),
        ("num_prompts=1e3", "preferences", 1000),
        ("resume=True", "ppo", True),
        ("kl_coef=1e-4", "ppo", 1e-4),
        ("kl_coef=1", "ppo", 1.0),
    ],
)
def test_a_value_is_read_as_its_parameters_type(text, stage, wanted):
    (got,) = values.parse_parameters([text], [stage]).values()
    assert got == wanted and type(got) is type(wanted)


def test_relative_paths_are_those_of_the_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine.jsonl", "tiny", "simulated"):
        (tmp_path / name).mkdir()
    got = values.parse_parameters(
        [
            "demonstrations=mine.jsonl",
            "preferences.prompts=./mine.jsonl",
            "reward_model.preferences=nothing.jsonl",
            "model=tiny",  # a built-in name stays one
            "annotator=simulated",
            "reward=mine.jsonl#good",  # a classifier's folder and label
            "heldout_prompts=mine.jsonl@test",  # a saved data set and its split
            "annotator_name=mine.jsonl",
        ],
        list(STAGES),
    )
    here = str(tmp_path / "mine.jsonl")
    assert list(got.values()) == [
        here,
        here,
        "nothing.jsonl",
        "tiny",
        "simulated",
        f"{here}#good",
        f"{here}@test",
        "mine.jsonl",
    ]


def test_a_profile_may_be_a_file(executed, outputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fast.yaml").write_text("model: tiny\nppo.seed: 1e1\nannotator_name: 2024-01-01\n")
    assert cli.main(["run", "--profile", "fast.yaml"]) == 0
    given = dict(executed)
    assert given["04_ppo"] == {"run": "fast", "seed": 10}
    assert given["02_preferences"] == {"run": "fast", "annotator_name": "2024-01-01"}


def test_checkpoints_outlive_a_second_stop(executed, outputs, capsys):
    """A 04 that went on with `resume=true` and stopped at once goes on once more."""
    run = outputs / "mine"
    begin(run)
    finish(run, "sft", "preferences", "reward_model")
    checkpoint(run)
    assert call(capsys, "run", "mine", "--from", "ppo", "-p", "resume=true")[0] == 0
    executed.clear()
    assert call(capsys, "resume", "mine")[0] == 0
    assert executed[0] == ("04_ppo", {"run": "mine", "resume": True})


def test_a_run_that_another_process_makes_is_left_alone(executed, outputs, capsys):
    begin(outputs / "mine")
    finish(outputs / "mine", "sft")
    before = (outputs / "mine/parameters.json").read_text()
    with cli.RunLock(outputs / "mine"):
        status, _, err = call(capsys, "resume", "mine")
        again = call(capsys, "run", "mine", "--only", "sft", "-p", "seed=3")
    assert status == again[0] == 2 and "Run 'mine' is being made by another" in err
    assert executed == [] and (outputs / "mine/parameters.json").read_text() == before
