"""The runs below outputs/: list them, compare two, open a report, keep a run's notebooks."""

import contextlib
import json
import os
import webbrowser
from pathlib import Path

from ..errors import DataError, RunError
from ..files import read_json, write_text
from ..show.text import clock, headline, result_text, result_words
from .parameters import near
from .paths import STAGES, notebook_path, run_dir
from .plan import table
from .state import finished, manifest_of, read_state, when

LINES = 5  # of the headline
EARLY = ("ppo.reward_gain", "reward_model.accuracy", "sft.loss_heldout")


def outputs() -> Path:
    return run_dir("x").parent


def all_runs() -> list[str]:
    """The names of the folders that a console or a notebook has made, the newest last."""
    if not outputs().is_dir():
        return []
    found = []
    for folder in outputs().iterdir():
        marks = ["parameters.json", *(f"{stage}/manifest.json" for stage in STAGES)]
        if any((folder / mark).is_file() for mark in marks):
            found.append((last_made(folder), folder.name))
    return [name for _, name in sorted(found)]


def last_made(run: Path) -> str:
    return max(when(manifest_of(run, stage)) for stage in STAGES)


def existing(name: str) -> Path:
    """The run's folder. Raises RunError for a run that there is not."""
    run, known = run_dir(name), all_runs()
    if name in known:
        return run
    told = near(name, known, ": `rlhf list` shows those that there are.")
    raise RunError(f"There is no run {name!r} in {outputs()}{told}")


def results_of(run: Path) -> dict:
    """The numbers of all stages that are done."""
    results = {}
    for stage in STAGES:
        results |= manifest_of(run, stage).get("results", {})
    return {name: value for name, value in results.items() if isinstance(value, (int, float))}


def told_of(results: dict) -> list[tuple[str, str]]:
    """(words, number) of the results that matter most; of the stages so far, if there is no 05."""
    early = [name for name in EARLY if name in results]
    rest = [(result_words(name), result_text(name, results[name])) for name in early]
    return headline(results) or rest


def closing(run: Path) -> str:
    """What `rlhf run` ends with: five numbers and a link."""
    rows = told_of(results_of(run))[:LINES]
    report = run / "evaluation" / "report.html"
    if finished(run, "evaluation") and report.is_file():
        link = f"Report: {report.resolve().as_uri()}"
    else:
        link = f"Results: {run}"
    return f"{table(rows)}\n{link}" if rows else link


# --- rlhf list, compare, open


def list_runs() -> str:
    """A table of all runs. What is damaged has a dash."""
    names = all_runs()
    if not names:
        return f"There is no run in {outputs()} yet: `rlhf run` makes one."
    rows = [("run", "when (UTC)", "profile", "stages", "gold, π_SFT → π_RLHF", "time")]
    for name in names:
        run = outputs() / name
        try:
            profile = read_state(run).get("profile", "–")
        except RunError:
            profile = "damaged"
        manifests = [manifest_of(run, stage) for stage in STAGES]
        seconds = sum(manifest.get("wall_s", 0) for manifest in manifests)
        gold = [results_of(run).get(f"eval.gold_{policy}") for policy in ("sft", "ppo")]
        shown = " → ".join(result_text("eval.gold", value) for value in gold)
        done = f"{sum(map(bool, manifests))} of {len(STAGES)}"
        time = clock(seconds) if seconds else "–"
        rows.append((name, last_made(run) or "–", Path(profile).stem, done, shown, time))
    return table(rows, "")


def compare_runs(one: str, other: str) -> str:
    """Headline numbers and the parameters that differ, side by side."""
    runs = [existing(one), existing(other)]
    found = [dict(told_of(results_of(run))) for run in runs]
    rows = [("", one, other)]
    for words in dict.fromkeys([*found[0], *found[1]]):
        rows.append((words, *(numbers.get(words, "–") for numbers in found)))
    parameters = [_parameters(run) for run in runs]
    for name in dict.fromkeys([*parameters[0], *parameters[1]]):
        told = [str(values.get(name, "–")) for values in parameters]
        if told[0] != told[1]:
            rows.append((name, *told))
    return table(rows, "")


def _parameters(run: Path) -> dict:
    """stage.name → value of the parameters and settings of all stages."""
    found = {}
    for stage in STAGES:
        manifest = manifest_of(run, stage)
        own = manifest.get("parameters", {}) | (manifest.get("settings") or {})
        found |= {f"{stage}.{n}": v for n, v in own.items() if n not in ("run", "more", "resume")}
    return found


def open_report(name: str) -> str:
    """Shows the report in a browser, if there is one. Returns its address."""
    report = existing(name) / "evaluation" / "report.html"
    if not report.is_file():
        raise RunError(f"Run {name!r} has no report yet: `rlhf resume {name}` makes it.")
    link = report.resolve().as_uri()
    with contextlib.suppress(webbrowser.Error):
        webbrowser.get().open(link)
    return link


# --- rlhf keep


def keep_outputs(name: str) -> str:
    """Copies executed notebooks over the originals, all or none, without papermill's notes."""
    run = existing(name)
    undone = ", ".join(stage for stage in STAGES if not finished(run, stage))
    if undone:
        raise RunError(f"Run {name!r} is not finished ({undone}): `rlhf resume {name}` first.")
    originals = map(notebook_path, STAGES)
    cleaned = {original: clean(run / original.name, name) for original in originals}
    asides = {original: original.with_name(f".{original.name}.kept") for original in cleaned}
    try:
        for original, text in cleaned.items():
            write_text(asides[original], text)
        for original, aside in asides.items():
            os.replace(aside, original)
    except OSError as error:
        raise RunError(f"notebooks/ cannot be written: {error.strerror}.") from None
    finally:
        for aside in asides.values():
            aside.unlink(missing_ok=True)
    return f"notebooks/ now holds the outputs of run {name}."


def clean(source: Path, name: str) -> str:
    """The executed notebook as it is kept. Raises RunError for one that must not be."""
    try:
        notebook = read_json(source)
        tags = [cell["metadata"].get("tags", []) for cell in notebook["cells"]]
        outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    except (DataError, KeyError, TypeError, AttributeError):
        raise RunError(f"{source} is missing or damaged: run its notebook again.") from None
    if any("injected-parameters" in its for its in tags):
        raise RunError(
            f"Run {name!r} was made with parameters of its own, which would stay in notebooks/: "
            "keep a run made with the defaults."
        )
    if any(output.get("output_type") == "error" for output in outputs):
        raise RunError(f"{source} ends with an error: run its notebook again.")
    notebook["metadata"].pop("papermill", None)
    for cell, its in zip(notebook["cells"], tags):
        cell["metadata"] = {"tags": ["parameters"] if "parameters" in its else []}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
