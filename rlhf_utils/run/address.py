"""Where the suite is public, written wherever it is needed: `make address URL=https://…`.

The address stands in pyproject.toml, as Repository in [project.urls]. The notebooks' first cells,
their badges, and the README's `git clone` are written from it. Without a URL they are written anew;
`URL=none` takes the address back.
"""

import json
import re
import sys
import tomllib
from pathlib import Path

from ..errors import SettingError

ROOT = Path(__file__).resolve().parents[2]
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
OPEN = "https://colab.research.google.com/github/{}/blob/main/notebooks/{}"
NO_BADGE = "<!-- `make address URL=https://github.com/…` puts the badge “Open in Colab” here -->"
MARKDOWN = """{}

**Set-up.** Does nothing where the suite is installed. If this notebook was opened alone, as on
Colab, the cell fetches the suite into `rlhf/` and adds the packages that are missing; torch and
ipywidgets stay as they are."""
CODE = """import importlib.util
import subprocess
import sys

REPOSITORY = "{}"  # the suite's public address; `make address` writes it
sys.path += ["..", "rlhf"]  # the clone around this notebook, or the one that this cell makes
if not importlib.util.find_spec("rlhf_utils"):
    assert REPOSITORY, "The suite is not here and its address is not set: put it in REPOSITORY."
    failed, told = subprocess.getstatusoutput(f"git clone -q --depth=1 {{REPOSITORY}} rlhf")
    assert not failed, f"The suite could not be fetched from {{REPOSITORY}}: {{told}}"
    importlib.invalidate_caches()
importlib.import_module("rlhf_utils.run.colab").prepare()"""


def repository() -> str:
    """The address, or an empty text while it is not known."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository", "")


def setup_cells(notebook: str, address: str) -> tuple[str, str]:
    """Markdown and code that begin a notebook, named as in "01_sft.ipynb"."""
    on_github = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?", address)
    badge = NO_BADGE
    if on_github:
        badge = f"[![Open in Colab]({BADGE})]({OPEN.format(on_github[1], notebook)})"
    return MARKDOWN.format(badge), CODE.format(address)


def write(address: str) -> None:
    """Writes it into pyproject.toml, the notebooks and the README. Raises SettingError."""
    address = address.strip().rstrip("/")
    # it becomes part of a command: no space, quotation mark or $
    if address and not re.fullmatch(r"(https|file)://[\w./~@:-]+", address):
        raise SettingError(
            f"{address!r} is no public address of a repository: give one like "
            "https://github.com/owner/name."
        )
    line = f'Repository = "{address}"\n' if address else ""
    _replace(ROOT / "pyproject.toml", r'(\[project\.urls\].*\n)(Repository = ".*"\n)?', line)
    shown = address or "<this repository>"
    _replace(ROOT / "README.md", r"(git clone )(<[^>\n]*>|\S+)", shown)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for place, text in zip(("01", "02"), setup_cells(path.name, address)):
            cell = next(c for c in notebook["cells"] if c["id"] == f"{path.name[:2]}-{place}")
            cell["source"] = text.splitlines(keepends=True)
        text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        path.write_text(text, encoding="utf-8")


def _replace(path: Path, pattern: str, new: str) -> None:
    """Puts `new` after the pattern's first group, in place of the rest of it."""
    old = path.read_text(encoding="utf-8")
    text = re.sub(pattern, lambda found: found[1] + new, old, count=1)
    if text != old:  # else `make` would set up .venv again
        path.write_text(text, encoding="utf-8")


def main(given: str) -> int:
    try:
        write("" if given == "none" else given or repository())
    except SettingError as error:
        print(f"address: {error}", file=sys.stderr)
        return 2
    print(f"The suite's address is {repository() or 'not set'}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
