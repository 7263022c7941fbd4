"""The console command `rlhf`: runs the notebooks in order with papermill, and says how far it is.

    rlhf run RUN --profile smoke|quick|demo|gpu -p name=value --from STAGE --only STAGE
    rlhf control RUN pause|resume|stop|set NAME=VALUE|sample PROMPT, while it is in 04
    rlhf branch RUN NEW --at UPDATE -p name=value
    rlhf resume RUN, runs, compare RUN RUN…, open RUN, keep RUN, chat RUN

Exit status: 0; 1 for a stage that failed; 2 for what is refused; 130 and 143 for a stopped run.
Left out: sweeps, several runs at once.
"""

import argparse
import importlib.metadata
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path

from ..errors import ExplainedError, RunError
from ..files import printable
from . import preflight, runs, state
from .arguments import Parser, add_dry_run, add_parameters, add_run_options
from .execute import Stopped, execute_stages
from .lock import RunLock
from .paths import STAGES, run_dir
from .plan import expected_seconds, plan
from .values import load_profile, parse_parameters, values_of


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if stream:  # π and → where the locale has none
            stream.reconfigure(errors="replace")
    try:
        options = make_parser().parse_args(arguments)
        set_environment()
        status = options.call(options) or 0
        print(end="", flush=True)
        return status
    except (Stopped, KeyboardInterrupt) as stopped:
        print(f"\nrlhf: {str(stopped) or 'stopped.'}", file=sys.stderr)
        return getattr(stopped, "status", 130)
    except BrokenPipeError:  # as in `rlhf runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        explained = isinstance(error, ExplainedError)
        told = str(error) if explained else f"{type(error).__name__}: {error}; --debug shows where."
        print(f"rlhf: {printable(told, 2000)}", file=sys.stderr)
        return 2 if explained else 1


def set_environment() -> None:
    """What the kernels get, too."""
    try:
        os.environ["RLHF_CWD"] = os.getcwd()  # where a reward's module lies
    except OSError:
        raise RunError("The folder that you are in has gone: cd to another.") from None
    if outputs := os.environ.get("RLHF_OUTPUTS"):
        os.environ["RLHF_OUTPUTS"] = os.path.abspath(os.path.expanduser(outputs))
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # else kernels warn of a debugger


# --- the parser


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="rlhf", description="Runs all of RLHF, in notebooks.", allow_abbrev=False)
    version = f"rlhf {importlib.metadata.version('rlhf-utils')}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, call, help: str, *names: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        for each in names:
            made.add_argument(each)
        made.add_argument("--debug", action="store_true", help="show the traceback of an error")
        made.set_defaults(call=call)
        return made

    add_run_options(command("run", run_notebooks, "execute the notebooks into outputs/RUN/"))
    again = command("resume", resume, "go on with a stopped run, with all its parameters", "RUN")
    add_dry_run(again)
    what = "all runs: when, profile, stages done, time, result, state"
    for name in ("runs", "list"):
        command(name, lambda options: print(runs.list_runs()), what)
    what = "runs beside each other, finished or not: parameters, results, curves, answers"
    compared = command("compare", compare, what)
    compared.add_argument("RUN", nargs="+", help="two or more")
    what = "steer a run that is in the loop of 04: pause, resume, stop, set or sample"
    steer = command("control", control, what, "RUN", "DO")
    what = "of set: kl_coef=NUMBER or learning_rate=NUMBER; of sample: a prompt"
    steer.add_argument("WHAT", nargs="?", default="", help=what)
    what = "a new run NEW from a checkpoint of RUN, with other parameters for 04 and 05"
    fork = command("branch", branch, what, "RUN", "NEW")
    what = "the update after which the checkpoint was made"
    fork.add_argument("--at", type=int, required=True, metavar="UPDATE", help=what)
    add_parameters(fork, "a parameter of 04 or 05 that differs")
    what = "show a run's report in the browser"
    command("open", lambda options: print(runs.open_report(options.RUN)), what, "RUN")
    what = "copy a run's executed notebooks over notebooks/, to commit them"
    keep = command("keep", lambda options: print(runs.keep_outputs(options.RUN)), what)
    keep.add_argument("RUN", nargs="?", default="demo", help="demo, if you name none")
    what = "ask the base model, π_SFT and π_RLHF of a run the same things"
    talk = command("chat", chat, what, "RUN")
    talk.add_argument("PROMPT", nargs="?", help="one question; without it you can ask several")
    return parser


def compare(options: argparse.Namespace) -> None:
    from ..lab import compare_runs

    print(compare_runs.compare(options.RUN))


# --- rlhf run and resume


def run_notebooks(options: argparse.Namespace) -> int:
    """Checks all, prints the plan, and executes the chosen stages. Returns the exit status."""
    names = {name for name in (options.RUN, options.run) if name is not None}
    if len(names) > 1:
        raise RunError(f"Two names for one run, {options.RUN!r} and {options.run!r}: give one.")
    profile = "demo" if options.profile is None else options.profile
    gave = load_profile(profile)
    run = run_dir(names.pop() if names else Path(profile).stem)
    stages = list(STAGES)[list(STAGES).index(options.first or "sft") :]
    stages = [options.only] if options.only else stages
    given = parse_parameters(options.parameters, stages)
    preflight.check_folder(run)
    goes_on = bool(options.first or options.only) and run.is_dir()
    asked = {"profile": profile, "profile_gave": gave, "asked": []}
    asked |= {"parameters": given, "cwd": os.environ["RLHF_CWD"]}
    before = state.read_state(run) if goes_on else {}
    if before:
        known = state.without_unknown(before["parameters"], run.name)
        asked |= {"parameters": state.merged(known, given, stages), "asked": before["asked"]}
        if options.profile is None:
            asked |= {name: before[name] for name in ("profile", "profile_gave")}
        asked["cwd"] = module_folder(before, given)
        told = "".join(f", {name}={value}" for name, value in asked["parameters"].items())
        print(printable(f"Run {run.name!r} with profile {asked['profile']}{told}"), flush=True)
    if not (options.overwrite or options.dry_run):
        refuse_to_lose(run, stages, goes_on, given)
    return carry_out(run, asked, stages, options.dry_run, is_new=True)


def module_folder(before: dict, given: dict) -> str:
    """Where the module of a reward or an annotator lies: here, if one is given now."""
    anew = any(name.rpartition(".")[2] in ("reward", "annotator") for name in given)
    return os.environ["RLHF_CWD"] if anew else before["cwd"]


def refuse_to_lose(run: Path, stages: list[str], goes_on: bool, given: dict) -> None:
    """Raises RunError where a run's work would be written over and nobody said so."""
    begun, go_on = state.has_checkpoints(run), f"`rlhf resume {run.name}` goes on with it"
    if goes_on:
        resumes = given.get("ppo.resume") or given.get("resume")
        if "ppo" in stages and begun and not resumes:
            raise RunError(
                f"04_ppo of run {run.name!r} has stopped and has checkpoints, which would be "
                f"deleted: {go_on}, or give --overwrite."
            )
        return
    done = state.stages_done(run)
    told = f"an unfinished run (done: {', '.join(done) or 'a part of ppo'}): {go_on}"
    if len(done) == len(STAGES):
        made = state.when(state.manifest_of(run, "evaluation"))
        told = f"a finished run of {made}: `rlhf open {run.name}` shows it"
    if done or begun:
        raise RunError(f"{run} holds {told}; or give another --run NAME, or --overwrite.")


def resume(options: argparse.Namespace) -> int:
    """Goes on with the first stage that is unfinished or stale, to the last that was asked."""
    run = runs.existing(options.RUN)
    known = known_state(run)
    stages = state.left_to_do(run, known["asked"])
    if not stages:
        print(f"Run {run.name!r} is finished: nothing is left to do.\n{runs.closing(run)}")
        if state.manifest_of(run, "ppo").get("results", {}).get("ppo.stopped_early"):
            more = f"`rlhf run {run.name} --from ppo -p resume=true` goes on with it."
            print(f"Its 04 was stopped early: {more}")
        return 0
    return carry_out(run, known, stages, options.dry_run, is_new=False)


def known_state(run: Path) -> dict:
    """What stands in its parameters.json. Raises RunError for a run without one."""
    known = state.read_state(run)
    if not known:
        raise RunError(
            f"Run {run.name!r} has no parameters.json, as `rlhf run` did not begin it: give a "
            f"stage, as in rlhf run {run.name} --from ppo."
        )
    known["parameters"] = state.without_unknown(known["parameters"], run.name)
    return known


def branch(options: argparse.Namespace) -> int:
    """Copies a run up to a checkpoint of its 04, and executes what follows."""
    from ..lab.branch import RUNS, make_branch

    run, new = runs.existing(options.RUN), run_dir(options.NEW)
    given = parse_parameters(options.parameters, RUNS)
    known = known_state(run)
    known["cwd"] = module_folder(known, given)
    asked = make_branch(run, new, options.at, known, given)
    try:
        return carry_out(new, asked, RUNS, dry=False, is_new=False)
    except ExplainedError:  # of the checks: nothing was executed
        shutil.rmtree(new, ignore_errors=True)
        raise


def control(options: argparse.Namespace) -> int:
    from ..lab.commands import from_terminal

    return from_terminal(runs.existing(options.RUN), options.DO, options.WHAT)


def carry_out(run: Path, asked: dict, stages: list[str], dry: bool, is_new: bool) -> int:
    """Checks, plans and executes. is_new: the stages are asked now, not gone on with."""
    if os.path.isdir(asked["cwd"]):
        os.environ["RLHF_CWD"] = asked["cwd"]
    layers = [asked["profile_gave"], asked["parameters"]]
    if any(layers) or run.name != "demo":  # `keep` wants a demo run with nothing injected
        layers.append({"run": run.name})
    given = {stage: values_of(stage, layers) for stage in STAGES}
    goes_on = ""
    if not is_new and stages[0] == "ppo" and state.has_checkpoints(run):
        given["ppo"]["resume"], goes_on = True, "ppo"
    job = preflight.check(run, stages, given)
    expected = {stage: expected_seconds(job, stage) for stage in stages}
    print(plan(job, expected, goes_on), flush=True)
    if dry:
        return 0
    with RunLock(run):
        if is_new:
            state.begin(run, asked, stages)
        try:
            status = execute_stages(job, given, expected)
        except (Stopped, KeyboardInterrupt) as stopped:
            where = getattr(stopped, "where", "") or "between two notebooks"
            told = f"Stopped {where}. Go on with: rlhf resume {run.name}"
            raise Stopped(getattr(stopped, "number", signal.SIGINT), told) from None
    if status == 0:
        print(runs.closing(run))
    return status


# --- rlhf chat


def chat(options: argparse.Namespace) -> None:
    run = runs.existing(options.RUN)
    if os.path.isdir(cwd := state.read_state(run).get("cwd", "")):
        os.environ["RLHF_CWD"] = cwd  # where its reward's module lies
    from ..lab import terminal  # needs torch, and the other commands do not

    terminal.open_chat(run, options.PROMPT)


if __name__ == "__main__":
    sys.exit(main())
