"""The console command `rlhf`: runs the notebooks in order with papermill, and says how far it is.

    rlhf run NAME --profile smoke|quick|demo|gpu -p name=value --from STAGE --only STAGE
    rlhf resume NAME, list, compare A B, open NAME, keep NAME

Exit status: 0; 1 for a stage that failed; 2 for what is refused; 130 and 143 for a stopped run.
Left out: sweeps, several runs at once.
"""

import argparse
import difflib
import importlib.metadata
import os
import re
import sys
import traceback
from pathlib import Path

from ..errors import ExplainedError, RunError
from . import preflight, runs, state
from .execute import Stopped, execute_stages
from .lock import RunLock
from .paths import STAGES, run_dir
from .plan import expected_seconds, plan, when
from .values import load_profile, parse_parameters, values_of


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    try:
        return dispatch(make_parser().parse_args(arguments))
    except Stopped as stopped:
        print(f"\nrlhf: {stopped}", file=sys.stderr)
        return stopped.status
    except KeyboardInterrupt:
        print("\nrlhf: stopped.", file=sys.stderr)
        return 130
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        explained = isinstance(error, ExplainedError)
        told = str(error) if explained else f"{type(error).__name__}: {error}; --debug shows where."
        print(f"rlhf: {preflight.plain(told, 2000)}", file=sys.stderr)
        return 2 if explained else 1


def dispatch(options: argparse.Namespace) -> int:
    os.environ["RLHF_CWD"] = os.getcwd()  # where a reward's module lies; notebooks run elsewhere
    if options.command == "run":
        return run_notebooks(options)
    if options.command == "resume":
        return resume(options)
    if options.command == "list":
        print(runs.list_runs())
    elif options.command == "compare":
        print(runs.compare_runs(options.one, options.other))
    elif options.command == "open":
        print(runs.open_report(options.name))
    else:
        print(runs.keep_outputs(name_of(options, "demo")))
    return 0


# --- the parser


OPTIONS = ("--run", "--profile", "--from", "--only", "--overwrite", "--dry-run", "--debug", "-p")


class Parser(argparse.ArgumentParser):
    """One sentence for a wrong call, with the nearest word where one is near."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str):
        unknown = re.search(r"unrecognized arguments: (-\S+)", message)
        close = difflib.get_close_matches(unknown[1].partition("=")[0], OPTIONS) if unknown else []
        told = f"did you mean {close[0]}?" if close else f"`{self.prog} --help` tells more."
        raise RunError(f"{message}; {told}")

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            known = list(action.choices)
            close = difflib.get_close_matches(str(value), known, n=1)
            told = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}."
            what = "/".join(action.option_strings) or "command"
            raise RunError(f"There is no {what} {value!r}: {told}")


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="rlhf", description="Runs all of RLHF, in notebooks.")
    version = f"rlhf {importlib.metadata.version('rlhf-utils')}"
    parser.add_argument("--version", action="version", version=version)
    common = Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=help, parents=[common])

    run = command("run", "execute the notebooks in order into outputs/<run>/")
    add_name(run, "folder below outputs/ (default: the profile's name)")
    add_run_options(run)
    again = command("resume", "go on with a stopped run, with all its parameters")
    add_name(again, "the run")
    add_dry_run(again)
    command("list", "all runs: when, profile, stages done, gold, time")
    compare = command("compare", "results of two runs, and the parameters that differ")
    compare.add_argument("one", metavar="A")
    compare.add_argument("other", metavar="B")
    report = command("open", "show a run's report in the browser")
    report.add_argument("name", metavar="RUN")
    keep = command("keep", "copy a run's executed notebooks over notebooks/, to commit them")
    add_name(keep, "the run (default: demo)")
    return parser


def add_name(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("name", nargs="?", metavar="RUN", help=help)
    parser.add_argument("--run", metavar="NAME", help="the same")


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="check all, print the plan and stop")


def add_run_options(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        "--profile",
        help="smoke (minutes, tiny model), quick (half of the demo), gpu, "
        "or demo (the default: the notebooks as they are); or a file that ends in .yaml",
    )
    run.add_argument(
        "-p",
        dest="parameters",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter, or a setting in `more`, for every notebook that has it; "
        "STAGE.NAME=VALUE for one stage. Relative paths are those of this folder",
    )
    which = run.add_mutually_exclusive_group()
    which.add_argument(
        "--from",
        dest="first",
        choices=STAGES,
        help="begin with this stage; use what the run already holds, also its parameters",
    )
    which.add_argument("--only", choices=STAGES, help="run this stage alone")
    run.add_argument("--overwrite", action="store_true", help="write over a run that is there")
    add_dry_run(run)


def name_of(options: argparse.Namespace, default: str | None) -> str:
    if options.run and options.name and options.run != options.name:
        raise RunError(f"Two names for one run, {options.name!r} and {options.run!r}: give one.")
    name = options.run or options.name
    if name is None and default is None:
        raise RunError("Which run? `rlhf list` shows those that there are.")
    return default if name is None else name


# --- rlhf run and resume


def run_notebooks(options: argparse.Namespace) -> int:
    """Checks all, prints the plan, and executes the chosen stages. Returns the exit status."""
    run = name_of(options, Path(options.profile or "demo").stem)
    target = run_dir(run)
    stages = [options.only] if options.only else list(STAGES)
    if options.first:
        stages = stages[stages.index(options.first) :]
    now = parse_parameters(options.parameters, stages)
    load_profile(options.profile or "demo")
    preflight.check_folder(target)
    goes_on = bool(options.first or options.only) and target.is_dir()
    before = state.read_state(target) if goes_on else {}
    profile = options.profile or before.get("profile", "demo")
    earlier = state.without_unknown(before.get("parameters", {}), run)
    if not any(name.rpartition(".")[2] in ("reward", "annotator") for name in now):
        go_to_folder_of(before)
    parameters = state.merged(earlier, now, stages, bool(before))
    if before:
        told = "".join(f", {name}={value}" for name, value in parameters.items())
        print(f"Run {run!r} with profile {profile}{told}", flush=True)
    if not (options.overwrite or options.dry_run):
        refuse_to_lose(target, stages, goes_on, now)
    return carry_out(target, profile, parameters, stages, options.dry_run, is_new=True)


def go_to_folder_of(known: dict) -> None:
    """A run's rewards are looked for in the folder that it was begun from."""
    if os.path.isdir(str(known.get("cwd"))):
        os.environ["RLHF_CWD"] = known["cwd"]


def refuse_to_lose(run: Path, stages: list[str], goes_on: bool, now: dict) -> None:
    """Raises RunError where a run's work would be written over and nobody said so."""
    resumes = bool(now.get("ppo.resume") or now.get("resume"))
    begun = state.has_checkpoints(run)
    if goes_on:
        if "ppo" in stages and begun and not resumes:
            raise RunError(
                f"04_ppo of run {run.name!r} has stopped and has checkpoints, which would be "
                f"deleted: `rlhf resume {run.name}` goes on with it, or give --overwrite."
            )
        return
    done = state.stages_done(run)
    if len(done) == len(STAGES):
        made = when(state.manifest_of(run, "evaluation"))
        raise RunError(
            f"{run} holds a finished run of {made}: give another --run NAME, or --overwrite; "
            f"`rlhf open {run.name}` shows it."
        )
    if done or begun:
        raise RunError(
            f"{run} holds an unfinished run (done: {', '.join(done) or 'a part of ppo'}): "
            f"`rlhf resume {run.name}` goes on with it; or give another --run NAME, or --overwrite."
        )


def resume(options: argparse.Namespace) -> int:
    """Goes on with the first stage that is unfinished or stale, to the last that was asked."""
    name = name_of(options, None)
    target = runs.existing(name)
    known = state.read_state(target)
    if not known:
        raise RunError(
            f"Run {name!r} has no parameters.json, as `rlhf run` did not begin it: give a stage, "
            f"as in rlhf run {name} --from ppo."
        )
    go_to_folder_of(known)
    stages = state.left_to_do(target)
    if not stages:
        print(f"Run {name!r} is finished: nothing is left to do.\n{runs.closing(target)}")
        return 0
    parameters = state.without_unknown(known["parameters"], name)
    return carry_out(target, known["profile"], parameters, stages, options.dry_run, is_new=False)


def carry_out(
    run: Path, profile: str, parameters: dict, stages: list[str], dry: bool, is_new: bool
) -> int:
    """Checks, plans and executes. is_new: the stages are asked now, not gone on with."""
    sizes = load_profile(profile)
    layers = [sizes, parameters]
    if any(layers) or run.name != "demo":  # `keep` wants a demo run with nothing injected
        layers.append({"run": run.name})
    given = {stage: values_of(stage, layers) for stage in STAGES}
    goes_on = ""
    if not is_new and stages[0] == "ppo" and state.has_checkpoints(run):
        given["ppo"]["resume"], goes_on = True, "ppo"
    job = preflight.make_job(run, stages, given)
    found = preflight.check(job, profile)
    expected = {stage: expected_seconds(job, stage, profile, sizes) for stage in stages}
    print(plan(job, found, expected, goes_on), flush=True)
    if dry:
        return 0
    with RunLock(run):
        if is_new:
            state.write_state(run, profile, parameters, stages)
        try:
            status = execute_stages(job, given, expected)
        except Stopped as stopped:
            told = f"Stopped in {stopped.where}. Go on with: rlhf resume {run.name}"
            raise Stopped(stopped.number, told) from None
    if status == 0:
        print(runs.closing(run))
    return status


if __name__ == "__main__":
    sys.exit(main())
