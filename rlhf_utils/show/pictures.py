"""Draws a picture of a plotly figure in a process of its own, which may be late or interrupted.

This file is also that process's script. Process and browser end with the picture, with its time or
with the session, whichever is first.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import psutil  # which peft needs, too

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SECONDS = 40  # that a picture may take


def static_picture(figure: str) -> str | None:
    """A base64 PNG without a background of a figure's JSON; None where nothing draws it in time.

    JupyterLab shows it until the mouse comes by: 800 pixels fit a window of 1,250.
    """
    from ..interrupts import deferred  # here, because the process knows no package

    if not any(map(shutil.which, BROWSERS)):
        return None
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        process = subprocess.Popen(
            # -P: this folder's names are none of its modules
            [sys.executable, "-P", __file__, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt of the session is not one of the browser
        )
        try:
            picture, _ = process.communicate(figure.encode(), SECONDS)
            return picture.decode() or None
        finally:
            with deferred():
                kill_all(process.pid)
                process.wait()
    return None


def kill_all(root: int) -> None:
    """Kills a process and all that it has started, whatever sessions they are in."""
    left = [root]
    while left:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(left.pop())
            process.suspend()  # so that it starts no more
            left += [child.pid for child in process.children()]
            process.kill()


# --- the process


def _main(session: int) -> None:
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer

    def watch() -> None:
        while os.getppid() == session:
            time.sleep(0.2)
        for child in psutil.Process().children():
            kill_all(child.pid)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    figure = json.load(sys.stdin)
    height = figure["layout"].get("height") or 500
    options = {"format": "png", "width": 800, "height": height, "scale": 1}
    import kaleido

    drawn = kaleido.calc_fig_sync(figure, opts=options)
    print(base64.b64encode(drawn).decode(), end="", file=answer, flush=True)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
