"""One `rlhf run` at a time in a run's folder, so that two runs never mix.

The lock is the operating system's, on <run>/run.lock: it ends with its process, however that ends.
The file says who holds it. The kernels that the holder starts know its name from an environment
variable, and are let in.
"""

import contextlib
import json
import os
import platform
import time
import uuid
from pathlib import Path

from ..errors import RunError
from ..files import read_json

NAME = "run.lock"
VARIABLE = "RLHF_RUN_HOLDER"
TRIES = 5  # a Stage that looks for a holder takes the lock for an instant


class RunLock:
    """Holds the run in `folder` as a context manager.

    Raises RunError, naming the holder, if another process holds it.
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
            raise RunError(
                f"Run {self.folder.name!r} is being made by {_told(self.folder)}: "
                "wait until it is done, or give this run another name."
            )
        os.ftruncate(self._file, 0)
        os.write(self._file, json.dumps(_myself(self.id)).encode())
        self._before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = self.id
        return self

    def __exit__(self, *error):
        os.environ.pop(VARIABLE, None)
        if self._before:
            os.environ[VARIABLE] = self._before
        os.ftruncate(self._file, 0)
        os.close(self._file)  # and with it goes the lock

    @staticmethod
    def holder(folder: Path) -> str | None:
        """Who holds the run, in words; None if nobody does, or the process that started this one.

        A folder that cannot be read, or where no file can be locked, has no holder.
        """
        with contextlib.suppress(OSError):
            file = os.open(folder / NAME, os.O_RDONLY)
            try:
                free = _lock(file, shared=True)
            finally:
                os.close(file)
            if not free and _read(folder).get("id") != os.environ.get(VARIABLE, ""):
                return _told(folder)
        return None


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


def _myself(id: str) -> dict:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"process": os.getpid(), "host": platform.node(), "since": since, "id": id}


def _read(folder: Path) -> dict:
    try:
        known = read_json(folder / NAME)
    except (OSError, ValueError):  # the holder has just begun
        return {}
    return known if isinstance(known, dict) else {}


def _told(folder: Path) -> str:
    known = _read(folder)
    if not {"process", "host", "since"} <= known.keys():
        return "another `rlhf run`"
    return (
        f"another `rlhf run` (process {known['process']} on {known['host']}, "
        f"since {known['since']})"
    )


def _lock(file: int, shared: bool = False) -> bool:
    """Locks the open file, or says False if another holds it. Closing the file unlocks it."""
    try:
        import fcntl
    except ImportError:
        return _lock_on_windows(file)
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: better no lock than no run
        return True
    return True


def _lock_on_windows(file: int) -> bool:
    import msvcrt

    os.lseek(file, 1_000_000, os.SEEK_SET)  # a byte beyond the text, which others may read
    try:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    except OSError:
        return False
    finally:
        os.lseek(file, 0, os.SEEK_SET)
    return True
