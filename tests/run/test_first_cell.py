"""The first cell of a notebook that was opened alone, and the address that it fetches from.

Each cell runs in a process of its own, in an empty virtual environment: packages are there by their
metadata alone, and nothing of this suite is importable.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from rlhf_utils.errors import RunError
from rlhf_utils.run import address, colab

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FILES = ["pyproject.toml", "constraints.txt", "README.md"]
# what Colab shipped in August 2026 of what the suite needs
SHIPPED = """
torch==2.11.0+cpu torchvision==0.26.0+cpu transformers==5.15.0 peft==0.20.0 datasets==4.0.0
accelerate==1.14.0 safetensors==0.8.0 numpy==2.1.3 pandas==2.2.3 plotly==5.24.1 Jinja2==3.1.6
ipywidgets==7.7.1 anywidget==0.9.21 scikit-learn==1.6.1 scipy==1.16.3 ipykernel==6.17.1
ipython==7.34.0 pydantic==2.13.4 PyYAML==6.0.3 tqdm==4.67.3
"""
COLAB = SHIPPED.split()
NOT_THERE = ["trl", "gguf", "krippendorff", "papermill"]
TOO_OLD = ["transformers", "datasets"]


def cells_of(path: Path) -> tuple[str, str]:
    cells = {cell["id"]: "".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]}
    return cells[f"{path.name[:2]}-01"], cells[f"{path.name[:2]}-02"]


# --- one place for the address


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_notebook_has_the_address_that_pyproject_has(path):
    """If this fails, run `make address URL=…`."""
    words, code = cells_of(path)
    assert code == cells_of(NOTEBOOKS[0])[1] and len(code.splitlines()) <= 12
    assert f'REPOSITORY = "{address.repository()}"' in code
    first, rest = words.split("\n", 1)
    assert rest == cells_of(NOTEBOOKS[0])[0].split("\n", 1)[1]
    assert first == address.NO_BADGE or path.name in first
    cells = json.loads(path.read_text())["cells"]
    code = next(cell for cell in cells if cell["cell_type"] == "code")
    assert code["id"].endswith("-02"), "it comes before every import"


def copy_of_the_project(folder: Path) -> Path:
    folder.mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)
    ignored = shutil.ignore_patterns("__pycache__", "builtin", "images", "notes")
    for name in ("rlhf_utils", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    return folder


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = copy_of_the_project(tmp_path / "project")
    monkeypatch.setattr(address, "ROOT", folder)
    address.write("")
    return folder


def contents(project: Path) -> dict[str, str]:
    paths = [project / name for name in FILES] + sorted((project / "notebooks").glob("*.ipynb"))
    return {path.name: path.read_text(encoding="utf-8") for path in paths}


def test_an_address_is_written_everywhere_and_can_be_taken_back(project):
    before = contents(project)
    url = "https://github.com/someone/rlhf-notebooks.git"
    address.write(url)
    assert address.repository() == url
    assert f"git clone {url} rlhf-notebooks" in (project / "README.md").read_text()
    for path in sorted((project / "notebooks").glob("*.ipynb")):
        words, code = cells_of(path)
        target = f"github/someone/rlhf-notebooks/blob/main/notebooks/{path.name}"
        assert f"](https://colab.research.google.com/{target})" in words
        assert f'\nREPOSITORY = "{url}"' in code
        old, new = json.loads(before[path.name]), json.loads(path.read_text())
        changed = [a["id"] for a, b in zip(old["cells"], new["cells"]) if a != b]
        assert changed == [f"{path.name[:2]}-01", f"{path.name[:2]}-02"]
    address.write("https://codeberg.org/someone/elsewhere")
    assert contents(project) != before
    address.write("")
    assert contents(project) == before


@pytest.mark.parametrize("url", ["", "https://codeberg.org/someone/rlhf"])
def test_no_badge_leads_nowhere(project, url):
    """Colab opens public notebooks of GitHub; any other badge would be a dead link."""
    address.write(url)
    for path in (project / "notebooks").glob("*.ipynb"):
        assert "colab.research.google.com" not in path.read_text()


@pytest.mark.parametrize(
    "wrong",
    ["", "github.com/a/b", "https://x.org/a b", 'https://x.org/"', "https://x.org/$(id)", "-u"],
)
def test_what_is_no_address_is_refused_and_nothing_is_written(project, capsys, wrong):
    before = contents(project)
    assert address.main(wrong) == 2 and contents(project) == before
    told = capsys.readouterr().err
    assert told.startswith(repr(wrong)) and told.count("\n") == 1


def test_make_address_writes_and_takes_back(project):
    before = contents(project)
    url = "https://github.com/someone/rlhf"
    assert address.main(url + "/") == 0 and address.repository() == url
    assert address.main("none") == 0 and contents(project) == before


# --- the cell, alone


@pytest.fixture(scope="module")
def clonable(tmp_path_factory) -> str:
    """The address of a local repository that holds this suite."""
    folder = copy_of_the_project(tmp_path_factory.mktemp("public") / "suite")
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "All"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder.as_uri()


@pytest.fixture(scope="module")
def empty_python(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("python") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder / "bin" / "python"


class Alone:
    """An empty folder with a notebook's first cell, and a machine with some packages.

    pip is a stand-in that writes down what it was asked for.
    """

    def __init__(self, folder: Path, python: Path):
        self.folder, self.python, self.packages = folder / "content", python, folder / "packages"
        self.folder.mkdir()
        pip = self.packages / "pip"
        pip.mkdir(parents=True)
        (pip / "__main__.py").write_text(
            "import json, sys\n"
            "constraints = open(sys.argv[sys.argv.index('-c') + 1]).read().split()\n"
            f"with open({str(folder / 'asked')!r}, 'a') as log:\n"
            "    log.write(json.dumps([sys.argv[1:], constraints]) + '\\n')\n"
        )
        self.log = folder / "asked"

    def has(self, *packages: str) -> None:
        for name, _, version in (package.partition("==") for package in packages):
            folder = self.packages / f"{name.replace('-', '_')}-{version}.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")

    def is_colab(self) -> None:
        (self.packages / "google/colab").mkdir(parents=True)
        (self.packages / "google/colab/__init__.py").touch()
        (self.packages / "google/colab/output.py").write_text(
            "def enable_custom_widget_manager():\n    print('custom widgets are on')\n"
        )

    def run(self, url: str, before: str = "", cwd: Path | None = None):
        written = re.compile('REPOSITORY = "[^"]*"')
        code = written.sub(f'REPOSITORY = "{url}"', cells_of(NOTEBOOKS[0])[1])
        after = "\nassert 'torch' not in sys.modules, 'the cell is quick'"
        env = {name: text for name, text in os.environ.items() if not name.startswith("PIP_")}
        return subprocess.run(
            [str(self.python), "-c", before + code + after],
            cwd=cwd or self.folder,
            env=env | {"PYTHONPATH": str(self.packages)},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def asked(self) -> list:
        """[pip's arguments without the options, its constraints] of each call."""
        if not self.log.exists():
            return []
        calls = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [[arguments[4:], constraints] for arguments, constraints in calls]


@pytest.fixture
def alone(tmp_path, empty_python):
    return Alone(tmp_path, empty_python)


def last_line(result) -> str:
    return result.stderr.strip().splitlines()[-1]


def test_on_colab_it_clones_and_adds_only_what_is_missing(alone, clonable):
    alone.has(*COLAB)
    alone.is_colab()
    result = alone.run(clonable, "import google.colab\n")
    assert result.returncode == 0, result.stderr
    assert (alone.folder / "rlhf" / "notebooks" / "05_evaluation.ipynb").is_file()
    assert "custom widgets are on" in result.stdout
    [[packages, constraints]] = alone.asked()
    assert {p.partition("==")[0] for p in packages} == {*NOT_THERE, *TOO_OLD}
    assert set(packages) < set((ROOT / "constraints.txt").read_text().split())
    kept = {"torch==2.11.0+cpu", "numpy==2.1.3", "ipywidgets==7.7.1", "ipykernel==6.17.1"}
    assert kept < set(constraints)


def test_a_second_time_it_fetches_and_installs_nothing(alone, clonable):
    alone.has(*COLAB[3:], "transformers==5.23.0", "trl==1.16.0", "gguf==0.19.0", "papermill==2.7.0")
    shutil.rmtree(alone.packages / "datasets-4.0.0.dist-info")
    alone.has("torch==2.11.0", "datasets==5.2.0", "krippendorff==0.9.0")
    assert alone.run(clonable).returncode == 0
    mark = alone.folder / "rlhf" / "mark"
    mark.touch()
    gone = clonable + "-gone"
    result = alone.run(gone)
    assert result.returncode == 0 and mark.exists(), result.stderr
    assert alone.asked() == []


def test_alone_anywhere_else_it_also_adds_what_is_missing(alone, clonable):
    alone.has(*[package for package in COLAB if "peft" not in package])
    result = alone.run(clonable)
    assert result.returncode == 0, result.stderr
    assert {p.partition("==")[0] for p in alone.asked()[0][0]} == {*NOT_THERE, *TOO_OLD, "peft"}


def test_without_an_address_it_says_what_to_do(alone):
    result = alone.run("")
    expected = "The suite is not here and its address is not set: put it in REPOSITORY."
    assert last_line(result) == f"AssertionError: {expected}"
    assert not list(alone.folder.iterdir())


def test_an_address_that_leads_nowhere_is_named(alone, tmp_path):
    gone = (tmp_path / "nothing").as_uri()
    result = alone.run(gone)
    assert result.returncode and f"could not be fetched from {gone}: " in result.stderr
    assert "does not appear to be a git repository" in result.stderr, "git's own reason"
    assert not list(alone.folder.iterdir())


def test_a_clone_in_vs_code_needs_no_address_and_no_install(alone, project):
    """The notebook's folder is the working directory, whatever the kernel."""
    lists = tomllib.loads((project / "pyproject.toml").read_text())["project"]["dependencies"]
    alone.has(*[f"{line.partition('>=')[0]}==99.0" for line in lists if "kaleido" not in line])
    result = alone.run("", cwd=project / "notebooks")
    assert result.returncode == 0, result.stderr


def test_a_kernel_that_lacks_packages_is_told_which_and_how(alone, project):
    """In a clone, whose reader has chosen the kernel, nothing is installed unasked."""
    alone.has(*COLAB)
    result = alone.run("", cwd=project / "notebooks")
    assert "RunError: This kernel lacks transformers, trl, datasets," in last_line(result)
    assert "`make setup`" in last_line(result) and "%pip install" in last_line(result)
    assert alone.asked() == []


def test_torch_that_is_too_old_is_named_and_left_alone(alone, clonable):
    alone.has("torch==2.6.0+cu124", *COLAB[1:])
    alone.is_colab()
    result = alone.run(clonable, "import google.colab\n")
    assert "RunError: torch 2.6.0+cu124 is too old" in last_line(result)
    assert "2.8" in last_line(result) and alone.asked() == []


# --- pip itself


def wheel(folder: Path, name: str, version: str, *needs: str) -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}/__init__.py", "")
        head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        file.writestr(f"{info}/METADATA", head + "".join(f"Requires-Dist: {n}\n" for n in needs))
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="module")
def python_with_pip(tmp_path_factory):
    """An environment with torch 2.11.0 and ipywidgets 7.7.1, and a shelf with newer ones."""
    folder = tmp_path_factory.mktemp("real")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    shelf = folder / "shelf"
    shelf.mkdir()
    wheel(shelf, "torch", "2.11.0+cpu")
    wheel(shelf, "torch", "2.13.0")
    wheel(shelf, "ipywidgets", "7.7.1")
    wheel(shelf, "ipywidgets", "8.1.9")
    wheel(shelf, "peft", "0.21.2", "torch", "ipywidgets")
    wheel(shelf, "trl", "1.16.0", "torch>=2.12")
    python = folder / "venv" / "bin" / "python"
    env = os.environ | {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}
    env |= {"PIP_FIND_LINKS": str(shelf), "PIP_CONSTRAINT": "", "PIP_EXTRA_INDEX_URL": ""}
    env.pop("PYTHONPATH", None)
    command = [python, "-m", "pip", "install", "-q", "torch==2.11.0+cpu", "ipywidgets==7.7.1"]
    subprocess.run(command, env=env, check=True)
    return python, env


def ask_real_pip(python_with_pip, tmp_path, dependencies: list[str]):
    """The first cell's last line in a clone whose list of requirements is a short one."""
    python, env = python_with_pip
    clone = copy_of_the_project(tmp_path / "rlhf")
    (clone / "pyproject.toml").write_text(f"[project]\ndependencies = {dependencies}\n")
    code = "import sys; sys.path += ['rlhf']\nfrom rlhf_utils.run import colab; colab.prepare()"
    code += "\nprint({n: colab.installed(n) for n in ('torch', 'ipywidgets', 'peft')})"
    return subprocess.run(
        [python, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )


def test_pip_leaves_torch_and_ipywidgets_as_they_are(python_with_pip, tmp_path):
    result = ask_real_pip(python_with_pip, tmp_path, ["torch>=2.8", "peft>=0.20"])
    now = "{'torch': '2.11.0+cpu', 'ipywidgets': '7.7.1', 'peft': '0.21.2'}"
    assert result.returncode == 0 and now in result.stdout, result.stderr


def test_a_package_that_would_need_another_torch_is_not_installed(python_with_pip, tmp_path):
    result = ask_real_pip(python_with_pip, tmp_path, ["torch>=2.8", "trl>=1.16"])
    assert "RunError: pip could not add trl==1.16.0: ERROR:" in last_line(result)


def test_versions_are_compared_as_numbers(monkeypatch):
    for have, missing in {"2.11.0+cpu": [], "2.8": [], "2.7.9": ["torch"], "": ["torch"]}.items():
        monkeypatch.setattr(colab, "wanted", lambda: {"torch": "2.8"})
        monkeypatch.setattr(colab, "installed", lambda name, have=have: have)
        assert colab.missing_packages() == missing


def test_here_nothing_is_missing():
    assert {"torch", "trl", "anywidget"} < colab.wanted().keys()
    assert not {"jupyterlab", "kaleido"} & colab.wanted().keys()
    try:
        colab.prepare()
    except RunError as error:
        pytest.fail(str(error))
