"""The README is short, its links lead somewhere, and the map holds every module."""

import re

import pytest
from benchmarks.results_table import README, ROOT

PAGES = [README, *sorted(page.relative_to(ROOT) for page in ROOT.glob("notebooks/notes/*.md"))]


def test_the_readme_is_short():
    text = (ROOT / README).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 130 and len(text.split()) <= 1700


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere_and_numbers_are_filled_in(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "«" not in text, "a number that nobody filled in"
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (ROOT / page.parent / target).exists(), target


def test_the_map_holds_every_module():
    """`fast/` has one row: it is there to be skipped."""
    text = (ROOT / "notebooks/notes/map.md").read_text(encoding="utf-8")
    for module in (ROOT / "rlhf_utils").rglob("*.*"):
        folder = module.relative_to(ROOT / "rlhf_utils").parts[0]
        if module.suffix in (".py", ".js", ".css", ".txt", ".html") and folder != "fast":
            row = rf"^\| .*`({folder}/)?{re.escape(module.name)}`"
            assert module.stem == "__init__" or re.search(row, text, re.MULTILINE), module
