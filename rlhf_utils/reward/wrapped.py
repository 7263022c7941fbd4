"""A user's reward function, called so that whatever goes wrong with it is one sentence.

It gets copies of the lists, None for a column that a prompt does not have, and a time limit.
Left out: a limit outside of the main thread and on Windows, where no signal can stop it.
"""

import contextlib
import copy
import functools
import inspect
import signal
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from ..data.conversations import MARK
from ..errors import ExplainedError, RunError, SettingError
from ..stats import finite_scores

TIME_LIMIT_S = 300  # of one call; a function may have a longer one of its own
WANTED = "def reward(prompts, completions, **columns)"


class RewardFunction:
    """Calls a function like any reward. Raises SettingError for one that cannot be called so.

    name: as the user gave it, `module:function`.
    """

    def __init__(self, name: str, function: Callable):
        self.name, self.function = name, function
        self.file, self.line = source_of(function)
        self.columns = check_signature(name, function)
        self.missing: set[str] = set()  # columns that some prompt lacked
        self.limit_s = getattr(function, "time_limit_s", TIME_LIMIT_S)

    def __call__(self, prompts: list[str], completions: list[str], **columns) -> list[float]:
        """One float an answer. Raises PPOError or RunError that names function, file and line."""
        count = len(completions)
        columns = {name: [None] * count for name in self._lacking(columns)} | columns
        try:
            with time_limit(self.limit_s):
                found = self.function(
                    prompts=[prompt.replace(MARK, "") for prompt in prompts],
                    completions=list(completions),
                    **copy.deepcopy(columns),
                )
                return finite_scores(found, count, f"The reward {self._where(self.line)}")
        except (ExplainedError, KeyboardInterrupt):
            raise
        except TimeUp:
            raise RunError(
                f"The reward {self._where(self.line)} took more than {self.limit_s:g} s for "
                f"{count} answers and was stopped: if it needs longer, set its time_limit_s."
            ) from None
        except BaseException as error:  # exit() raises SystemExit
            line = last_line(error, self.file) or self.line
            told = f"{self._where(line)} raised {in_words(error)}."
            raise RunError(told + self._first_none(prompts, columns, error)) from error

    def _where(self, line: int) -> str:
        return f"{self.name} ({self.file.name}, line {line})" if self.file else self.name

    def _lacking(self, columns: dict) -> list[str]:
        """The columns that the function asks for and does not get; printed the first time."""
        lacking = [name for name in self.columns if name not in columns]
        new = [name for name in lacking if name not in self.missing]
        if new:
            self.missing.update(new)
            print(f"{self.name} gets None for {', '.join(new)}: a prompt has no such column.")
        return lacking

    def _first_none(self, prompts: list[str], columns: dict, error: BaseException) -> str:
        """A sentence on the first column that is None, if that may be why the function failed."""
        names = self.columns if "None" not in str(error) else list(columns)
        for name in names:
            for prompt, value in zip(prompts, columns[name]):
                if value is None:
                    return f" The column {name!r} is None for the prompt {prompt[:80]!r}."
        return ""


# --- what can be told about a function before it is called


def check_signature(name: str, function: Callable) -> list[str]:
    """The columns that it asks for by name and must get.

    Raises SettingError for what cannot be called as reward(prompts=…, completions=…, **columns).
    """
    if inspect.isclass(function):
        raise SettingError(
            f"reward={name!r} is a class: make an object of it in the module, such as "
            f"`polite = {function.__name__}()`, and give that one's name."
        )
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(function.__call__):
        raise SettingError(f"reward={name!r} is an async function: give a plain one, {WANTED}.")
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # not written in Python
        parameters = [inspect.Parameter("columns", inspect.Parameter.VAR_KEYWORD)]
    by_name = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.POSITIONAL_ONLY)]
    by_place = [p for p in parameters if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
    if by_place or not any(p.kind is p.VAR_KEYWORD for p in parameters):
        written = ", ".join(str(parameter) for parameter in parameters)
        raise SettingError(
            f"reward={name!r} takes ({written}), but is called with prompts, completions and every "
            f"column of the prompts by name: write {WANTED}."
        )
    asked = [p.name for p in by_name if p.kind is not p.VAR_KEYWORD and p.default is p.empty]
    return [name for name in asked if name not in ("prompts", "completions")]


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


class TimeUp(BaseException):
    """No Exception, which the function might catch."""


@contextlib.contextmanager
def time_limit(seconds: float):
    """Raises TimeUp in what takes longer, again each second if it goes on all the same.

    A function that sets an alarm of its own is not stopped.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return
    counting = True

    def stop(number, frame) -> None:
        if counting:
            raise TimeUp

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
