"""A new run from a checkpoint of another one, with other parameters for 04 and 05.

What 01 to 03 made is the same; only 04, from the checkpoint on, and 05 are run. Without another
parameter the branch is the run that it comes from, bit for bit.
"""

import contextlib
import os
import shutil
from pathlib import Path

from ..errors import RunError
from ..files import read_json, write_json, write_jsonl
from ..ppo.checkpoint import content_digest, damage_of, known_rows, sealed
from ..run.paths import STAGES, notebook_path
from ..run.state import merged

# What the weights, the random numbers or the order of prompts in a checkpoint depend on.
SHAPES = ("seed", "batch_size", "lora_r", "num_trainable_layers", "dtype", "prompts", "resume")
RUNS = ["ppo", "evaluation"]  # the stages that a branch runs


def make_branch(run: Path, new: Path, update: int, known: dict, given: dict) -> dict:
    """Makes the folder `new`, up to the checkpoint; returns what stands in its parameters.json.

    known: what stands in that of `run`. given: the parameters that differ. Raises RunError, and
    PPOError for a log that is not the checkpoint's.
    """
    own = merged({}, given, RUNS).items()
    changed = {n.removeprefix("ppo."): value for n, value in own if n.startswith("ppo.")}
    for name in changed:
        if name in SHAPES:
            raise RunError(
                f"A branch cannot have another {name}, on which its checkpoint depends: "
                f"begin a new run with `rlhf run {new.name}`."
            )
    if os.path.lexists(new):
        raise RunError(f"There is a run {new.name!r} already: give the branch another name.")
    checkpoint = checkpoint_of(run, update)
    description = read_json(checkpoint / "state.json")
    begun = update * description["settings"]["batch_size"]
    if changed.get("total_episodes", begun + 1) <= begun:
        raise RunError(
            f"total_episodes={changed['total_episodes']} are not more than the {begun} that "
            f"update {update} has seen: give more, or branch from an earlier update."
        )
    logs = logs_of(run, description, changed)
    state = known | {"parameters": merged(known["parameters"], given, RUNS), "asked": list(STAGES)}
    try:
        copy(run, new, checkpoint.name)
        described = branched(description, logs, changed, run.name)
        write_json(new / "ppo/checkpoints" / checkpoint.name / "state.json", described)
        for name, rows in logs.items():
            write_jsonl(new / "ppo" / name, rows)
        write_json(new / "parameters.json", state)
    except BaseException as error:  # half a run must not take the name
        shutil.rmtree(new, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise RunError(f"{new} cannot be written: {error.strerror or error}.") from None
    return state


def checkpoint_of(run: Path, update: int) -> Path:
    """Raises RunError, which names the updates of which there is a whole one."""
    folders = sorted((run / "ppo" / "checkpoints").glob("update-??????"))
    whole = {int(path.name[-6:]): path for path in folders if not damage_of(path)}
    if update in whole:
        return whole[update]
    there = ", ".join(map(str, whole))
    told = f"there are those of {there}" if whole else "it has none"
    raise RunError(f"Run {run.name!r} has no checkpoint of update {update}: {told}.")


def logs_of(run: Path, description: dict, changed: dict) -> dict[str, list[dict]]:
    """Log → its rows up to the checkpoint, without what was set of a parameter that changes."""
    logs = {}
    for name, known in description["logs"].items():
        logs[name] = known_rows(run / "ppo" / name, description["update"], *known)
        for row in logs[name]:
            for parameter in changed.keys() & row.get("steered", {}).keys():
                del row["steered"][parameter]
    return logs


def branched(description: dict, logs: dict, changed: dict, run: str) -> dict:
    """The checkpoint's description, which lets `changed` differ, and says where it comes from."""
    may_change = list(changed)
    if "reward" in changed:
        may_change += ["digest of the reward", "reward_model"]
    own = {
        "branched_from": {"run": run, "update": description["update"]},
        "may_change": may_change,
        "kl_coef": changed.get("kl_coef", description["kl_coef"]),  # a target steers it on
        "logs": {name: [len(rows), content_digest(rows)] for name, rows in logs.items()},
    }
    return sealed({n: v for n, v in description.items() if n != "sha256_of_this"} | own)


def copy(run: Path, new: Path, checkpoint: str) -> None:
    """The stages before 04, their executed notebooks, and the checkpoint."""
    for stage in list(STAGES)[: list(STAGES).index("ppo")]:
        if (run / stage).is_dir():
            shutil.copytree(run / stage, new / stage, copy_function=link)
            with contextlib.suppress(FileNotFoundError):
                shutil.copy2(run / notebook_path(stage).name, new)
    place = Path("ppo", "checkpoints", checkpoint)
    shutil.copytree(run / place, new / place, copy_function=link)


def link(source: str, target: str) -> str:
    """Weights share their place on the disk: safetensors never writes into a file that is there."""
    if source.endswith(".safetensors"):
        with contextlib.suppress(OSError):
            os.link(source, target)
            return target
    return shutil.copy2(source, target)
