"""A user's reward function, called so that whatever goes wrong with it is one sentence.

It gets copies of the lists, None for a column that no prompt has, a time limit, the shell's folder
and random streams of its own. Left out: a time limit outside of the main thread and on Windows,
where no signal can stop it; a function that ends the process.
"""

import contextlib
import copy
import functools
import inspect
import os
import random
import signal
import threading
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..data.conversations import MARK
from ..errors import ExplainedError, RunError, SettingError
from ..stats import finite_scores

TIME_LIMIT_S = 300  # of one call; a function may have a longer one of its own
WANTED = "def reward(prompts, completions, **columns)"


class RewardFunction:
    """Calls a function like any reward. Raises SettingError for one that cannot be called so."""

    def __init__(self, name: str, function: Callable):
        self.name, self.function = name, function
        self.file, self.line = source_of(function)
        self.columns = check_signature(name, function)
        self.told: set[str] = set()  # columns of which was printed that they are missing
        self.limit_s = getattr(function, "time_limit_s", TIME_LIMIT_S)

    def __str__(self) -> str:
        return f"function {self.name}" + (f" of {self.file}" if self.file else "")

    def __call__(self, prompts: list[str], completions: list[str], **columns) -> list[float]:
        """One float an answer. Raises PPOError or RunError that names function, file and line.

        What it draws at random depends on the answers alone.
        """
        count = len(completions)
        missing = [name for name in self.columns if name not in columns]
        if new := [name for name in missing if name not in self.told]:
            self.told.update(new)
            print(f"{self.name} gets None for {', '.join(new)}: no prompt has such a column.")
        columns = {name: [None] * count for name in missing} | columns
        seed = zlib.crc32("\0".join(completions).encode("utf-8", "replace"))
        try:
            with apart(self.limit_s, seed):
                found = self.function(
                    prompts=[prompt.replace(MARK, "") for prompt in prompts],
                    completions=list(completions),
                    **copy.deepcopy(columns),
                )
                return finite_scores(found, count, f"The reward {self._where(self.line)}")
        except (ExplainedError, KeyboardInterrupt):
            raise
        except BaseException as error:  # exit() raises SystemExit
            where = self._where(last_line(error, self.file) or self.line)
            if isinstance(error, TimeUp):
                raise RunError(
                    f"{where} took {error} for {count} answers and was stopped: if it needs "
                    "longer, set its time_limit_s."
                ) from None
            hint = _hint(prompts, columns, error)
            raise RunError(f"{where} raised {in_words(error)}.{hint}") from error

    def _where(self, line: int) -> str:
        return f"{self.name} ({self.file.name}, line {line})" if self.file else self.name


def _hint(prompts: list[str], columns: dict, error: BaseException) -> str:
    """A sentence on what the function may have expected otherwise."""
    if "string indices" in str(error) or "'str' object has no" in str(error):
        return " Prompts and completions are plain texts, not lists of messages."
    if "None" in str(error):
        for name, values in columns.items():
            for prompt, value in zip(prompts, values):
                if value is None:
                    return f" The column {name!r} is None for the prompt {prompt[:80]!r}."
    return ""


# --- what can be told about a function before it is called


def check_signature(name: str, function: Callable) -> list[str]:
    """The columns that it must get by name.

    Raises SettingError for what cannot be called as reward(prompts=…, completions=…, **columns).
    """
    if inspect.isclass(function):
        raise SettingError(f"reward={name!r} is a class: name an object of it instead.")
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(function.__call__):
        raise SettingError(f"reward={name!r} is an async function: give a plain one, {WANTED}.")
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # not written in Python
        return []
    must = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    rest = [p for p in must if p.kind is p.VAR_KEYWORD]
    if not rest or any(p.kind is p.POSITIONAL_ONLY for p in must):
        raise SettingError(
            f"reward={name!r} takes ({', '.join(map(str, parameters))}), but is called with "
            f"prompts, completions and every column of the prompts by name: write {WANTED}."
        )
    return [p.name for p in must if p not in rest and p.name not in ("prompts", "completions")]


def source_of(function: Callable) -> tuple[Path | None, int]:
    """The file and line of a function or of an object's __call__; (None, 0) if not in Python."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    if not inspect.isroutine(function):
        function = inspect.unwrap(type(function).__call__)
    code = getattr(function, "__code__", None)
    return (Path(code.co_filename), code.co_firstlineno) if code else (None, 0)


# --- what went wrong


def last_line(error: BaseException, file: Path | None) -> int:
    """The line of the file where the error came up; 0 if it was elsewhere."""
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == str(file)]
    return lines[-1] if lines else 0


def in_words(error: BaseException) -> str:
    """The error's type and its message on one line, without the codes that move a cursor."""
    message = "".join(c if c.isprintable() else " " for c in str(error))
    message = " ".join(message.split())[:300].rstrip(".")
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


# --- apart from our own code


class TimeUp(BaseException):
    """No Exception, which the function might catch."""


@contextlib.contextmanager
def apart(seconds: float, seed: int = 0):
    """Runs a user's code in the shell's folder, with a time limit and seeded random streams.

    Afterwards random streams, folder and torch's gradient mode are as before. Raises TimeUp.
    """
    python, numpy = random.getstate(), np.random.get_state()
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    shell = os.environ.get("RLHF_CWD", "")
    try:
        with (
            torch.random.fork_rng(gpus),
            torch.set_grad_enabled(torch.is_grad_enabled()),
            contextlib.chdir(shell if os.path.isdir(shell) else "."),
            _time_limit(seconds),
        ):
            for set_seed in (random.seed, np.random.seed, torch.manual_seed):
                set_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextlib.contextmanager
def _time_limit(seconds: float):
    """Raises TimeUp in what takes longer, again each second if it goes on all the same.

    A function that sets an alarm of its own is not stopped.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return
    counting = True

    def stop(number, frame) -> None:
        if counting:
            raise TimeUp(f"more than {seconds:g} s")

    handler = signal.signal(signal.SIGALRM, stop)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        try:
            yield
        finally:
            counting = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler or signal.SIG_DFL)
