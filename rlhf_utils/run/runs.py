"""The runs below outputs/: list them, compare two, open a report, keep a run's notebooks."""

import difflib
import json
import os
import webbrowser
from pathlib import Path

from ..errors import RunError
from ..files import write_text
from ..show.text import clock, result_text, result_words
from .paths import STAGES, notebook_path, run_dir
from .plan import when
from .state import finished, manifest_of, read_state, stages_done

BEFORE_AFTER = ("gold", "filler", "refusal_harmful", "refusal_ordinary", "reward")
LINES = 5  # of the headline


def outputs() -> Path:
    return run_dir("x").parent


def all_runs() -> list[str]:
    """The names of the folders that a console or a notebook has made, the newest last."""
    if not outputs().is_dir():
        return []
    found = []
    for folder in outputs().iterdir():
        marks = [
            folder / "parameters.json",
            *(folder / stage / "manifest.json" for stage in STAGES),
        ]
        if any(mark.is_file() for mark in marks):
            found.append((last_made(folder), folder.name))
    return [name for _, name in sorted(found)]


def last_made(run: Path) -> str:
    return max(when(manifest_of(run, stage)) for stage in STAGES)


def existing(name: str) -> Path:
    """The run's folder. Raises RunError for a run that there is not."""
    run, known = run_dir(name), all_runs()
    if name in known:
        return run
    close = difflib.get_close_matches(name, known, n=1)
    advice = f"did you mean {close[0]}?" if close else "`rlhf list` shows those that there are."
    raise RunError(f"There is no run {name!r} in {outputs()}: {advice}")


def results_of(run: Path) -> dict:
    """The results of all stages that are done."""
    results = {}
    for stage in stages_done(run):
        own = manifest_of(run, stage).get("results")
        results |= own if isinstance(own, dict) else {}
    return results


# --- headline


def headline(results: dict) -> list[tuple[str, str]]:
    """(words, number) of the five results that matter most, of those that the run has."""
    rows = []
    for name in BEFORE_AFTER:
        pair = [results.get(f"eval.{name}_{policy}") for policy in ("sft", "ppo")]
        if all(_is_number(value) for value in pair):
            told = " → ".join(result_text(f"eval.{name}", value) for value in pair)
            rows.append((result_words(f"eval.{name}"), told))
    outcomes = [results.get(f"eval.{name}") for name in ("wins", "ties", "losses")]
    if all(_is_number(value) for value in outcomes):
        told = " / ".join(result_text("eval.wins", value) for value in outcomes)
        rows.insert(min(1, len(rows)), ("π_RLHF wins / ties / loses, by gold", told))
    for name in ("eval.kl", "ppo.reward_gain", "reward_model.accuracy", "sft.loss_heldout"):
        if _is_number(results.get(name)):
            rows.append((result_words(name), result_text(name, results[name])))
    return rows[:LINES]


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and value == value


def table(rows: list[tuple[str, ...]], indent: str = "  ") -> str:
    """The rows as text, in columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    lines = [indent + "  ".join(f"{c:{w}}" for c, w in zip(row, widths)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def closing(run: Path) -> str:
    """What `rlhf run` ends with: five numbers and a link."""
    rows = headline(results_of(run))
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
        results, seconds = results_of(run), _seconds(run)
        gold = [results.get(f"eval.gold_{policy}") for policy in ("sft", "ppo")]
        told = " → ".join(result_text("eval.gold", value) for value in gold)
        done = f"{len(stages_done(run))} of {len(STAGES)}"
        rows.append(
            (
                name,
                last_made(run) or "–",
                Path(profile).stem,
                done,
                told if all(map(_is_number, gold)) else "–",
                clock(seconds) if seconds else "–",
            )
        )
    return table(rows, "")


def _seconds(run: Path) -> float:
    taken = [manifest_of(run, stage).get("wall_s") for stage in STAGES]
    return sum(value for value in taken if _is_number(value))


def compare_runs(one: str, other: str) -> str:
    """Headline numbers and the parameters that differ, side by side."""
    runs = [existing(one), existing(other)]
    found = [dict(headline(results_of(run))) for run in runs]
    rows = [("", one, other)]
    for words in dict.fromkeys([*found[0], *found[1]]):
        rows.append((words, *(numbers.get(words, "–") for numbers in found)))
    parameters = [_parameters(run) for run in runs]
    for name in dict.fromkeys([*parameters[0], *parameters[1]]):
        told = [str(values.get(name, "–")) for values in parameters]
        if told[0] != told[1]:
            rows.append((name, *told))
    if all(row[1] == row[2] for row in rows[1:]):
        rows.append(("all parameters", "the same", "the same"))
    return table(rows, "")


def _parameters(run: Path) -> dict:
    """stage.name → value of the parameters and settings of all stages."""
    found = {}
    for stage in STAGES:
        manifest = manifest_of(run, stage)
        for part in ("parameters", "settings"):
            own = manifest.get(part)
            for name, value in (own if isinstance(own, dict) else {}).items():
                if name not in ("run", "more", "resume"):
                    found[f"{stage}.{name}"] = value
    return found


def open_report(name: str) -> str:
    """Shows the report in a browser, if there is one. Returns its address."""
    report = existing(name) / "evaluation" / "report.html"
    if not report.is_file():
        raise RunError(f"Run {name!r} has no report yet: `rlhf resume {name}` makes it.")
    link = report.resolve().as_uri()
    try:
        webbrowser.get()
    except webbrowser.Error:
        return link
    webbrowser.open(link)
    return link


# --- rlhf keep


def keep_outputs(name: str) -> str:
    """Copies executed notebooks over the originals, all or none, without papermill's notes."""
    run = existing(name)
    undone = [stage for stage in STAGES if not finished(run, stage)]
    if undone:
        raise RunError(
            f"Run {name!r} is not finished ({', '.join(undone)}): `rlhf resume {name}` first."
        )
    cleaned = {
        original: clean(run / original.name, name) for original in map(notebook_path, STAGES)
    }
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
        notebook = json.loads(source.read_text(encoding="utf-8"))
        tags = [cell["metadata"].get("tags", []) for cell in notebook["cells"]]
        outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    except FileNotFoundError:
        raise RunError(f"There is no {source}: run all notebooks of {name!r} first.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise RunError(f"{source} is damaged: run its notebook again.") from None
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
