"""The virtual environment of the comparison: the suite's own pins, but trl 1.12.0, the last release that has PPOTrainer.

The suite itself is not installed into it: the children find this checkout by PYTHONPATH, so that an environment that another
checkout made measures this one's code.
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
PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate")


def constraints() -> str:
    """The suite's constraints.txt with TRL's pin replaced."""
    return re.sub(r"(?m)^trl==.*$", f"trl=={TRL}", (ROOT / "constraints.txt").read_text())


def variables() -> dict[str, str]:
    """The environment variables of a child process: this checkout's code first, and no warnings."""
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "PYTHONWARNINGS": "ignore",
    }


def child(python: Path | str, script: str, arguments: list[str]) -> dict:
    """What one measurement, in a process of its own, says in its last line. Stops the benchmark with the end of its output if it fails."""
    done = subprocess.run(
        [python, Path(__file__).with_name(script), *arguments],
        capture_output=True,
        text=True,
        env=variables(),
    )
    if done.returncode:
        sys.exit(f"{script} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def trl_python() -> Path:
    """The Python of the environment, which is made at the first call and whenever constraints.txt has changed (1.5 GB, a minute)."""
    folder = builtin.cache_dir() / f"trl-{TRL}"
    python, stamp = folder / "bin" / "python", folder / "installed"
    if stamp.exists() and stamp.read_text() == constraints():
        return python
    print(f"Making {folder} with trl {TRL} (a minute or more) ...", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(constraints())
        file.flush()
        # Exact versions on the command line too: a plain "torch" may be taken from another source than the pinned build.
        pinned = [re.search(rf"(?m)^{name}==.*$", constraints())[0] for name in PACKAGES]
        done = subprocess.run(
            [python, "-m", "pip", "install", "-c", file.name, *pinned],
            capture_output=True,
            text=True,
        )
    if done.returncode:
        sys.exit(f"pip could not install trl {TRL}:\n{done.stderr[-3000:]}")
    stamp.write_text(constraints())
    return python
