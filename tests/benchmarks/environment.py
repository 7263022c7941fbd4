"""The virtual environment of the comparison: the suite's own pins, but trl 1.12.0.

That is the last release that has PPOTrainer. The suite itself is not installed into it: the
children find this checkout by PYTHONPATH. So an environment that another checkout made measures
this one's code.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rlhf_utils.models import builtin

ROOT = Path(__file__).resolve().parents[2]
TRL = "1.12.0"
PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "scipy")


def constraints() -> str:
    """The suite's constraints.txt with TRL's pin replaced."""
    return re.sub(r"(?m)^trl==.*$", f"trl=={TRL}", (ROOT / "constraints.txt").read_text())


def variables(root: Path = ROOT) -> dict[str, str]:
    """The environment variables of a child process: the code in `root` first, and no warnings."""
    return os.environ | {
        "PYTHONPATH": str(root),
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "PYTHONWARNINGS": "ignore",
    }


def child(python: Path | str, script: str, arguments: list[str], root: Path = ROOT) -> dict:
    """What one measurement, in a process of its own, says in its last line.

    root: the checkout whose script and code are taken. If the child fails, the benchmark stops with
    the end of its output.
    """
    done = subprocess.run(
        [python, root / "tests" / "benchmarks" / script, *arguments],
        capture_output=True,
        text=True,
        env=variables(root),
    )
    if done.returncode:
        sys.exit(f"{script} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def pins() -> list[str]:
    """What is installed, with exact versions: a plain "torch" may come from another source."""
    return [re.search(rf"(?m)^{name}==.*$", constraints())[0] for name in PACKAGES]


def trl_python() -> Path:
    """The Python of the environment, which takes 1.5 GB and a minute to make.

    It is made at the first call, and whenever what it holds has changed.
    """
    folder = builtin.cache_dir() / f"trl-{TRL}"
    python, stamp = folder / "bin" / "python", folder / "installed"
    wanted = "\n".join([*pins(), constraints()])
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"Making {folder} with trl {TRL} (a minute or more) ...", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(constraints())
        file.flush()
        done = subprocess.run(
            [python, "-m", "pip", "install", "-c", file.name, *pins()],
            capture_output=True,
            text=True,
        )
    if done.returncode:
        sys.exit(f"pip could not install trl {TRL}:\n{done.stderr[-3000:]}")
    stamp.write_text(wanted)
    return python
