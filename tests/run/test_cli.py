"""The console command: what it runs, and that whatever is wrong comes as one sentence on stderr."""

import subprocess
import sys

import nbformat
import pytest

from rlhf_utils.ppo.config import PPOConfig
from rlhf_utils.run import cli
from rlhf_utils.run.stage import STAGES


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
        (["-p", "sftt.seed=3"], "stage.name=value with one of the stages sft, "),
        (
            ["-p", "ppo.no_such_parameter=3"],
            "No notebook has a parameter 'ppo.no_such_parameter'; there are ",
        ),
        (["-p", "model={x"], "model"),  # no YAML
        (
            ["-p", "ppo.more=gamma: 0.99"],
            "put quotation marks around it, as in -p 'ppo.more=\"…\"'",
        ),  # a mapping in YAML
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
    assert (
        cli.main(
            [
                "run",
                "--run",
                "mine",
                "--profile",
                "smoke",
                "-p",
                "kl_coef=1e-4",
                "-p",
                "resume=true",
                "-p",
                "ppo.seed=2",
                "-p",
                "seed=1",
            ]
        )
        == 0
    )
    assert [name for name, _ in executed] == names
    given = dict(executed)
    assert all(parameters["run"] == "mine" for parameters in given.values())
    assert (
        given["04_ppo"]["kl_coef"] == "1e-4" and "kl_coef" not in given["01_sft"]
    )  # YAML's text; the notebook converts it
    assert [parameters["seed"] for parameters in given.values()] == [
        1,
        1,
        1,
        2,
        1,
    ]  # one stage's own goes before everybody's
    assert given["01_sft"]["model"] == "tiny" and str(outputs / "mine") in capsys.readouterr().out


def test_the_run_is_named_after_its_profile(executed, outputs):
    assert cli.main(["run", "--profile", "smoke", "--only", "sft"]) == 0
    assert executed[0][1]["run"] == "smoke" and [path.name for path in outputs.iterdir()] == [
        "smoke"
    ]


@pytest.mark.parametrize("profile", ["smoke", "quick", "gpu"])
def test_every_name_in_a_profile_reaches_a_notebook(executed, profile):
    assert cli.main(["run", "--profile", profile]) == 0
    given = set().union(*(parameters for _, parameters in executed))
    assert given == {name.rpartition(".")[2] for name in cli.load_profile(profile)} | {"run"}


def test_the_gpu_profiles_batch_is_ppos_alone_and_divides(executed):
    """As 01's it would leave 76 of the 608 steps of SFT."""
    assert cli.main(["run", "--profile", "gpu"]) == 0
    given = dict(executed)
    assert "per_device_train_batch_size" not in given["01_sft"]
    assert PPOConfig.of(given["04_ppo"]).per_device_train_batch_size == 64


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
    assert (
        cli.main(
            ["run", "--run", "mine", "--profile", "smoke", "-p", "seed=3", "-p", "ppo.kl_coef=0.1"]
        )
        == 0
    )
    began = dict(executed)
    executed.clear()
    assert cli.main(["run", "--run", "mine", "--from", "ppo"]) == 0
    assert dict(executed) == {name: began[name] for name in ("04_ppo", "05_evaluation")}
    assert "profile smoke, seed=3, ppo.kl_coef=0.1" in capsys.readouterr().out
    executed.clear()
    assert (
        cli.main(
            ["run", "--run", "mine", "--only", "ppo", "--profile", "demo", "-p", "ppo.kl_coef=0.2"]
        )
        == 0
    )  # for this once
    assert executed == [("04_ppo", {"run": "mine", "seed": 3, "kl_coef": 0.2})]
    executed.clear()
    assert cli.main(["run", "--run", "mine", "--only", "ppo"]) == 0
    assert dict(executed) == {"04_ppo": began["04_ppo"]}
    executed.clear()
    assert cli.main(["run", "--run", "mine", "--only", "evaluation"]) == 0  # which has no kl_coef
    assert dict(executed) == {"05_evaluation": began["05_evaluation"]}
    assert (
        cli.main(["run", "--run", "mine", "--only", "evaluation", "-p", "kl_coef=0.2"]) == 1
        and "No notebook has a parameter 'kl_coef'" in capsys.readouterr().err
    )
    assert cli.main(["run", "--run", "mine"]) == 0 and executed[-1] == (
        "05_evaluation",
        {"run": "mine"},
    )  # anew, and as nothing was said


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
    """100 s expected and 100 s later; but a part that began at 20 s is at 2 of 10 after another 60 s: 240 s left, and later 3.2 times as long."""
    progress, now = tmp_path / "progress.json", [0.0]
    monkeypatch.setattr(cli.time, "time", lambda: now[0])
    ticker = cli.Ticker("[1/2] 01_sft", progress, 100.0, 100.0)
    now[0] = 10.0
    assert "about 3 min left in all" in ticker.line()  # 90 and 100 s
    progress.write_text('{"what": "step", "done": 0, "total": 10}')
    now[0] = 20.0
    assert "about 3 min left in all" in ticker.line()
    progress.write_text('{"what": "step", "done": 2, "total": 10}')
    now[0] = 80.0
    left = 240 + (80 + 240) / 100 * 100
    assert f"step 2 of 10 · 80 s so far · about {cli.clock(left)} left in all" in ticker.line()
