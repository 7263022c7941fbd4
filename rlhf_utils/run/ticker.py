"""The line that says how far a stage is and how long the run may still take."""

import contextlib
import shutil
import sys
import threading
import time
from pathlib import Path

from ..files import read_json
from ..show.text import clock


class Ticker(threading.Thread):
    """Prints how far a stage is: each second over the same line, or each minute into a file."""

    def __init__(self, label: str, progress: Path, expected_s: float, later_s: float):
        super().__init__(daemon=True)
        self.label, self.progress = label, progress
        self.expected_s, self.later_s = expected_s, later_s
        self.done, self.started = threading.Event(), time.time()
        self.part = "", 0, 0.0  # what runs, how much was done when first seen, and when that was

    def __enter__(self):
        self.progress.unlink(missing_ok=True)
        print(f"{self.label} …", flush=True)
        self.start()
        return self

    def __exit__(self, *error):
        self.done.set()
        self.join()

    def run(self) -> None:
        terminal = sys.stdout and sys.stdout.isatty()
        clear, end = ("\r\x1b[2K", "") if terminal else ("", "\n")
        told = time.time()
        with contextlib.suppress(OSError):  # nobody reads it any more
            while not self.done.wait(1):
                line = self.line()  # each second, so that the pace of a part is known early
                if terminal:  # a line that is wrapped could not be cleared
                    line = line[: shutil.get_terminal_size().columns - 1]
                if terminal or time.time() - told >= 60:
                    told = time.time()
                    print(clear + line, end=end, flush=True)
            print(clear, end="")

    def line(self) -> str:
        passed = time.time() - self.started
        where, left_of_part = self.part_so_far(passed)
        left = max(self.expected_s - passed, 0.05 * self.expected_s, left_of_part)
        slower = max((passed + left) / max(self.expected_s, 1.0), 1.0)
        in_all = clock(left + slower * self.later_s)
        return f"{self.label}{where} · {clock(passed)} so far · about {in_all} left in all"

    def part_so_far(self, passed: float) -> tuple[str, float]:
        """(where the stage is, seconds that its present part still takes at the pace so far)."""
        try:
            state = read_json(self.progress)
        except ValueError:
            return "", 0.0
        what, done, total = state["what"], state["done"], state["total"]
        part, first, since = self.part
        if what != part or done < first:  # another part, or one that began anew
            self.part = part, first, since = what, done, passed
        left = (total - done) * (passed - since) / (done - first) if done > first else 0.0
        return f" · {what} {done} of {total}", left
