"""One `rlhf run` at a time in a run's folder, so that two runs never mix.

The lock is the operating system's, on <run>/run.lock: it ends with its process, however that ends.
The file says who holds it. The kernels that the holder starts know its name from an environment
variable, and are let in. Notebooks at work by hand share the lock.
"""

import contextlib
import json
import os
import platform
import time
import uuid
from pathlib import Path

from ..errors import DataError, RunError
from ..files import read_json

NAME = "run.lock"
VARIABLE = "RLHF_RUN_HOLDER"
TRIES = 5  # a Stage that looks for a holder takes the lock for an instant


class RunLock:
    """Holds the run in `folder` as a context manager.

    Raises RunError if another process holds it, or a notebook is at work in it.
    """

    def __init__(self, folder: Path):
        self.folder, self.id = Path(folder), uuid.uuid4().hex

    def __enter__(self):
        make_folder(self.folder)
        try:
            self._file = os.open(self.folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _unwritable(self.folder, error) from None
        for left in reversed(range(TRIES)):
            if _lock(self._file):
                break
            if left:
                time.sleep(0.1)
        else:
            os.close(self._file)
            known = _held(self.folder)
            who = "a notebook that is at work or was interrupted" if known is None else _told(known)
            raise RunError(
                f"Run {self.folder.name!r} is being made by {who}: wait until it is done, end its "
                "kernel, or give this run another name."
            )
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        me = f"process {os.getpid()} on {platform.node()}, since {since}"
        with contextlib.suppress(OSError):  # a full disk; the lock holds without a name
            os.ftruncate(self._file, 0)
            os.write(self._file, json.dumps({"id": self.id, "who": me}).encode())
        os.environ[VARIABLE] = self.id
        return self

    def __exit__(self, *error):
        os.environ.pop(VARIABLE, None)
        os.ftruncate(self._file, 0)
        os.close(self._file)  # and with it goes the lock

    @staticmethod
    def holder(folder: Path) -> str | None:
        """Which `rlhf run` holds the run, in words; None if none does, or the one that began us."""
        known = _held(folder)
        if known is None or known.get("id") == os.environ.get(VARIABLE, ""):
            return None
        return _told(known)


def _held(folder: Path) -> dict | None:
    """What the file says if a `rlhf run` holds the lock; else None."""
    with contextlib.suppress(OSError):
        file = os.open(folder / NAME, os.O_RDONLY)
        try:
            if _lock(file, shared=True):
                return None
        finally:
            os.close(file)
        with contextlib.suppress(DataError):  # the holder has just begun
            return read_json(folder / NAME)
        return {}
    return None


def _told(known: dict) -> str:
    return f"another `rlhf run` ({known.get('who', 'which has just begun')})"


def at_work(folder: Path) -> bool:
    """Whether any process, a `rlhf run` or a notebook by hand, is at work in the run."""
    try:
        file = os.open(folder / NAME, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _lock(file) or os.name != "posix"  # elsewhere nobody can tell
    finally:
        os.close(file)


def share_lock(folder: Path):
    """The open file that keeps every `rlhf run` out until it is closed, or its process ends."""
    file = open(folder / NAME, "a+")  # noqa: SIM115
    _lock(file.fileno(), shared=True)  # a holder's kernels need none
    return file


def make_folder(folder: Path) -> None:
    """Makes a folder of a run. Raises RunError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None


def _unwritable(folder: Path, error: OSError) -> RunError:
    return RunError(
        f"Nothing can be written into {folder} ({error.strerror}): make it writable, or set "
        "RLHF_OUTPUTS to another folder."
    )


def _lock(file: int, shared: bool = False) -> bool:
    """Locks the open file, or says False if another holds it. Closing the file unlocks it."""
    try:
        import fcntl

        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows, or a file system without: better no lock than no run
        return True
    return True
