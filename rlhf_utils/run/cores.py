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
NO_FOLDER = (OSError, AttributeError)  # Windows has no getuid
_given = MOST


def share_cores() -> None:
    """Says that this process works, and gives torch its share of the cores that it may use.

    Another number of threads than was given here is somebody's choice, and stays.
    """
    global _given
    if torch.get_num_threads() != _given:
        return
    working = _at_work()
    share = max(1, MOST // working)
    if share != _given:
        torch.set_num_threads(share)
        _given = share


def leave_cores() -> None:
    """Says that this process has done its work."""
    with contextlib.suppress(*NO_FOLDER):
        (_folder() / str(os.getpid())).unlink()


def _folder() -> Path:
    """This user's folder of files. Raises OSError if another user has made it."""
    folder = Path(tempfile.gettempdir()) / f"rlhf-at-work-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    return folder


def _at_work() -> int:
    """How many processes work, this one included."""
    count = 1
    with contextlib.suppress(*NO_FOLDER):
        (_folder() / str(os.getpid())).touch()
        for file in _folder().iterdir():
            if file.name.isdecimal() and int(file.name) != os.getpid():
                count += _works(file)
    return count


def _works(file: Path) -> bool:
    try:
        os.kill(int(file.name), 0)
        return time.time() - file.stat().st_mtime < SECONDS
    except ProcessLookupError:
        file.unlink(missing_ok=True)
        return False
    except OSError:  # just gone
        return False
