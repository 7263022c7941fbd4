"""Makes .venv and installs the project into it.

`make` runs this with the system's Python, so it uses the standard library alone, and an old Python
can read it, too. All that pip prints is in .venv/install.log.
"""
# ruff: noqa: UP031, UP036

import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
VENV = os.path.join(ROOT, ".venv")
NEEDED_GB = 6
NO_NETWORK = (
    r"NewConnectionError|ConnectTimeout|Connection refused|name resolution|Max retries"
    r"|connection broken|setuptools\S* \(from versions: none"
)


def fail(sentence):
    sys.exit("Set-up stopped: " + sentence)


def install():
    if sys.version_info < (3, 11):
        fail(
            "Python %d.%d is too old; install Python 3.11 or newer "
            "and run `make PYTHON=python3.11 ...`." % sys.version_info[:2]
        )
    stamp = os.path.join(VENV, "installed")
    sources = [os.path.join(ROOT, name) for name in ("pyproject.toml", "constraints.txt")]
    sources.append(os.path.abspath(__file__))
    if os.path.exists(stamp) and os.path.getmtime(stamp) > max(map(os.path.getmtime, sources)):
        return
    if shutil.disk_usage(ROOT).free < NEEDED_GB * 1e9:
        fail(
            "the disk is nearly full; the environment, the model and a run need about %d GB free."
            % NEEDED_GB
        )
    print("Setting up .venv (a few minutes the first time) ...", flush=True)
    python = os.path.join(VENV, "Scripts" if os.name == "nt" else "bin", "python")
    if not os.path.exists(python):
        make_environment()
    code, text = run_pip(python)
    if code:
        explain(text)
    quiet_lab()
    open(stamp, "w").close()


def quiet_lab():
    """JupyterLab of this environment does not ask whether to fetch news.

    In 4.6 its --LabApp.news_url=None turns off the news, but not the question.
    """
    folder = os.path.join(VENV, "share", "jupyter", "lab", "settings")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "overrides.json"), "w") as file:
        file.write('{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false"}}\n')


def make_environment():
    if subprocess.run([sys.executable, "-m", "venv", VENV]).returncode:
        shutil.rmtree(VENV, ignore_errors=True)  # half of one would pass for a whole one next time
        fail(
            "Python could not make a virtual environment; "
            "on Debian and Ubuntu install the package python3-venv."
        )


def run_pip(python):
    """(exit code, all that pip printed)."""
    command = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    command += ["-c", os.path.join(ROOT, "constraints.txt"), "-e", ROOT + "[test]"]
    with open(os.path.join(VENV, "install.log"), "w+", errors="replace") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
        log.seek(0)
        return code, log.read()


def explain(text):
    """Ends with the reason that pip's output gives."""
    if "No space left" in text:
        fail("the disk is full; free about %d GB and run make again." % NEEDED_GB)
    if re.search(NO_NETWORK, text):
        fail("the package index could not be reached; check the network and run make again.")
    errors = [line.strip()[7:] for line in text.splitlines() if line.strip().startswith("ERROR")]
    fail(
        "pip could not install the packages (%s); the whole output is in .venv/install.log."
        % (errors[0] if errors else "no reason given")
    )


if __name__ == "__main__":
    install()
