"""Runs notebooks one after another with papermill, and stops cleanly when it is told to.

papermill works in a thread: in the main one, it would answer an interrupt itself, with a traceback.
The main thread waits for it, takes the signals, and ends the kernel.
"""

import contextlib
import json
import logging
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from .. import errors
from ..files import printable, read_json, write_text
from ..show.text import clock
from .paths import notebook_path, project_root
from .preflight import Job
from .ticker import Ticker

EXPLAINED = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.ExplainedError)
}


class Stopped(Exception):
    """A signal stopped the run; `where` says in words what it was at."""

    def __init__(self, number: int, where: str = ""):
        super().__init__(where)
        self.number, self.where, self.status = number, where, 128 + number


def execute_stages(job: Job, given: dict[str, dict], expected: dict[str, float]) -> int:
    """Runs the notebooks in order and says how long each took, and how long the rest may take.

    given: stage → what is injected. expected: stage → seconds. Returns 0, or 1 after it told which
    stage failed and why. Raises Stopped.
    """
    later, scale = sum(expected[stage] for stage in job.stages), 1.0  # scale: how slow this is
    for number, stage in enumerate(job.stages, 1):
        later -= expected[stage]
        notebook = notebook_path(stage)
        label = f"[{number}/{len(job.stages)}] {notebook.stem}"
        executed = job.run / notebook.name
        progress = job.run / stage / "progress.json"
        started = time.time()
        try:
            with Ticker(label, progress, expected[stage] * scale, later * scale):
                failure = watched(lambda: execute(notebook, executed, given[stage]))  # noqa: B023
        except Stopped as stopped:
            where = f"in {notebook.stem}{how_far(progress)}"
            raise Stopped(stopped.number, where) from None
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
    return 0


def how_far(progress: Path) -> str:
    """ " after update 66 of 600", from a stage's progress.json; empty if it says nothing."""
    try:
        state = read_json(progress)
        what, done, total = str(state["what"]), int(state["done"]), int(state["total"])
    except (ValueError, KeyError, TypeError):
        return ""
    return f" after {what.removeprefix('paused at ')} {done} of {total}" if done else ""


def watched(work: Callable[[], str]) -> str:
    """What `work` returns, from a thread of its own. Raises Stopped once a signal ended it."""
    got, answer = [], []
    worker = threading.Thread(target=lambda: answer.append(work()), daemon=True)
    before = psutil.Process().children(recursive=True)
    handlers = {
        number: signal.signal(number, lambda number, frame: got.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        worker.start()
        while worker.is_alive():
            worker.join(0.2)
            if got:  # again and again, as a kernel may just be starting
                for child in psutil.Process().children(recursive=True):
                    if child not in before:  # what it has written is whole at any moment
                        with contextlib.suppress(psutil.NoSuchProcess):
                            child.kill()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if got:
        raise Stopped(got[0])
    return answer[0]


def execute(notebook: Path, target: Path, parameters: dict) -> str:
    """Runs one notebook into `target`; returns "", or one sentence on what went wrong."""
    import papermill

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it would tell, we do
    aside = target.with_name(f".{target.stem}.part.ipynb")
    try:
        papermill.execute_notebook(
            str(notebook),
            str(aside),
            parameters=parameters,
            progress_bar=False,
            cwd=str(project_root()),
            kernel_name="python3",
            extra_arguments=["--log-level=CRITICAL"],  # that it was interrupted is no error
        )
    except papermill.PapermillExecutionError as error:
        told = one_line(error.evalue)
        known = error.ename in EXPLAINED
        return told if known else f"cell {error.exec_count} raised {error.ename}: {told}"
    except Exception as error:  # a kernel that died, a full disk: whatever it is, one sentence
        return f"{type(error).__name__}: {one_line(error) or 'no message'}"
    finally:
        publish(aside, target)
    return ""


def one_line(message) -> str:
    """The message without colours, line breaks and other commands to a terminal."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", str(message))
    return printable(" ".join(text.split()), 2000)


def publish(aside: Path, target: Path) -> None:
    """The executed notebook under its name, whole, and without the paths of this machine."""
    try:
        notebook = json.loads(aside.read_text(encoding="utf-8"))
        for name in ("input_path", "output_path"):
            notebook["metadata"].get("papermill", {}).pop(name, None)
        write_text(target, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
        aside.unlink()
    except (OSError, ValueError):  # nothing was executed, or the disk is full: what there is stays
        pass
