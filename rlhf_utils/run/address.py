"""Where the suite is public, written wherever it is needed: `make address URL=https://…`.

The address stands in pyproject.toml, as Repository in [project.urls]; in the README's `git clone`;
and in the first cells of the notebooks, which have a badge if it is on GitHub.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NO_BADGE = "<!-- `make address URL=https://github.com/…` puts the badge “Open in Colab” here -->"
BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{}/blob/main/notebooks/{})"
)


def repository() -> str:
    """The address, or an empty text while it is not known."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository", "")


def write(address: str) -> None:
    """Writes the address everywhere; an empty one takes it back."""
    line = f'Repository = "{address}"\n' if address else ""
    _replace(ROOT / "pyproject.toml", r'(\[project\.urls\].*\n)(Repository = ".*"\n)?', line)
    shown = address or "<this repository>"
    _replace(ROOT / "README.md", r"(git clone )(<[^>\n]*>|\S+)", shown)
    on_github = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?", address)
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        _replace(path, r'(REPOSITORY = \\")([^"\\]*)', address)
        badge = BADGE.format(on_github[1], path.name) if on_github else NO_BADGE
        _replace(path, r'(\n +")(<!-- `make address|\[!\[Open in Colab\])[^\n]*(?=\\n",)', badge)


def _replace(path: Path, pattern: str, new: str) -> None:
    """Puts `new` after the pattern's first group, in place of the rest of it."""
    old = path.read_text(encoding="utf-8")
    text = re.sub(pattern, lambda found: found[1] + new, old, count=1)
    if text != old:  # else `make` would set up .venv again
        path.write_text(text, encoding="utf-8")


def main(address: str) -> int:
    address = address.strip().rstrip("/")
    # it becomes part of a command: no space, quotation mark or $
    if address != "none" and not re.fullmatch(r"(https|file)://[\w./~@:-]+", address):
        told = "give one like https://github.com/owner/name, or none to take it back."
        print(f"{address!r} is no public address of a repository: {told}", file=sys.stderr)
        return 2
    write("" if address == "none" else address)
    print(f"The suite's address is {repository() or 'not set'}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
