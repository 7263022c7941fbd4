"""The runs below outputs/: what there is and how far it is, open a report, keep notebooks."""

import contextlib
import json
import os
import webbrowser
from pathlib import Path

from ..errors import DataError, RunError
from ..files import printable, read_json, write_text
from ..show.text import clock, headline, is_number, result_text, result_words
from .execute import how_far, one_line
from .lock import RunLock, at_work
from .parameters import near
from .paths import STAGES, notebook_path, run_dir
from .plan import table
from .state import finished, manifest_of, read_state, when
from .values import all_values, values_of

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
    told = near(name, known, ": `rlhf runs` shows those that there are.")
    raise RunError(f"There is no run {name!r} in {outputs()}{told}")


def results_of(run: Path) -> dict:
    """The numbers of all stages that are done, and their intervals."""
    results = {}
    for stage in STAGES:
        results |= manifest_of(run, stage).get("results", {})
    return {
        name: value
        for name, value in results.items()
        if isinstance(value, (int, float))
        or (name.endswith("_ci") and isinstance(value, list) and all(map(is_number, value)))
    }


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


# --- rlhf runs, open


def list_runs() -> str:
    """A table of all runs. What is damaged has a dash."""
    names = all_runs()
    if not names:
        return f"There is no run in {outputs()} yet: `rlhf run` makes one."
    rows = [("run", "when (UTC)", "profile", "stages", "time", "result", "state")]
    for name in names:
        run = outputs() / name
        manifests = [manifest_of(run, stage) for stage in STAGES]
        seconds = sum(manifest.get("wall_s", 0) for manifest in manifests)
        done = f"{sum(map(bool, manifests))} of {len(STAGES)}"
        time = clock(seconds) if seconds else "–"
        profile = Path(asked_of(run)[0]).stem
        state = "; ".join(filter(None, (printable(state_of(run), 120), lineage_of(run))))
        rows.append((name, last_made(run) or "–", profile, done, time, result_of(run), state))
    return table(rows, "")


def result_of(run: Path) -> str:
    """What a run is known by: gold before and after, else the first of its numbers."""
    results = results_of(run)
    gold = [results.get(f"eval.gold_{policy}") for policy in ("sft", "ppo")]
    if all(map(is_number, gold)):
        return "gold " + " → ".join(result_text("eval.gold", value) for value in gold)
    early = [name for name in EARLY if name in results]
    return f"{result_words(early[0])} {result_text(early[0], results[early[0]])}" if early else "–"


def asked_of(run: Path) -> tuple[str, list[str]]:
    """(profile, the stages that were asked) of a run."""
    try:
        state = read_state(run)
    except RunError:
        return "damaged", list(STAGES)
    return state.get("profile", "–"), state.get("asked") or list(STAGES)


def state_of(run: Path) -> str:
    """Finished; or running, failed, stopped or unfinished, and where."""
    undone = [stage for stage in asked_of(run)[1] if stage in STAGES and not finished(run, stage)]
    if not undone or finished(run, "evaluation"):
        return "finished"
    notebook = STAGES[undone[0]][0]
    far = how_far(run / undone[0] / "progress.json")
    if RunLock.holder(run) or (far and at_work(run)):
        return f"running {notebook}{far}"
    if error := error_in(run / f"{notebook}.ipynb"):
        return f"failed in {notebook}: {error}"
    return f"stopped in {notebook}{far}" if far else f"unfinished: {notebook} comes next"


def error_in(notebook: Path) -> str:
    """The sentence that an executed notebook ended with; empty if it tells none."""
    try:
        cells = read_json(notebook)["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        errors = [output for output in outputs if output["output_type"] == "error"]
        return one_line(errors[-1]["evalue"] or errors[-1]["ename"]) if errors else ""
    except (DataError, KeyError, TypeError, AttributeError):
        return ""


def lineage_of(run: Path) -> str:
    """Which run's checkpoint the run branched from; empty for any other run."""
    origin = manifest_of(run, "ppo").get("branched_from")
    if not origin and (states := sorted(run.glob("ppo/checkpoints/update-*/state.json"))):
        with contextlib.suppress(DataError):
            origin = read_json(states[-1]).get("branched_from")
    if not isinstance(origin, dict) or "run" not in origin:
        return ""
    return printable(f"branch of {origin['run']} at update {origin.get('update')}", 120)


def parameters_of(run: Path) -> dict:
    """stage.name → value of all parameters and settings; of stages to come, what they will get."""
    found, layers = {}, []
    with contextlib.suppress(RunError):
        asked = read_state(run)
        layers = [asked.get("profile_gave") or {}, asked.get("parameters") or {}]
    for stage in STAGES:
        manifest, own = manifest_of(run, stage), {}
        if manifest:
            own = manifest["parameters"] | (manifest.get("settings") or {})
        elif layers:
            with contextlib.suppress(RunError, KeyError):  # of an earlier version
                own = all_values(stage, values_of(stage, layers))
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
