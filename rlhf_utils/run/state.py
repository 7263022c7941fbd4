"""What a run was asked, and how far it is: parameters.json, manifests, checkpoints.

outputs/<run>/parameters.json    profile and what it gave; all parameters ever given; the stages
                                 that were asked; the shell's folder, where a reward's module lies
"""

import os
import shutil
from pathlib import Path

from ..errors import DataError, RunError
from ..files import digest, read_json, write_json
from .manifest import read_manifest
from .paths import STAGES
from .values import load_profile, takes

NEEDED = ("parameters", "inputs", "results", "wall_s")  # in a manifest
KINDS = {"profile": str, "profile_gave": dict, "parameters": dict, "asked": list, "cwd": str}

# --- parameters.json


def read_state(run: Path) -> dict:
    """What stands in parameters.json; empty for a run that the console did not begin.

    Raises RunError if the file is damaged.
    """
    path = run / "parameters.json"
    if not os.path.lexists(path):
        return {}
    try:
        state = read_json(path)
    except DataError:
        state = {}
    state = {"cwd": "", "parameters": None, "profile": None} | state
    if isinstance(state.get("asked", {}), dict):  # as an earlier version wrote it
        state["asked"] = list(state.get("asked") or STAGES)
    if isinstance(state["profile"], str) and "profile_gave" not in state:
        state["profile_gave"] = load_profile(state["profile"])
    if not all(isinstance(state.get(name), kind) for name, kind in KINDS.items()):
        raise RunError(
            f"{path} is damaged: delete it and give the run's profile and parameters anew."
        )
    return state


def begin(run: Path, state: dict, stages: list[str]) -> None:
    """Writes what is asked now; from here on the stages count as unfinished.

    Checkpoints of 04 go, too, unless it is to go on with them.
    """
    try:
        for stage in stages:
            (run / stage / "manifest.json").unlink(missing_ok=True)
        if "ppo" in stages and not any(name.endswith("resume") for name in state["parameters"]):
            shutil.rmtree(run / "ppo" / "checkpoints", ignore_errors=True)
        kept = {n: value for n, value in state["parameters"].items() if not n.endswith("resume")}
        asked = [stage for stage in STAGES if stage in (*state["asked"], *stages)]
        write_json(run / "parameters.json", state | {"parameters": kept, "asked": asked})
    except OSError as error:
        raise RunError(f"{run} cannot be written: {error.strerror}.") from None


def merged(before: dict, given: dict, stages: list[str]) -> dict:
    """All parameters of the run. What is given to some stages of it is theirs alone."""
    result = dict(before)
    for name in sorted(given, key=lambda name: name.count(".")):  # a stage's own go over others
        own, _, parameter = name.rpartition(".")
        for stage in [own] if own else stages:
            if takes(stage, parameter):
                result[f"{stage}.{parameter}"] = given[name]
    return result


def without_unknown(before: dict, run: str) -> dict:
    """What a run began with, less what only older notebooks had, which it prints."""
    gone = [name for name in before if not any(takes(stage, name) for stage in STAGES)]
    if gone:
        told = ", ".join(f"{name}={before[name]!r}" for name in gone)
        print(f"Run {run!r} began with {told}, which no notebook has now: it goes on without.")
    return {name: value for name, value in before.items() if name not in gone}


# --- how far the run is


def manifest_of(run: Path, stage: str) -> dict:
    """The stage's manifest; empty if there is none that can be read."""
    try:
        return read_manifest(run / stage, *NEEDED)
    except RunError:
        return {}


def when(manifest: dict) -> str:
    """The time in a manifest as people write it, in UTC; empty if there is none."""
    return str(manifest.get("finished_at") or "")[:16].replace("T", " ")


def finished(run: Path, stage: str) -> bool:
    return bool(manifest_of(run, stage))


def stages_done(run: Path) -> list[str]:
    return [stage for stage in STAGES if finished(run, stage)]


def left_to_do(run: Path, asked: list[str]) -> list[str]:
    """The stages from the first unfinished or stale one to the last that was asked."""
    order = list(STAGES)
    last = max((order.index(stage) for stage in asked if stage in order), default=len(order) - 1)
    begun = [stage for stage in order[: last + 1] if stage in asked or finished(run, stage)]
    for place, stage in enumerate(begun):
        manifest = manifest_of(run, stage)
        seen = manifest and manifest["inputs"] | manifest["outputs"]
        if not manifest or any(digest(run / name) != known for name, known in seen.items()):
            return begun[place:]
    return []


def has_checkpoints(run: Path) -> bool:
    """Whether an unfinished 04 left some."""
    return not finished(run, "ppo") and any((run / "ppo" / "checkpoints").glob("update-??????"))
