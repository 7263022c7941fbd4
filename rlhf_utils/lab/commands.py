"""Commands to a running 04, and its replies: what buttons and `rlhf control` share. No torch.

Each command is a line of <run>/ppo/control.jsonl. control.py reads them, and says in replies.jsonl
what it has done.
"""

import json
import time
import uuid
from pathlib import Path

from ..errors import DataError, RunError
from ..files import printable, read_json, records
from ..run.lock import at_work
from ..run.parameters import check_value, convert, near

COMMANDS, REPLIES = "control.jsonl", "replies.jsonl"
ACTIONS = ("pause", "resume", "stop", "set", "sample")
SETTABLE = ("kl_coef", "learning_rate")
LONGEST = 2000  # characters of a prompt; a longer one might fill the memory
PAUSED = "paused at update"  # what progress.json says then; else "update"


# --- a command


def checked(do: str, what: str = "") -> tuple[str, float] | str:
    """(name, value) of `set`, the prompt of `sample`, "" of the others.

    Raises RunError for a command that cannot be done.
    """
    if do not in ACTIONS:
        raise RunError(f"There is no command {printable(repr(do), 100)}{near(str(do), ACTIONS)}")
    if do == "set":
        name, sign, text = what.partition("=")
        name = name.strip()
        if not sign:
            raise RunError("set needs NAME=VALUE, such as kl_coef=0.1.")
        if name not in SETTABLE:
            raise RunError(f"04 cannot set {printable(name, 100)!r}{near(name, SETTABLE)}")
        value = convert(name, text.strip(), float)
        check_value(name, value)
        return name, value
    if do == "sample":
        if not what.strip():
            raise RunError('sample needs a prompt, such as sample "Who are you?".')
        if len(what) > LONGEST:
            raise RunError(f"The prompt has {len(what):,} characters: give at most {LONGEST:,}.")
        return what
    if what:
        raise RunError(f"{do} stands alone, without {printable(repr(what), 100)}.")
    return ""


def ask(folder: Path, do: str, what: str = "") -> str:
    """Appends a command to those of the 04 in `folder`; returns its id. Raises RunError."""
    checked(do, what)
    command = {"id": uuid.uuid4().hex, "at": time.time(), "do": do, "what": what}
    line = (json.dumps(command) + "\n").encode()
    try:
        with open(folder / COMMANDS, "ab+") as file:
            if file.tell() and (file.seek(-1, 2), file.read(1))[1] != b"\n":
                line = b"\n" + line  # somebody's half line must not swallow this one
            file.write(line)
    except OSError as error:
        raise RunError(f"{folder / COMMANDS} cannot be written: {error.strerror}.") from None
    return command["id"]


def replies(folder: Path) -> list[dict]:
    """What the 04 in `folder` has said so far, without what a kill left of a line."""
    try:
        return [row for _, row in records(folder / REPLIES) if isinstance(row, dict)]
    except DataError:  # none yet
        return []


# --- the terminal's side


def how_far(run: Path) -> dict:
    """Its progress.json. Raises RunError for a run that is not in the loop of 04 now."""
    try:
        state = read_json(run / "ppo" / "progress.json")
        if state["what"] in ("update", PAUSED) and at_work(run):
            return state
    except (DataError, KeyError):
        pass
    raise RunError(f"Run {run.name!r} is not in the loop of 04 now, so there is nothing to steer.")


def from_terminal(run: Path, do: str, what: str = "") -> int:
    """Asks, and prints what was done once it is. Returns the exit status.

    Raises RunError for what is refused, here or there.
    """
    state = how_far(run)
    name = ask(run / "ppo", do, what)
    at = f"update {min(state['done'] + 1, state['total'])} of {state['total']} is at work"
    if state["what"] == PAUSED:
        at = f"paused at update {state['done']} of {state['total']}"
    print(f"asked; {at}", flush=True)
    try:
        reply = _wait(run, name)
    except KeyboardInterrupt:
        print(f"\nIt stays asked: {do} is done as soon as the update is.")
        return 130
    if not reply["ok"]:
        raise RunError(str(reply["told"]))
    print(printable(str(reply["told"])))
    return 0


def _wait(run: Path, name: str) -> dict:
    there = True
    while True:
        for row in replies(run / "ppo"):
            if row.get("id") == name:
                return row
        if not there:
            told = f"Run {run.name!r} has left the loop of 04 before it was done."
            return {"ok": False, "told": told}
        time.sleep(0.2)
        try:
            how_far(run)
        except RunError:
            there = False  # the reply may have come just now
