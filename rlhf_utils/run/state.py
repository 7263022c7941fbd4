"""What a run was asked, and how far it is: parameters.json, manifests, checkpoints.

outputs/<run>/parameters.json    profile; all parameters ever given; stage → when it was asked;
                                 the shell's folder, where a reward's module lies
"""

import os
import time
from pathlib import Path

from ..errors import RunError
from ..files import digest, read_json, write_json
from .manifest import read_manifest
from .paths import STAGES
from .values import takes


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


# --- parameters.json


def read_state(run: Path) -> dict:
    """{"profile", "parameters", "asked"} of a run; empty for a run that the console did not begin.

    Raises RunError if the file is damaged.
    """
    path = run / "parameters.json"
    if not path.is_file():
        return {}
    try:
        state = read_json(path)
        shapes = (("profile", str), ("parameters", dict))
        if not all(isinstance(state[name], kind) for name, kind in shapes):
            raise ValueError
        if not isinstance(state.setdefault("asked", {}), dict):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(
            f"{path} is damaged: delete it and give the run's profile and parameters anew."
        ) from None
    return state


def write_state(run: Path, profile: str, parameters: dict, stages: list[str]) -> None:
    """Notes what is asked now; what earlier calls asked of other stages stays."""
    cwd = os.environ.get("RLHF_CWD") or os.getcwd()
    before = read_state(run).get("asked", {})
    asked = {} if len(stages) == len(STAGES) else before
    asked = asked | dict.fromkeys(stages, now())
    if any(value for name, value in parameters.items() if name.endswith("resume")):
        asked["ppo"] = before.get("ppo", "")  # its checkpoints stay those of this asking
    kept = {name: value for name, value in parameters.items() if not name.endswith("resume")}
    content = {"profile": profile, "parameters": kept, "asked": asked, "cwd": cwd}
    try:
        write_json(run / "parameters.json", content)
    except OSError as error:
        raise RunError(f"{run} cannot be written: {error.strerror}.") from None


def merged(before: dict, given: dict, stages: list[str], goes_on: bool) -> dict:
    """All parameters of the run. What is given to some stages of it is theirs alone."""
    if not goes_on:
        return dict(given)
    result = dict(before)
    plain_first = sorted(given, key=lambda name: name.count("."))
    for name in plain_first:
        own, _, parameter = name.rpartition(".")
        for stage in [own] if own else stages:
            if takes(stage, parameter):
                result[f"{stage}.{parameter}"] = given[name]
    return result


def without_unknown(before: dict, run: str) -> dict:
    """What a run began with, less what only older notebooks had, which it prints."""
    known, gone = {}, []
    for name, value in before.items():
        if name.endswith("more") or not any(takes(stage, name) for stage in STAGES):
            gone.append(f"{name}={value!r}")
        else:
            known[name] = value
    if gone:
        print(
            f"Run {run!r} began with {', '.join(gone)}, which no notebook has now: it goes on "
            "without. What an older `more` held is given one by one, as -p STAGE.NAME=VALUE."
        )
    return known


# --- manifests


def manifest_of(run: Path, stage: str) -> dict:
    """The stage's manifest; empty if there is none that can be read."""
    try:
        return read_manifest(run / stage)
    except RunError:
        return {}


def finished(run: Path, stage: str) -> bool:
    """Whether the stage is done, and not asked again since."""
    done_at = manifest_of(run, stage).get("finished_at")
    if not isinstance(done_at, str):
        return False
    try:
        return done_at >= read_state(run).get("asked", {}).get(stage, "")
    except (RunError, TypeError):
        return True


def stages_done(run: Path) -> list[str]:
    return [stage for stage in STAGES if finished(run, stage)]


def stale(run: Path, stage: str) -> bool:
    """Whether an input or an output of the stage has changed since."""
    manifest = manifest_of(run, stage)
    seen = (manifest.get("inputs") or {}) | manifest["outputs"]
    return any(digest(run / name) != known for name, known in seen.items())


def left_to_do(run: Path) -> list[str]:
    """The stages from the first unfinished or stale one to the last that was asked."""
    asked = read_state(run).get("asked") or dict.fromkeys(STAGES, "")
    order = list(STAGES)
    wanted = order[: 1 + max((order.index(stage) for stage in asked if stage in order), default=4)]
    begun = [stage for stage in wanted if stage in asked or manifest_of(run, stage)]
    for place, stage in enumerate(begun):
        if not finished(run, stage) or stale(run, stage):
            return begun[place:]
    return []


def has_checkpoints(run: Path) -> bool:
    """Whether an unfinished 04 left checkpoints that the present asking made."""
    if finished(run, "ppo"):
        return False
    asked = str(read_state(run).get("asked", {}).get("ppo", ""))
    for folder in (run / "ppo" / "checkpoints").glob("update-??????"):
        made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(folder.stat().st_mtime))
        if made >= asked:
            return True
    return False
