"""The console's arguments: what `rlhf run` takes, and one sentence for a wrong call."""

import argparse
import re

from ..errors import RunError
from .parameters import near
from .paths import STAGES
from .values import takes

OPTIONS = ("--run", "--profile", "--from", "--only", "--overwrite", "--dry-run", "--debug", "--at")


class Parser(argparse.ArgumentParser):
    """One sentence for a wrong call, with the nearest word where one is near."""

    def error(self, message: str):
        told = f"; `{self.prog} --help` tells more."
        if wrong := re.search(r"invalid choice: (.+) \(choose from (.+)\)", message, re.DOTALL):
            message = f"There is no {wrong[1]}"
            told = near(wrong[1].strip("'"), re.findall(r"\w+", wrong[2]))
        elif wrong := re.search(r"unrecognized arguments: (\S+)", message):
            name = wrong[1].partition("=")[0]
            parameter = name.lstrip("-").replace("-", "_")
            if any(takes(stage, parameter) for stage in STAGES):
                told = f": did you mean -p {parameter}=VALUE?"
            elif name.startswith("-"):
                told = near(name, OPTIONS, told)
        raise RunError(message + told)


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="check all, print the plan and stop")


def add_parameters(parser: argparse.ArgumentParser, what: str) -> None:
    form = {"action": "append", "default": [], "metavar": "NAME=VALUE"}
    parser.add_argument("-p", dest="parameters", help=what, **form)


def add_run_options(run: argparse.ArgumentParser) -> None:
    what = "folder below outputs/ (default: the profile's name)"
    run.add_argument("RUN", nargs="?", help=what)
    run.add_argument("--run", metavar="RUN", help="the same")
    run.add_argument(
        "--profile",
        help="smoke (minutes, tiny model), quick (half of the demo), gpu, "
        "or demo (the default: the notebooks as they are); or a file that ends in .yaml",
    )
    what = "a parameter, or a setting in `more`, for every notebook that has it; STAGE.NAME=VALUE "
    add_parameters(run, what + "for one stage. Relative paths are those of this folder")
    which = run.add_mutually_exclusive_group()
    what = "begin with this stage; use what the run already holds, also its parameters"
    which.add_argument("--from", dest="first", choices=STAGES, help=what)
    which.add_argument("--only", choices=STAGES, help="run this stage alone")
    run.add_argument("--overwrite", action="store_true", help="write over a run that is there")
    add_dry_run(run)
