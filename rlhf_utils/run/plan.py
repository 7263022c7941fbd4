"""What a run will do, told before it does: stages, sizes, minutes, and what it writes over."""

import math
from pathlib import Path

from ..files import printable
from ..show.text import clock
from .paths import STAGES
from .preflight import Job
from .state import manifest_of, when
from .values import all_values

STARTUP = 8  # seconds in which a notebook imports and loads, whatever its sizes
# stage → the parameters whose product says how much work it is, and what a 0 among them stands for
SIZES = {
    "sft": (("num_demonstrations", "num_train_epochs"), 2416),
    "preferences": (("num_prompts", "answers_per_prompt", "response_length"), 3276),
    "reward_model": (("num_prompts", "head_epochs"), 3276),  # the prompts of 02
    "ppo": (("total_episodes", "response_length"), 1),
    "evaluation": (("num_prompts", "response_length"), 460),
}


def expected_seconds(job: Job, stage: str) -> float:
    """What the stage took in this run before, else what it takes in the demo; by its sizes."""
    before = manifest_of(job.run, stage)
    took = before.get("wall_s") or 60 * STAGES[stage][1]
    values = job.values["preferences"] | job.values[stage]
    usual = all_values("preferences", {}) | all_values(stage, {})
    if before:
        usual |= manifest_of(job.run, "preferences").get("parameters", {}) | before["parameters"]
    names, whole = SIZES[stage]
    try:
        ratio = math.prod((values[name] or whole) / (usual[name] or whole) for name in names)
    except (KeyError, TypeError):  # of a manifest that is not ours
        ratio = 1
    return min(took, STARTUP) + max(took - STARTUP, 1) * ratio


def size_of(stage: str, job: Job) -> str:
    """How much the stage does, in words."""
    values, count = job.values[stage], job.counts[stage]
    if stage == "sft":
        return f"{count:,} demonstrations × {values['num_train_epochs']}"
    if stage == "preferences":
        return f"{count:,} prompts × {values['answers_per_prompt']} answers"
    if stage == "reward_model":
        return f"{count:,} pairs of your own" if count else "the pairs of 02"
    if stage == "ppo":
        updates = values["total_episodes"] // values["batch_size"]
        return f"{updates:,} updates of {values['batch_size']}"
    return f"{count:,} held-out prompts"


def writes_over(run: Path, stage: str) -> str:
    """When what the stage writes over was made; empty if there is nothing."""
    if not (run / stage).is_dir():
        return ""
    return f"writes over {when(manifest_of(run, stage)) or 'an unfinished one'}"


def plan(job: Job, expected: dict[str, float], goes_on: str = "") -> str:
    """The plan as lines of text. goes_on: a stage that goes on where it stopped."""
    rows = []
    for stage in job.stages:
        over = "goes on" if stage == goes_on else writes_over(job.run, stage)
        rows.append((STAGES[stage][0], size_of(stage, job), f"~{clock(expected[stage])}", over))
    total = f"  about {clock(sum(expected.values()))} in all, into {job.run}"
    return "\n".join([*job.notes, table(rows), total])


def table(rows: list[tuple[str, ...]], indent: str = "  ") -> str:
    """The rows as text, in columns."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    lines = [indent + "  ".join(f"{c:{w}}" for c, w in zip(row, widths)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
