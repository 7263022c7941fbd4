"""Draws pictures of plotly's figures in a process of its own, which can be late or interrupted.

This file is also that process's script: one Chrome draws all pictures of a session. Both end with
the session, however it ends, so that no browser is left over.
"""

import base64
import contextlib
import importlib.util
import json
import os
import queue
import shutil
import subprocess
import sys
import threading

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SECONDS = 40  # that a picture may take; the first one starts the browser


class Painter:
    """The process that draws, as its session sees it."""

    def __init__(self):
        self._lock, self._process = threading.Lock(), None

    def draw(self, figure: str) -> str | None:
        """A base64 PNG, 800 pixels wide, of a figure's JSON; None where nothing can draw it.

        A drawing that is late, or interrupted, ends with its browser.
        """
        if not (any(map(shutil.which, BROWSERS)) and importlib.util.find_spec("kaleido")):
            return None
        with self._lock:
            try:
                return self._answer(figure) or None
            except (queue.Empty, OSError):
                self.stop()
            except BaseException:
                self.stop()
                raise
        return None

    def _answer(self, figure: str) -> str:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__],  # -P: this folder's names are none of its modules
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,  # an interrupt of the session is not one of the browser
            )
        process, answers = self._process, queue.Queue()

        def ask() -> None:
            with contextlib.suppress(OSError, ValueError):  # it was stopped
                process.stdin.write(" ".join(figure.splitlines()) + "\n")
                process.stdin.flush()
                answers.put(process.stdout.readline().strip())

        threading.Thread(target=ask, daemon=True).start()
        return answers.get(timeout=SECONDS)

    def stop(self) -> None:
        """Ends the process and its browser."""
        if self._process:
            kill_all(self._process.pid)
            self._process.wait()
            self._process = None


def kill_all(root: int, itself: bool = True) -> None:
    """Kills a process and all that it has started, whatever sessions they are in."""
    import psutil  # which peft needs, too

    found, left = [], [root]
    while left:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(left.pop())
            if process.pid != os.getpid():
                process.suspend()  # so that it starts no more
            found.append(process)
            left += [child.pid for child in process.children()]
    for process in found:
        if itself or process.pid != root:
            with contextlib.suppress(psutil.Error):
                process.kill()


# --- the process


def _draw(figure: dict) -> bytes:
    import kaleido

    kaleido.start_sync_server(timeout=SECONDS, silence_warnings=True)
    height = figure.get("layout", {}).get("height") or 500
    options = {"format": "png", "width": 800, "height": height, "scale": 1}
    return kaleido.calc_fig_sync(figure, opts=options)


def _main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    figures = queue.Queue()

    def work() -> None:
        while True:
            drawn = b""
            with contextlib.suppress(Exception):
                drawn = _draw(json.loads(figures.get()))
            print(base64.b64encode(drawn).decode(), file=answers, flush=True)

    threading.Thread(target=work, daemon=True).start()
    for line in sys.stdin:
        figures.put(line)
    # the session has ended
    kill_all(os.getpid(), itself=False)
    os._exit(0)


if __name__ == "__main__":
    _main()
