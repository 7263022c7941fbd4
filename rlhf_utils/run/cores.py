"""Threads follow the free cores: stages that work at once on one machine share them.

Each stage at work has a file named after its process, which it touches as it goes on. A stage
alone always has the same number of threads, so that its numbers stay the same.
"""

import contextlib
import os
import tempfile
import time
from pathlib import Path

import torch

SECONDS = 60  # without a touch, after which a stage no longer counts as at work
MOST = torch.get_num_threads()  # what the user, or torch, has chosen
_given = MOST


def share_cores() -> None:
    """Says that this process works, and gives torch its share of the cores that it may use.

    Another number of threads than was given here is somebody's choice, and stays.
    """
    global _given
    if torch.get_num_threads() != _given:
        return
    working = _at_work()
    share = MOST if working == 1 else max(1, min(MOST, _usable_cores()) // working)
    if share != _given:
        torch.set_num_threads(share)
        _given = share


def leave_cores() -> None:
    """Says that this process has done its work."""
    with contextlib.suppress(OSError):
        (_folder() / str(os.getpid())).unlink()


def _usable_cores() -> int:
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # Windows and macOS have none
        cores = os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(asked)) if asked.isdecimal() and int(asked) else cores


def _folder() -> Path:
    """This user's folder of files. Raises OSError if another user has made it."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"rlhf-at-work-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and folder.lstat().st_uid != user:
        raise PermissionError(f"{folder} belongs to another user")
    return folder


def _at_work() -> int:
    """How many processes work, this one included."""
    count = 1
    with contextlib.suppress(OSError):
        (_folder() / str(os.getpid())).touch()
        for file in _folder().iterdir():
            if file.name.isdecimal() and int(file.name) != os.getpid():
                count += _works(file)
    return count


def _works(file: Path) -> bool:
    try:
        if time.time() - file.stat().st_mtime > SECONDS:
            return False
        if os.name == "posix":
            os.kill(int(file.name), 0)
        return True
    except ProcessLookupError:
        file.unlink(missing_ok=True)
        return False
    except OSError:  # just gone
        return False
