"""The console command `rlhf`: runs the notebooks in order with papermill, and says how far it is.

    rlhf run --run NAME --profile smoke|quick|demo|gpu -p name=value --from STAGE --only STAGE

Left out: sweeps, several runs at once.
"""

import argparse
import re
import shutil
import sys
import threading
import time
from pathlib import Path

import yaml

from ..errors import ExplainedError, RunError
from ..files import read_json, write_json
from ..show.text import clock
from .stage import STAGES, project_root, run_dir


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="rlhf", description="A real language model through all of RLHF, notebook by notebook."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="execute the notebooks in order into outputs/<run>/")
    run.add_argument(
        "--run", metavar="NAME", help="folder below outputs/ (default: the profile's name)"
    )
    run.add_argument(
        "--profile",
        help="smoke (minutes, tiny model), quick (half of the demo), demo (the notebooks' defaults, what is taken if nothing is said) or gpu",
    )
    run.add_argument(
        "-p",
        dest="parameters",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter, for every notebook that has it; STAGE.NAME=VALUE for one stage",
    )
    which = run.add_mutually_exclusive_group()
    which.add_argument(
        "--from",
        dest="first",
        choices=STAGES,
        help="begin with this stage and use what the run already holds, its parameters too",
    )
    which.add_argument("--only", choices=STAGES, help="run this stage alone")
    keep = commands.add_parser(
        "keep", help="copy a run's executed notebooks over notebooks/, to commit them"
    )
    keep.add_argument("--run", default="demo", metavar="NAME")
    options = parser.parse_args(argv)
    try:
        if options.command == "keep":
            return keep_outputs(options.run)
        return run_notebooks(
            options.run or options.profile or "demo",
            options.profile,
            options.parameters,
            options.first,
            options.only,
        )
    except ExplainedError as error:
        print(f"rlhf: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\nrlhf: stopped; `--from STAGE` goes on from the stage that was not finished.",
            file=sys.stderr,
        )
        return 130


def parse_parameters(pairs: list[str]) -> dict:
    """{"ppo.lr": "1e-4"} from ["ppo.lr=1e-4"]. Values are read as YAML, as papermill does. Raises RunError for one without `=`, or without a plain value."""
    parsed = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        stage, _, plain = name.rpartition(".")
        if not sign or not plain.isidentifier() or stage not in ("", *STAGES):
            raise RunError(
                f"-p {pair!r} is not of the form name=value, or stage.name=value with one of the stages {', '.join(STAGES)}."
            )
        try:
            parsed[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            parsed[name] = {}
        if isinstance(
            parsed[name], dict
        ):  # no parameter is a mapping, but a text with a colon looks like one
            raise RunError(
                f"-p {pair!r}: the value cannot be read; put quotation marks around it, as in -p '{name}=\"…\"'."
            )
    return parsed


def load_profile(profile: str) -> dict:
    """The parameters of notebooks/profiles/<profile>.yaml; none for demo, which is the notebooks' defaults."""
    folder = project_root() / "notebooks" / "profiles"
    if profile == "demo":
        return {}
    path = folder / f"{profile}.yaml"
    if not path.is_file():
        known = ["demo", *sorted(p.stem for p in folder.glob("*.yaml"))]
        raise RunError(f"There is no profile {profile!r}; there are {', '.join(known)}.")
    return yaml.safe_load(path.read_text())


def run_notebooks(
    run: str, profile: str | None, pairs: list[str], first: str | None, only: str | None
) -> int:
    """Executes the chosen stages; returns 0, or 1 after a stage that failed, having said which and why.

    The profile and the parameters of a run's first call, or of its last call of all stages, hold for calls of single stages too, unless others are given.
    """
    from papermill import inspect_notebook

    target, root = run_dir(run), project_root()
    began, now = target / "parameters.json", parse_parameters(pairs)
    goes_on = bool(first or only) and began.is_file()
    before = read_json(began) if goes_on else {"profile": "demo", "parameters": {}}
    profile, asked = profile or before["profile"], before["parameters"] | now
    sizes = load_profile(profile)
    stages = list(STAGES)
    stages = [only] if only else stages[stages.index(first) :] if first else stages
    notebooks = {stage: root / "notebooks" / f"{STAGES[stage][0]}.ipynb" for stage in stages}
    if missing := [str(path) for path in notebooks.values() if not path.is_file()]:
        raise RunError(f"There is no {missing[0]}: run rlhf inside the project's folder.")
    accepted = {stage: set(inspect_notebook(str(path))) for stage, path in notebooks.items()}
    if any(name.rpartition(".")[2] == "run" for name in now):
        raise RunError("-p run=… would split the run over two folders: use --run.")
    for name in now:  # those of the run's first call may be for other stages
        stage, _, plain = name.rpartition(".")
        if not any(plain in names for one, names in accepted.items() if stage in ("", one)):
            raise RunError(
                f"No notebook has a parameter {name!r}; there are {', '.join(sorted(set().union(*accepted.values())))}."
            )
    target.mkdir(parents=True, exist_ok=True)
    if goes_on:
        print(
            f"Run {run!r} with profile {profile}"
            + "".join(f", {name}={value}" for name, value in asked.items()),
            flush=True,
        )
    else:
        write_json(began, {"profile": profile, "parameters": asked})
    if shutil.disk_usage(target).free < 3e9 and profile != "smoke":
        raise RunError(
            f"The disk is nearly full: a run keeps about 2 GB below {target}; free some space first."
        )
    expected = {stage: expected_seconds(target, stage, profile) for stage in stages}
    scale = 1.0
    for number, stage in enumerate(stages, 1):
        wanted = {"run": run} | sizes | asked if (run != "demo" or sizes or asked) else {}
        own = {
            name.removeprefix(f"{stage}."): value
            for name, value in wanted.items()
            if name.startswith(f"{stage}.")
        }
        values = {name: value for name, value in (wanted | own).items() if name in accepted[stage]}
        label = f"[{number}/{len(stages)}] {STAGES[stage][0]}"
        later = sum(expected[s] for s in stages[number:])
        started = time.time()
        with Ticker(
            label, target / stage / "progress.json", expected[stage] * scale, later * scale
        ):
            failure = execute(notebooks[stage], target / f"{STAGES[stage][0]}.ipynb", values)
        took = time.time() - started
        if failure:
            print(
                f"{label} failed after {clock(took)}: {failure}\nThe executed notebook is {target / STAGES[stage][0]}.ipynb",
                file=sys.stderr,
            )
            return 1
        scale = 0.5 * scale + 0.5 * took / expected[stage] if expected[stage] else scale
        print(f"{label} done in {clock(took)}", flush=True)
    print(
        f"Report: {target / 'evaluation' / 'report.html'}"
        if "evaluation" in stages
        else f"Results: {target}"
    )
    return 0


def keep_outputs(run: str) -> int:
    """Copies executed notebooks over the originals, without papermill's traces of where and when they ran; returns 0."""
    import nbformat

    for name, _ in STAGES.values():
        source = run_dir(run) / f"{name}.ipynb"
        if not source.is_file():
            raise RunError(f"There is no {source}: run all notebooks of {run!r} first.")
        notebook = nbformat.read(source, 4)
        if any("injected-parameters" in cell.metadata.get("tags", []) for cell in notebook.cells):
            raise RunError(
                f"Run {run!r} was made with parameters of its own, which would stay in notebooks/: keep a run made with the defaults."
            )
        notebook.metadata.pop("papermill", None)
        for cell in notebook.cells:
            cell.metadata = {
                "tags": [tag for tag in cell.metadata.get("tags", []) if tag == "parameters"]
            }
        nbformat.write(notebook, project_root() / "notebooks" / f"{name}.ipynb")
    print(f"notebooks/ now holds the outputs of run {run}.")
    return 0


def expected_seconds(target: Path, stage: str, profile: str) -> float:
    """What the stage took in this run before, else the demo's figure (a twentieth of it for smoke, half for quick)."""
    path = target / stage / "manifest.json"
    return (
        read_json(path)["wall_s"]
        if path.is_file()
        else STAGES[stage][1] * 60 / {"smoke": 20, "quick": 2}.get(profile, 1)
    )


def execute(notebook: Path, target: Path, parameters: dict) -> str:
    """Runs one notebook into `target`; returns "" or one sentence on what went wrong."""
    import papermill

    try:
        papermill.execute_notebook(
            str(notebook),
            str(target),
            parameters=parameters,
            progress_bar=False,
            cwd=str(project_root()),
            kernel_name="python3",
            extra_arguments=["--log-level=ERROR"],
        )
    except papermill.PapermillExecutionError as error:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error.evalue))
        return f"cell {error.exec_count} raised {error.ename}: {plain}"
    except (
        Exception
    ) as error:  # a kernel that died, a disk that is full: whatever it is, one sentence
        return (
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        )
    return ""


class Ticker(threading.Thread):
    """Prints one line on how far a stage is: every second over itself on a terminal, every minute into a file."""

    def __init__(self, label: str, progress: Path, expected_s: float, later_s: float):
        super().__init__(daemon=True)
        self.label, self.progress, self.expected_s, self.later_s = (
            label,
            progress,
            expected_s,
            later_s,
        )
        self.done, self.started = threading.Event(), time.time()
        self.pace = "", 0, 0.0  # the part that runs, how far it was when first seen, and when

    def __enter__(self):
        self.progress.unlink(missing_ok=True)
        print(f"{self.label} …", flush=True)
        self.start()
        return self

    def __exit__(self, *error):
        self.done.set()
        self.join()

    def run(self) -> None:
        terminal = sys.stdout.isatty()
        while not self.done.wait(1 if terminal else 60):
            print(
                ("\r\x1b[2K" if terminal else "") + self.line(),
                end="" if terminal else "\n",
                flush=True,
            )
        print("\r\x1b[2K" if terminal else "", end="")

    def line(self) -> str:
        passed = time.time() - self.started
        left, where = max(self.expected_s - passed, 0.05 * self.expected_s), ""
        try:
            state = read_json(self.progress)
            what, done, total = state["what"], state["done"], state["total"]
            where = f" · {what} {done} of {total}"
            if what != self.pace[0] or done < self.pace[1]:  # another part, or one that began anew
                self.pace = what, done, passed
            if (
                done > self.pace[1]
            ):  # on a slower machine, the pace of this part tells more than what was expected
                left = max(left, (total - done) * (passed - self.pace[2]) / (done - self.pace[1]))
        except (OSError, ValueError, KeyError):
            pass
        slower = max((passed + left) / max(self.expected_s, 1.0), 1.0)
        return f"{self.label}{where} · {clock(passed)} so far · about {clock(left + slower * self.later_s)} left in all"


if __name__ == "__main__":
    sys.exit(main())
