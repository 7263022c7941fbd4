"""What the first cell of every notebook calls: the kernel gets the packages that it lacks.

On Colab, and where that cell fetched the suite itself, pip adds them; torch, ipywidgets and others
that a kernel has loaded stay as they are. Elsewhere, one sentence names them and what to do. The
list is pyproject.toml's. Imports the standard library alone.
"""

import contextlib
import importlib
import importlib.metadata
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from ..errors import RunError

ROOT = Path(__file__).resolve().parents[2]
# Never changed where they are installed: built for the machine, or loaded before the first cell.
KEPT = (
    *("torch", "torchvision", "torchaudio", "numpy", "pandas"),
    *("ipywidgets", "ipykernel", "ipython"),
)
# An interface that Colab and VS Code are themselves; static pictures, made only if this is found.
NOT_FOR_CELLS = ("jupyterlab", "kaleido")


def prepare() -> None:
    """Adds or names what is missing. Raises RunError if the notebook cannot run here."""
    on_colab = "google.colab" in sys.modules
    alone = Path("rlhf").resolve() == ROOT  # the clone that the first cell makes
    names = missing_packages()
    for name in names:
        if name in KEPT and installed(name):
            raise RunError(
                f"{name} {installed(name)} is too old for this suite, which needs "
                f"{wanted()[name]} and leaves {name} as it is: choose a newer kernel."
            )
    if names and (on_colab or alone):
        add_packages(names)
    elif names:
        remedy = "choose the kernel in .venv, which `make setup` makes"
        if "torch" not in names:  # else nearly all is missing, and which torch is the machine's
            remedy += f", or run `%pip install {' '.join(pinned(names))}` in a cell"
        raise RunError(f"This kernel lacks {', '.join(names)}: {remedy}.")
    if on_colab:  # else the ranking widget does not load there
        with contextlib.suppress(ImportError):
            importlib.import_module("google.colab.output").enable_custom_widget_manager()


def wanted() -> dict[str, str]:
    """{package: its lowest version}, of what notebooks need; empty if this is no clone."""
    path = ROOT / "pyproject.toml"
    if not path.is_file():  # installed by pip, which has seen to it
        return {}
    lines = tomllib.loads(path.read_text(encoding="utf-8"))["project"]["dependencies"]
    lowest = {name: version for name, _, version in (line.partition(">=") for line in lines)}
    return {name: version for name, version in lowest.items() if name not in NOT_FOR_CELLS}


def installed(name: str) -> str:
    """The version of a package, or an empty text."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return ""


def missing_packages() -> list[str]:
    """Those that are not installed, or older than pyproject.toml allows."""
    missing = []
    for name, lowest in wanted().items():
        version = installed(name)
        if not version or _numbers(version) < _numbers(lowest):
            missing.append(name)
    return missing


def _numbers(version: str) -> list[int]:
    """[2, 11, 0] of "2.11.0+cpu"."""
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])]


def pinned(names: list[str]) -> list[str]:
    """["trl==1.16.0"]: the versions that the suite was measured with."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = {line.partition("==")[0].lower(): line for line in text.splitlines()}
    return [pins.get(name.lower(), name) for name in names]


def add_packages(names: list[str]) -> None:
    """Installs them in their measured versions. Raises RunError with pip's reason if it fails."""
    packages = pinned(names)
    print(f"Adding {', '.join(packages)}: about a minute ...", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        kept = [f"{name}=={installed(name)}" for name in KEPT if installed(name)]
        constraints = Path(folder) / "kept.txt"
        constraints.write_text("\n".join(kept), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "-q", "-c", str(constraints)]
        done = subprocess.run([*command, *packages], capture_output=True, text=True)
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise RunError(
            f"pip could not add {', '.join(packages)}: "
            f"{(told or done.stderr.splitlines() or ['no reason given'])[-1]}"
        )
    importlib.invalidate_caches()
