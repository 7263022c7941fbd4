"""A headless Chromium, and JupyterLab in it, for the tests whose names have `browser` in them."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest

from rlhf_utils.show.pictures import BROWSERS

PATIENCE = 90_000  # ms; JupyterLab starts slowly on a busy machine
MISSING = (
    "No Chromium on the PATH: install it from your system's packages (Debian, Ubuntu: apt install "
    "chromium), then run `make test` again."
)


def chromium_or_skip() -> str:
    """The browser's path. Without one the test is skipped, or fails with RLHF_REQUIRE_BROWSER."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    refuse = pytest.fail if os.environ.get("RLHF_REQUIRE_BROWSER") else pytest.skip
    refuse(MISSING)


@contextlib.contextmanager
def jupyterlab(folder, environment):
    """A JupyterLab over `folder`: the address of its workspaces."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "ServerApp.root_dir": folder,
        "IdentityProvider.token": "",
        "ServerApp.password": "",
        "LabApp.news_url": "",
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        "port": port,
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--{name}={value}" for name, value in options.items()]
    log = folder / "lab.log"
    with log.open("w") as out:
        server = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    for _ in range(240):
        if socket.socket().connect_ex(("127.0.0.1", port)) == 0:
            break
        assert server.poll() is None, log.read_text()[-2000:]
        time.sleep(0.25)
    yield f"http://127.0.0.1:{port}/lab/workspaces/"
    server.terminate()
    server.wait(30)


class Notebook:
    """The page, driven as a person would."""

    def __init__(self, page, address):
        self.page = page
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.wait_for_selector(
            ".jp-NotebookPanel .jp-Toolbar-kernelName:not(:has-text('No Kernel'))"
        )
        page.wait_for_selector("[data-status=idle] >> visible=true")

    def menu(self, *path):
        self.page.click(f".lm-MenuBar-itemLabel:text-is('{path[0]}')")
        self.page.click(f".lm-Menu-itemLabel:text-is('{path[1]}')")

    def idle(self):
        self.page.wait_for_selector("[data-status=idle] >> visible=true")

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)
