"""The console command: what it runs, and that whatever is wrong comes as one sentence on stderr."""

import subprocess
import sys

import nbformat
import pytest

from rlhf_utils.files import read_json, write_json
from rlhf_utils.ppo.config import PPOConfig
from rlhf_utils.run import cli, ticker
from rlhf_utils.run.parameters import fill_settings
from rlhf_utils.run.stage import STAGES, notebook_path

STAGES_BY_NOTEBOOK = {notebook: stage for stage, (notebook, _) in STAGES.items()}


@pytest.fixture
def executed(monkeypatch, outputs):
    """What `rlhf run` would execute, without executing it."""
    calls = []
    monkeypatch.setattr(
        cli,
        "execute",
        lambda notebook, target, parameters: calls.append((notebook.stem, parameters)) or "",
    )
    return calls


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-p", "seed"], "'seed' is not of the form name=value"),
        (["-p", "=3"], "not of the form name=value"),
        (["-p", "a b=3"], "not of the form name=value"),
        (["-p", "sftt.seed=3"], "stage.name=value, with one of the stages sft, "),
        (["-p", "more.gamma=0.9"], "'more.gamma=0.9' is not of the form name=value or stage.name="),
        (["-p", "more={gamma: 0.9}"], "A setting in `more` is given by its own name"),
        (["-p", "ppo.less.gamma=0.9"], "not of the form name=value"),
        (["-p", "ppo.more.gamma=0.9"], "not of the form name=value"),
        (
            ["-p", "ppo.no_such_parameter=3"],
            "No notebook has a parameter 'ppo.no_such_parameter'; there are ",
        ),
        (["-p", "model={x"], "model"),  # no YAML
        (["-p", "prompts=a: b"], "put quotation marks around it, as in -p 'prompts=\"…\"'"),
        (
            ["-p", "evaluation.gamma=0.9"],
            "No notebook has a parameter 'evaluation.gamma'; there are ",
        ),
        (["-p", "ppo.gama=0.9"], "No notebook has a parameter 'ppo.gama'; there are "),
        (["-p", "ppo.more={gamma: 0.9}"], "A setting in `more` is given by its own name"),
        (
            ["-p", "no_such_parameter=3"],
            "No notebook has a parameter 'no_such_parameter'; there are ",
        ),
        (["--profile", "huge"], "There is no profile 'huge'; there are demo, gpu, quick, smoke"),
        (["--run", "../x"], "run='../x' is no run name"),
        (["-p", "run=other"], "use --run"),
    ],
)
def test_errors_are_one_sentence(executed, outputs, capsys, arguments, told):
    assert cli.main(["run", *arguments]) == 1
    printed = capsys.readouterr()
    assert (
        told in printed.err
        and printed.err.startswith("rlhf: ")
        and printed.err.count("\n") == 1
        and printed.out == ""
    )
    assert executed == [] and list(outputs.iterdir()) == []


def test_keep_without_a_run(outputs, capsys):
    for name, told in (
        ("nothing", "run all notebooks of 'nothing' first"),
        ("../x", "no run name"),
    ):
        assert cli.main(["keep", "--run", name]) == 1
        printed = capsys.readouterr().err
        assert told in printed and printed.count("\n") == 1


def test_errors_without_traceback_in_a_process_of_its_own(outputs):
    result = subprocess.run(
        [sys.executable, "-m", "rlhf_utils.run.cli", "run", "--run", "a/b"],
        capture_output=True,
        text=True,
        cwd=outputs,
    )
    assert (
        result.returncode == 1
        and "Traceback" not in result.stderr
        and "'a/b' is no run name" in result.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["run", "--help"], 0),
        ([], 2),
        (["run", "--only", "sfft"], 2),
        (["run", "--from", "x"], 2),
        (["run", "--from", "ppo", "--only", "sft"], 2),
        (["walk"], 2),
    ],
)
def test_help_and_usage(executed, capsys, arguments, code):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    printed = capsys.readouterr()
    assert (
        stopped.value.code == code
        and "usage: rlhf" in (printed.out if code == 0 else printed.err)
        and executed == []
    )
    if "--only" in arguments and "--from" in arguments:
        assert "not allowed with" in printed.err
    elif "--only" in arguments or "--from" in arguments:
        assert all(stage in printed.err for stage in STAGES)


def test_stages_run_in_order_with_the_parameters_that_they_have(executed, outputs, capsys):
    names = [name for name, _ in STAGES.values()]
    asked = ("kl_coef=1e-4", "resume=true", "ppo.seed=2", "seed=1")
    options = [option for pair in asked for option in ("-p", pair)]
    assert cli.main(["run", "--run", "mine", "--profile", "smoke", *options]) == 0
    assert [name for name, _ in executed] == names
    given = dict(executed)
    assert all(parameters["run"] == "mine" for parameters in given.values())
    assert (
        given["04_ppo"]["kl_coef"] == "1e-4" and "kl_coef" not in given["01_sft"]
    )  # YAML's text; the notebook converts it
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
    for name, value in cli.load_profile(profile).items():
        takers = [stage for stage in given if cli.takes(stage, name)]
        parameter = name.rpartition(".")[2]
        for stage in takers:
            got = given[stage] if parameter in given[stage] else given[stage]["more"]
            own = cli.load_profile(profile).get(f"{stage}.{parameter}", value)
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
    assert executed[0][1]["more"] == more | {"gamma": 0.9}


def test_what_is_asked_goes_over_what_a_profile_gives_to_one_stage(executed, outputs):
    """And over what the run began with: the last word counts, not the longest name."""
    asked = ["-p", "learning_rate=5e-4", "-p", "ppo.kl_coef=0.2"]
    assert cli.main(["run", "--run", "mine", "--profile", "quick", *asked]) == 0
    assert dict(executed)["04_ppo"]["learning_rate"] == "5e-4"
    executed.clear()
    assert cli.main(["run", "--run", "mine", "--only", "ppo", "-p", "kl_coef=0.3"]) == 0
    assert executed[0][1]["kl_coef"] == 0.3 and executed[0][1]["learning_rate"] == "5e-4"


def test_a_notebook_with_more_has_settings_that_are_no_parameters():
    for stage in STAGES:
        kinds = cli.parameter_types(notebook_path(stage))
        assert ("more" in kinds) == (stage in cli.SETTINGS), stage
        if stage in cli.SETTINGS:
            names = cli.settings_of(stage)
            assert kinds["more"] == "dict" and names - kinds.keys(), stage


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
    assert read_json(outputs / "old/parameters.json")["parameters"] == parameters


def test_keep_refuses_a_run_with_parameters_of_its_own(outputs, capsys):
    """The injected cell would override what a later run gives."""
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("# Parameters", metadata={"tags": ["injected-parameters"]})
        ]
    )
    (outputs / "mine").mkdir()
    nbformat.write(notebook, outputs / "mine" / "01_sft.ipynb")
    assert cli.main(["keep", "--run", "mine"]) == 1
    assert "parameters of its own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [(["--only", "ppo"], ["04_ppo"]), (["--from", "ppo"], ["04_ppo", "05_evaluation"])],
)
def test_only_and_from(executed, arguments, wanted):
    assert cli.main(["run", "--profile", "smoke", *arguments]) == 0
    assert [name for name, _ in executed] == wanted


def test_later_stages_go_on_with_the_parameters_that_the_run_began_with(executed, outputs, capsys):
    mine = ["run", "--run", "mine"]
    asked = ["-p", "seed=3", "-p", "ppo.kl_coef=0.1"]
    assert cli.main([*mine, "--profile", "smoke", *asked]) == 0
    began = dict(executed)
    executed.clear()
    assert cli.main([*mine, "--from", "ppo"]) == 0
    assert dict(executed) == {name: began[name] for name in ("04_ppo", "05_evaluation")}
    assert "profile smoke, seed=3, ppo.kl_coef=0.1" in capsys.readouterr().out
    executed.clear()
    for_once = ["--profile", "demo", "-p", "ppo.kl_coef=0.2"]
    assert cli.main([*mine, "--only", "ppo", *for_once]) == 0
    assert executed == [("04_ppo", {"run": "mine", "seed": 3, "kl_coef": 0.2})]
    executed.clear()
    assert cli.main([*mine, "--only", "ppo"]) == 0
    assert dict(executed) == {"04_ppo": began["04_ppo"]}
    executed.clear()
    assert cli.main([*mine, "--only", "evaluation"]) == 0  # which has no kl_coef
    assert dict(executed) == {"05_evaluation": began["05_evaluation"]}
    assert cli.main([*mine, "--only", "evaluation", "-p", "kl_coef=0.2"]) == 1
    assert "No notebook has a parameter 'kl_coef'" in capsys.readouterr().err
    assert cli.main(mine) == 0  # anew, with nothing asked
    assert executed[-1] == ("05_evaluation", {"run": "mine"})


def test_a_run_that_begins_with_a_single_stage_goes_on_with_its_parameters(executed):
    assert cli.main(["run", "--run", "mine", "--only", "sft", "-p", "seed=3"]) == 0
    assert cli.main(["run", "--run", "mine", "--from", "evaluation"]) == 0
    assert executed == [
        ("01_sft", {"run": "mine", "seed": 3}),
        ("05_evaluation", {"run": "mine", "seed": 3}),
    ]


def test_a_stage_that_fails_stops_the_run(executed, monkeypatch, capsys):
    monkeypatch.setattr(
        cli,
        "execute",
        lambda notebook, *rest: executed.append(notebook.stem) or "cell 3 raised RunError: why",
    )
    assert cli.main(["run", "--run", "mine", "--profile", "smoke"]) == 1
    told = capsys.readouterr().err
    assert (
        executed == ["01_sft"]
        and "01_sft failed" in told
        and "RunError: why" in told
        and "01_sft.ipynb" in told
    )


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
    assert f"step 2 of 10 · 80 s so far · about {cli.clock(left)} left in all" in line()
