"""The console command `rlhf`: runs the notebooks in order with papermill, and says how far it is.

    rlhf run --run NAME --profile smoke|quick|demo|gpu -p name=value --from STAGE --only STAGE
    rlhf keep --run NAME

Left out: sweeps, several runs at once.
"""

import argparse
import ast
import functools
import re
import shutil
import sys
import time
from pathlib import Path

import nbformat
import papermill
import yaml

from ..errors import ExplainedError, RunError
from ..files import read_json, write_json
from ..show.text import clock
from .parameters import parameter_types
from .stage import STAGES, notebook_path, project_root, run_dir
from .ticker import Ticker

# What a notebook's `more` may hold: the fields of a dataclass, by file and name.
SETTINGS = {
    "sft": ("models/sft.py", "SFTSettings"),
    "preferences": ("preferences/label_queue.py", "CollectionSettings"),
    "ppo": ("ppo/config.py", "PPOConfig"),
}


def main(argv: list[str] | None = None) -> int:
    options = make_parser().parse_args(argv)
    try:
        if options.command == "keep":
            return keep_outputs(options.run)
        return run_notebooks(options)
    except ExplainedError as error:
        print(f"rlhf: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\nrlhf: stopped; `--from STAGE` goes on from the stage that was not finished.",
            file=sys.stderr,
        )
        return 130


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rlhf", description="Runs all of RLHF, in notebooks.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="execute the notebooks in order into outputs/<run>/")
    run.add_argument(
        "--run", metavar="NAME", help="folder below outputs/ (default: the profile's name)"
    )
    run.add_argument(
        "--profile",
        help="smoke (minutes, tiny model), quick (half of the demo), gpu, "
        "or demo (the default: the notebooks as they are)",
    )
    run.add_argument(
        "-p",
        dest="parameters",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter, or a setting in `more`, for every notebook that has it; "
        "STAGE.NAME=VALUE for one stage",
    )
    which = run.add_mutually_exclusive_group()
    which.add_argument(
        "--from",
        dest="first",
        choices=STAGES,
        help="begin with this stage; use what the run already holds, also its parameters",
    )
    which.add_argument("--only", choices=STAGES, help="run this stage alone")
    keep = commands.add_parser(
        "keep", help="copy a run's executed notebooks over notebooks/, to commit them"
    )
    keep.add_argument("--run", default="demo", metavar="NAME")
    return parser


# --- rlhf run


def run_notebooks(options: argparse.Namespace) -> int:
    """Executes the chosen stages. Returns 0, or 1 after it told which stage failed and why."""
    run = options.run or options.profile or "demo"
    target = run_dir(run)
    stages = [options.only] if options.only else list(STAGES)
    if options.first:
        stages = stages[stages.index(options.first) :]
    now = parse_parameters(options.parameters)
    check_asked(now, stages)
    began = target / "parameters.json"
    goes_on = bool(options.first or options.only) and began.is_file()
    before = read_json(began) if goes_on else {"profile": "demo", "parameters": {}}
    profile = options.profile or before["profile"]
    sizes = load_profile(profile)
    earlier = without_unknown(before["parameters"], run)
    if goes_on:
        told = "".join(f", {name}={value}" for name, value in (earlier | now).items())
        print(f"Run {run!r} with profile {profile}{told}", flush=True)
    else:
        write_json(began, {"profile": profile, "parameters": now})
    if shutil.disk_usage(target).free < 3e9 and profile != "smoke":
        raise RunError(
            f"The disk is nearly full: a run keeps about 2 GB below {target}; "
            "free some space first."
        )
    layers = [sizes, earlier, now]
    if any(layers) or run != "demo":  # `keep` wants a demo run that nothing was injected into
        layers.append({"run": run})
    values = {stage: values_of(stage, layers) for stage in stages}
    return execute_stages(target, values, profile)


@functools.cache
def parameters_of(stage: str) -> set[str]:
    """The names of its notebook's parameters. Raises RunError if the notebook is missing."""
    path = notebook_path(stage)
    if not path.is_file():
        raise RunError(f"There is no {path}: run rlhf inside the project's folder.")
    return set(parameter_types(path))


def parse_parameters(pairs: list[str]) -> dict:
    """{"ppo.seed": 1} from ["ppo.seed=1"]; values are read as YAML, as papermill does."""
    form = rf"(({'|'.join(STAGES)})\.)?(?!more$)[^\W\d]\w*"
    parsed = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign or not re.fullmatch(form, name):
            raise RunError(
                f"-p {pair!r} is not of the form name=value or stage.name=value, with one of the "
                f"stages {', '.join(STAGES)}. A setting in `more` is given by its own name."
            )
        try:
            parsed[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            parsed[name] = {}
        if isinstance(parsed[name], dict):  # to YAML, a text with a colon is a mapping
            raise RunError(
                f"-p {pair!r}: the value cannot be read; put quotation marks around it, "
                f"as in -p '{name}=\"…\"'."
            )
    return parsed


def takes(stage: str, name: str) -> bool:
    """Whether the stage has this parameter, or this setting in `more`."""
    own, _, parameter = name.rpartition(".")
    return own in ("", stage) and parameter in parameters_of(stage) | settings_of(stage)


def check_asked(asked: dict, stages: list[str]) -> None:
    """Raises RunError for a parameter or a setting that none of the stages has."""
    for name in asked:
        if name.rpartition(".")[2] == "run":
            raise RunError("-p run=… would split the run over two folders: use --run.")
        if not any(takes(stage, name) for stage in stages):
            names = set().union(*map(parameters_of, stages), *map(settings_of, stages))
            raise RunError(
                f"No notebook has a parameter {name!r}; there are {', '.join(sorted(names))}."
            )


@functools.cache
def settings_of(stage: str) -> set[str]:
    """The names that its `more` may hold, read from the source: to import it takes seconds."""
    if stage not in SETTINGS:
        return set()
    file, kind = SETTINGS[stage]
    source = Path(__file__).resolve().parents[1] / file
    body = next(
        node.body
        for node in ast.parse(source.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == kind
    )
    return {node.target.id for node in body if isinstance(node, ast.AnnAssign)}


def load_profile(profile: str) -> dict:
    """The parameters in notebooks/profiles/<profile>.yaml; demo is the notebooks' defaults."""
    folder = project_root() / "notebooks" / "profiles"
    if profile == "demo":
        return {}
    path = folder / f"{profile}.yaml"
    if not path.is_file():
        known = ["demo", *sorted(p.stem for p in folder.glob("*.yaml"))]
        raise RunError(f"There is no profile {profile!r}; there are {', '.join(known)}.")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def without_unknown(before: dict, run: str) -> dict:
    """What a run began with, less what only older notebooks had, which it prints."""
    known, gone = {}, []
    for name, value in before.items():
        if name.endswith("more") or not any(takes(stage, name) for stage in STAGES):
            gone.append(f"{name}={value!r}")
        else:
            known[name] = value
    if gone:
        print(
            f"Run {run!r} began with {', '.join(gone)}, which no notebook has now: it goes on "
            "without. What an older `more` held is given one by one, as -p STAGE.NAME=VALUE."
        )
    return known


def values_of(stage: str, layers: list[dict]) -> dict:
    """What one notebook gets, settings in `more`.

    A later layer goes over an earlier one; within one, the stage's own over everybody's.
    """
    values, more = {}, {}
    for layer in layers:
        for name in sorted(layer, key=lambda name: name.count(".")):
            if takes(stage, name):
                parameter = name.rpartition(".")[2]
                place = values if parameter in parameters_of(stage) else more
                place[parameter] = layer[name]
    return values | {"more": more} if more else values


def execute_stages(target: Path, values: dict[str, dict], profile: str) -> int:
    """Runs the notebooks in order and says how long each took, and how long the rest may take."""
    expected = {stage: expected_seconds(target, stage, profile) for stage in values}
    later, scale = sum(expected.values()), 1.0  # scale: how slow this machine is
    for number, stage in enumerate(values, 1):
        later -= expected[stage]
        notebook = notebook_path(stage)
        label = f"[{number}/{len(values)}] {notebook.stem}"
        executed = target / notebook.name
        progress = target / stage / "progress.json"
        started = time.time()
        with Ticker(label, progress, expected[stage] * scale, later * scale):
            failure = execute(notebook, executed, values[stage])
        took = time.time() - started
        if failure:
            print(
                f"{label} failed after {clock(took)}: {failure}\n"
                f"The executed notebook is {executed}",
                file=sys.stderr,
            )
            return 1
        scale = 0.5 * scale + 0.5 * took / expected[stage]
        print(f"{label} done in {clock(took)}", flush=True)
    if "evaluation" in values:
        print(f"Report: {target / 'evaluation' / 'report.html'}")
    else:
        print(f"Results: {target}")
    return 0


def expected_seconds(target: Path, stage: str, profile: str) -> float:
    """What the stage took in this run before, else a share of what it takes in the demo."""
    path = target / stage / "manifest.json"
    if path.is_file():
        return read_json(path)["wall_s"]
    return STAGES[stage][1] * 60 / {"smoke": 20, "quick": 2}.get(profile, 1)


def execute(notebook: Path, target: Path, parameters: dict) -> str:
    """Runs one notebook into `target`; returns "", or one sentence on what went wrong."""
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
    except Exception as error:  # a kernel that died, a full disk: whatever it is, one sentence
        return f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}"
    return ""


# --- rlhf keep


def keep_outputs(run: str) -> int:
    """Copies executed notebooks over the originals, without papermill's notes; returns 0."""
    for original in map(notebook_path, STAGES):
        source = run_dir(run) / original.name
        if not source.is_file():
            raise RunError(f"There is no {source}: run all notebooks of {run!r} first.")
        notebook = nbformat.read(source, 4)
        if any("injected-parameters" in cell.metadata.get("tags", []) for cell in notebook.cells):
            raise RunError(
                f"Run {run!r} was made with parameters of its own, which would stay in notebooks/: "
                "keep a run made with the defaults."
            )
        notebook.metadata.pop("papermill", None)
        for cell in notebook.cells:
            is_parameters = "parameters" in cell.metadata.get("tags", [])
            cell.metadata = {"tags": ["parameters"] if is_parameters else []}
        nbformat.write(notebook, original)
    print(f"notebooks/ now holds the outputs of run {run}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
