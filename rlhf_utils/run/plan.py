"""What a run will do, told before it does: stages, sizes, minutes, and what it writes over."""

from pathlib import Path

from ..show.text import clock
from .paths import STAGES
from .preflight import Found
from .room import Job
from .state import manifest_of
from .values import all_values, values_of

# minutes on 2 CPU cores: what the stages take in a profile, where it is no share of the demo's
MINUTES = {
    "smoke": {
        "sft": 0.25,
        "preferences": 0.25,
        "reward_model": 0.4,
        "ppo": 0.25,
        "evaluation": 0.35,
    },
    "quick": {
        "sft": 2.9,
        "preferences": 2.0,
        "reward_model": 1.2,
        "ppo": 3.1,
        "evaluation": 2.1,
    },
}

STARTUP = 8  # seconds in which a notebook imports and loads, whatever its sizes


def work(stage: str, values: dict) -> float:
    """Rough measure of what the stage does: only its ratio between two settings counts."""
    if stage == "sft":
        return (values["num_demonstrations"] or 2416) * values["num_train_epochs"]
    if stage == "preferences":
        prompts = (values["num_prompts"] or 3276) + _others(values)
        return prompts * values["answers_per_prompt"] * values["response_length"]
    if stage == "ppo":
        passes = 1 + values["num_ppo_epochs"]
        return values["total_episodes"] * values["response_length"] * passes
    if stage == "evaluation":
        return (values["num_prompts"] or 460) * values["response_length"]
    return values["head_epochs"]


def _others(values: dict) -> int:
    """Prompts of other categories; what 02 takes unless it is told."""
    given = values["num_other_prompts"]
    usual = 0 if values["annotator"] == "person" else 60
    return usual if given is None else given


def expected_seconds(job: Job, stage: str, profile: str, sizes: dict) -> float:
    """What the stage took in this run before, else what it takes in the profile; by its sizes.

    sizes: the parameters in the profile.
    """
    manifest = manifest_of(job.run, stage)
    took, before = manifest.get("wall_s"), manifest.get("parameters")
    usual = all_values(stage, values_of(stage, [sizes]))
    if isinstance(took, (int, float)) and took > 0 and isinstance(before, dict):
        usual |= {name: before[name] for name in before.keys() & usual.keys()}
        usual |= manifest.get("settings") or {}
    else:
        took = 60 * MINUTES.get(profile, {}).get(stage, STAGES[stage][1])
    try:
        ratio = work(stage, job.values[stage]) / work(stage, usual)
        return min(took, STARTUP) + max(took - STARTUP, 1) * ratio
    except (KeyError, TypeError, ZeroDivisionError):  # of a manifest that is not ours
        return took


def size_of(stage: str, job: Job, found: Found) -> str:
    values = job.values[stage]
    if stage == "sft":
        passes = values["num_train_epochs"]
        return f"{found.demonstrations:,} demonstrations, {_count(passes, 'pass', 'passes')}"
    if stage == "preferences":
        prompts = found.prompts + _others(values)
        return f"{prompts:,} prompts × {values['answers_per_prompt']} answers"
    if stage == "reward_model":
        return f"{found.pairs:,} pairs of your own" if found.pairs else "the pairs of 02"
    if stage == "ppo":
        updates = values["total_episodes"] // values["batch_size"]
        return f"{_count(updates, 'update', 'updates')} of {values['batch_size']}"
    return f"{found.heldout:,} held-out prompts"


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def writes_over(run: Path, stage: str) -> str:
    """When what the stage writes over was made; empty if there is nothing."""
    if not (run / stage).is_dir():
        return ""
    return f"writes over {when(manifest_of(run, stage)) or 'an unfinished one'}"


def when(manifest: dict) -> str:
    """The manifest's time as people write it, in UTC."""
    return str(manifest.get("finished_at") or "")[:16].replace("T", " ")


def plan(job: Job, found: Found, expected: dict[str, float], goes_on: str = "") -> str:
    """The plan as lines of text. goes_on: a stage that goes on where it stopped."""
    rows = []
    for stage in job.stages:
        over = "goes on" if stage == goes_on else writes_over(job.run, stage)
        time = f"~{clock(expected[stage])}"
        rows.append((STAGES[stage][0], size_of(stage, job, found), time, over))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [*found.notes]
    for name, size, time, over in rows:
        line = f"  {name:{widths[0]}}  {size:{widths[1]}}  {time:>{widths[2]}}  {over}"
        lines.append(line.rstrip())
    lines.append(f"  about {clock(sum(expected.values()))} in all, into {job.run}")
    return "\n".join(lines)
