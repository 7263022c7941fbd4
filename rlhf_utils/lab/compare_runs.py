"""Runs beside each other, finished or not: parameters that differ, results, curves, answers.

Left out: tests of significance between runs; the intervals say how much one run alone can tell.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
from markupsafe import Markup

from ..errors import DataError, RunError
from ..files import printable, read_file, write_text
from ..preferences.filler import filler
from ..run import runs
from ..run.plan import table
from ..show.comparison import curves
from ..show.page import render
from ..show.text import headline, marked, result_text, result_words, value_text

ANSWERS = 16  # prompts on the page
MORE = ("sft.loss_heldout", "preferences.agreement", "reward_model.accuracy")
MORE += ("reward_model.ceiling", "ppo.reward_gain")


@dataclass
class Run:
    """What there is of a run: all of it may be empty."""

    name: str
    state: str
    lineage: str
    results: dict
    parameters: dict
    metrics: list[dict]
    answers: dict[str, dict]  # prompt → row of samples.jsonl

    @property
    def numbers(self) -> dict[str, str]:
        """Plain words → the number, with its interval where one is known."""
        own = {name: value for name, value in self.results.items() if name not in MORE}
        found = dict(headline(own))  # the accuracy's words there would name the run's ceiling
        for name in MORE:
            if name in self.results:
                found[result_words(name)] = result_text(name, self.results[name])
        for name, value in self.results.items():
            if name.endswith("_ci"):
                whole = name.removesuffix("_ci")
                share = self.results.get(whole, self.results.get(f"{whole}_vs_sft"))
                told = f"{result_text(whole, share)} ({result_text(whole, value)})"
                found[result_words(whole)] = told
        return found


def load(names: list[str]) -> list[Run]:
    """The runs by these names. Raises RunError for one that there is not."""
    found = []
    for name in dict.fromkeys(names):
        run = runs.existing(name)
        told = (runs.state_of(run), runs.lineage_of(run), runs.results_of(run))
        metrics = rows_of(run / "ppo" / "metrics.jsonl")
        found.append(Run(name, *told, runs.parameters_of(run), metrics, answers_of(run)))
    if len(found) < 2:
        raise RunError(f"{found[0].name} alone can't be compared: name two runs or more.")
    return found


def rows_of(path: Path) -> list[dict]:
    """The rows of a file; none where it is missing or damaged."""
    try:
        return [row for row in read_file(path) if isinstance(row, dict)]
    except DataError:
        return []


def answers_of(run: Path) -> dict[str, dict]:
    """What π_RLHF answered to held-out prompts; without 05, the last answers that 04 watched."""
    rows = rows_of(run / "evaluation" / "samples.jsonl")
    rows = [row for row in rows if row.get("policy") == "ppo"]
    if not rows:
        watched = rows_of(run / "ppo" / "samples.jsonl")
        rows = watched[-1].get("samples", []) if watched else []
    return {row["prompt"]: row for row in rows}


def differing(found: list[Run]) -> list[tuple]:
    """(parameter, its value in each run, – if unknown) where two runs have different ones.

    What differs in the same way in several stages, such as the seed, stands once.
    """
    same: dict[tuple, list[str]] = {}
    for name in dict.fromkeys(name for run in found for name in run.parameters):
        values = [run.parameters.get(name) for run in found]
        if len({str(value) for value in values if value is not None}) > 1:
            told = ["–" if value is None else str(value) for value in values]
            same.setdefault((name.rpartition(".")[2], *told), []).append(name)
    return [(own[0] if len(own) == 1 else row[0], *row[1:]) for row, own in same.items()]


def results(found: list[Run]) -> list[tuple]:
    """(words, the number in each run) of the results that matter most."""
    numbers = [run.numbers for run in found]
    names = dict.fromkeys(name for own in numbers for name in own)
    return [(name, *(own.get(name, "–") for own in numbers)) for name in names]


def answered(found: list[Run], seed: int = 0) -> list[tuple]:
    """(prompt, [(run, its row, or None)]) of prompts that two runs answered or more.

    Half are drawn at random; half are those on which the runs' gold scores, or rewards, lie
    farthest apart.
    """
    prompts = dict.fromkeys(prompt for run in found for prompt in run.answers)
    rows = [(p, [(run.name, run.answers.get(p)) for run in found]) for p in prompts]
    rows = [row for row in rows if sum(own is not None for _, own in row[1]) > 1]
    random.Random(seed).shuffle(rows)
    half, rest = rows[: ANSWERS // 2], rows[ANSWERS // 2 :]
    return half + sorted(rest, key=apart, reverse=True)[: ANSWERS // 2]


def apart(row: tuple) -> float:
    """The distance between the best and the worst answer."""
    scores = [score(own) for _, own in row[1] if own and score(own) is not None]
    return max(scores) - min(scores) if scores else 0.0


def score(row: dict) -> float | None:
    """Gold, where that is known; else the reward."""
    return next((row[n] for n in ("gold", "reward", "score") if row.get(n) is not None), None)


def figure(found: list[Run]) -> go.Figure:
    return curves({run.name: run.metrics for run in found if run.metrics})


def text(found: list[Run]) -> str:
    """State, results and parameters side by side, for a terminal."""
    rows = [("", *(run.name for run in found))]
    rows.append(("state", *(printable(run.state, 50) for run in found)))
    if any(run.lineage for run in found):
        rows.append(("lineage", *(run.lineage or "–" for run in found)))
    return table(rows + results(found) + differing(found), "")


def page(found: list[Run]) -> str:
    """The same as an HTML page, with curves and answers."""
    drawn = {"curves": figure(found)} if any(run.metrics for run in found) else {}
    return render(
        Path(__file__).with_name("compare_runs.html"),
        drawn,
        {},
        runs=found,
        results=results(found),
        differing=differing(found),
        answers=answered(found),
        score=lambda row: value_text(score(row), ".2f"),
        mark=lambda answer: Markup(marked(answer, filler(answer))),
    )


def write(found: list[Run]) -> Path:
    """Writes the page into outputs/ and returns its path."""
    names = "-".join(run.name for run in found)
    path = runs.outputs() / f"compare-{names[:150]}.html"
    write_text(path, page(found))
    return path


def compare(names: list[str]) -> str:
    """What `rlhf compare` prints: the table, and where the page with the curves is."""
    found = load(names)
    return f"{text(found)}\nCurves and answers: {write(found).resolve().as_uri()}"
