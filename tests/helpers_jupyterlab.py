"""A JupyterLab for the tests that drive it in a browser."""

import contextlib
import os
import socket
import subprocess
import sys
import time


@contextlib.contextmanager
def jupyterlab(folder):
    """The address of its workspaces; the folder is its root and holds its settings, and outputs/.

    It leaves the user's own JupyterLab alone, and the network.
    """
    environment = os.environ | {
        "RLHF_OUTPUTS": str(folder / "outputs"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "PYTHONWARNINGS": "ignore",
    }
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
