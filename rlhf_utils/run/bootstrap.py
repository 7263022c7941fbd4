"""Makes .venv and installs the suite into it; run by `make` with the system's Python, so it uses the standard library alone.

Every failure that a person can mend ends with one sentence. The whole of pip's output goes to .venv/install.log.
"""

import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
VENV = os.path.join(ROOT, ".venv")
NEEDED_GB = 6


def fail(sentence):
    sys.exit("Set-up stopped: " + sentence)


def install():
    if sys.version_info < (3, 11):
        fail(
            "Python %d.%d is too old; install Python 3.11 or newer and run `make PYTHON=python3.11 ...`."
            % sys.version_info[:2]
        )
    stamp = os.path.join(VENV, "installed")
    sources = [os.path.join(ROOT, name) for name in ("pyproject.toml", "constraints.txt")]
    if os.path.exists(stamp) and os.path.getmtime(stamp) > max(map(os.path.getmtime, sources)):
        return
    if shutil.disk_usage(ROOT).free < NEEDED_GB * 1e9:
        fail(
            "the disk is nearly full; the environment, the model and a run need about %d GB free."
            % NEEDED_GB
        )
    print("Setting up .venv (a few minutes the first time) ...", flush=True)
    python = os.path.join(VENV, "Scripts" if os.name == "nt" else "bin", "python")
    if (
        not os.path.exists(python)
        and subprocess.run([sys.executable, "-m", "venv", VENV]).returncode
    ):
        shutil.rmtree(
            VENV, ignore_errors=True
        )  # half of one would be taken for a whole one next time
        fail(
            "Python could not make a virtual environment; on Debian and Ubuntu install the package python3-venv."
        )
    log_path = os.path.join(VENV, "install.log")
    command = [
        python,
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "-c",
        os.path.join(ROOT, "constraints.txt"),
        "-e",
        ROOT + "[test]",
    ]
    with open(log_path, "w+", errors="replace") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
        log.seek(0)
        text = log.read()
    if code:
        if "No space left" in text:
            fail("the disk is full; free about %d GB and run make again." % NEEDED_GB)
        if re.search(
            r"NewConnectionError|ConnectTimeout|Connection refused|name resolution|Max retries|connection broken|setuptools\S* \(from versions: none",
            text,
        ):
            fail("the package index could not be reached; check the network and run make again.")
        lines = [line.strip() for line in text.splitlines() if line.strip().startswith("ERROR")]
        fail(
            "pip could not install the packages (%s); the whole output is in .venv/install.log."
            % (lines[0][7:] if lines else "no reason given")
        )
    open(stamp, "w").close()


if __name__ == "__main__":
    install()
