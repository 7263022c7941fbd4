"""The README's numbers are those of notebooks/notes/results.json, made of finished runs."""

import json
import sys

import pytest
from benchmarks import results_table as tables

from rlhf_utils.run.manifest import STAGES

CONTENT = json.loads((tables.ROOT / tables.NUMBERS).read_text(encoding="utf-8"))
TWO = [{"eval.gold": 4.0, "eval.filler": 0.046}, {"eval.gold": 4.25, "eval.filler": 0.0}]


def write_run(outputs, name: str, seed: int, gold: float) -> None:
    """A made-up finished run, with some of the results only."""
    results = {"eval.gold_sft": 3.5, "eval.gold_ppo": gold, "eval.win_rate_ci": [0.51239, 1.0]}
    results |= {f"eval.{name}": share for name, share in zip(("wins", "ties"), (0.73, 0.1))}
    results |= {"eval.losses": 0.17, "eval.prompts": 460}
    for minutes, stage in enumerate(STAGES, 1):
        results |= {f"time.{stage}_s": 60.0 * minutes, f"memory.{stage}_peak_gb": 2.5}
    folder = outputs / name / "evaluation"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"seed": seed}))
    (folder / "results.json").write_text(json.dumps(results))


def test_means_and_ranges():
    assert tables.spread(TWO, "eval.gold", ".1f") == "4.1 (4.0–4.2)"
    assert tables.spread(TWO, "eval.filler") == "2% (0–5)"
    assert tables.spread(TWO[:1], "eval.gold") == "4.00 (4.00–4.00)"


def test_a_result_that_a_run_lacks_is_a_dash():
    assert tables.spread([{"eval.gold": 4.0}, {}], "eval.gold") == "–"
    assert tables.spread([{"eval.gold": None}], "eval.gold") == "–"  # NaN, as JSON has it
    assert tables.spread([], "eval.gold") == "–"


@pytest.mark.parametrize("page", [tables.README, tables.NOTES])
def test_the_tables_are_those_of_the_numbers(page):
    """Else run `tests/benchmarks/results_table.py` without runs."""
    text = (tables.ROOT / page).read_text(encoding="utf-8")
    assert tables.with_tables(text, CONTENT) == text


def test_the_readme_has_eight_rows():
    text = (tables.ROOT / tables.README).read_text(encoding="utf-8")
    table = text.split("<!-- results -->")[1].split("<!-- /results -->")[0]
    assert len(table.strip().splitlines()) == 8 + 2


def test_from_runs_to_pages(outputs, monkeypatch, tmp_path):
    project = tmp_path / "project"
    (project / tables.NOTES.parent).mkdir(parents=True)
    (project / tables.README).write_text(
        "Before\n<!-- results -->\nstale\n<!-- /results -->\nafter"
    )
    (project / tables.NOTES).write_text(
        "<!-- costs -->\n<!-- /costs -->\n<!-- measured --><!-- /measured -->"
    )
    write_run(outputs, "later", 1, 4.7)
    write_run(outputs, "first", 0, 4.51239)
    monkeypatch.setattr(tables, "ROOT", project)
    monkeypatch.setattr(
        sys, "argv", ["results_table.py", "later", "first", "--machine", "a fast one"]
    )
    tables.main()

    numbers = json.loads((project / tables.NUMBERS).read_text())
    assert list(numbers["seeds"]) == ["0", "1"]
    assert numbers["seeds"]["0"]["eval.gold_ppo"] == 4.512
    assert numbers["seeds"]["0"]["eval.win_rate_ci"] == [0.5124, 1.0]
    readme = (project / tables.README).read_text()
    assert readme.startswith("Before\n") and readme.endswith("after") and "stale" not in readme
    assert "3.50 (3.50–3.50) | 4.61 (4.51–4.70) |" in readme
    assert "| 73% (73–73) / 10% (10–10) / 17% (17–17) |" in readme
    notes = (project / tables.NOTES).read_text()
    assert "| all five | 15.0 (15.0–15.0) | 2.5 (2.5–2.5) |" in notes
    assert "Seeds 0, 1" in notes and "a fast one" in notes


def test_two_runs_of_one_seed_are_refused(outputs):
    write_run(outputs, "one", 0, 4.5)
    write_run(outputs, "two", 0, 4.6)
    with pytest.raises(SystemExit, match="two has seed 0"):
        tables.read_runs(["one", "two"])
