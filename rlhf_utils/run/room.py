"""Whether a run has what it starts from, and room: its folder, the disk and the memory."""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import RunError
from .paths import STAGES
from .state import finished

NEEDED_DISK = 3e9  # bytes; a run of the demo keeps 2 GB
LIBRARIES = 0.8e9  # bytes that torch and the rest take before any model


@dataclass
class Job:
    """What is to be run: `values` holds every parameter and setting of all five stages."""

    run: Path
    stages: list[str]
    values: dict[str, dict]
    rows: dict = field(default_factory=dict)  # what was read already

    def value(self, stage: str, name: str):
        return self.values[stage].get(name)


def check_outputs(job: Job) -> None:
    """What the stages start from is there, or a stage of this call makes it."""
    for stage in job.stages:
        for relative in needed(job, stage):
            maker = relative.split("/")[0]
            if maker in job.stages[: job.stages.index(stage)]:
                continue
            if not finished(job.run, maker) or not (job.run / relative).exists():
                state = "unfinished" if (job.run / relative).exists() else "missing"
                raise RunError(
                    f"{STAGES[stage][0]} needs {relative}, which is {state} in run "
                    f"{job.run.name!r}: run with --from {maker}."
                )


def needed(job: Job, stage: str) -> list[str]:
    """The outputs of other stages that the stage starts from."""
    judged = ["reward_model"] if job.value("ppo", "reward") == "reward_model" else []
    if stage == "sft":
        return []
    if stage == "preferences":
        own = job.value(stage, "annotator") == "reward_model"
        return ["sft/policy", *(["reward_model"] if own else [])]
    if stage == "reward_model":
        own = job.value(stage, "preferences")
        return ["sft/policy", *([] if own else ["preferences/pairs.jsonl"])]
    if stage == "ppo":
        own = job.value(stage, "prompts")
        return ["sft/policy", *judged, *([] if own else ["preferences/items.jsonl"])]
    return ["sft/policy", "ppo/policy", *judged]


def check_folder(run: Path) -> None:
    """Raises RunError if the run's folder cannot be made or written."""
    for folder in (run, *run.parents):
        if not folder.exists() and not folder.is_symlink():
            continue
        if not folder.is_dir():
            raise RunError(f"{folder} is a file, not a folder: move it away, or give another run.")
        if not os.access(folder, os.W_OK):
            raise RunError(f"{folder} cannot be written: change its permissions.")
        return


def check_disk(run: Path, profile: str) -> None:
    folder = next(folder for folder in (run, *run.parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    if free < NEEDED_DISK and profile != "smoke":
        raise RunError(
            f"The disk is nearly full: {free / 1e9:.1f} GB are free below {folder}, and a run "
            f"needs {NEEDED_DISK / 1e9:.0f} GB."
        )


def check_memory(job: Job, weights: int) -> None:
    """Raises RunError where the free memory is clearly too small; a GPU has its own."""
    import psutil

    if shutil.which("nvidia-smi"):
        return
    whole = job.value("ppo", "lora_r") == 0 and job.value("ppo", "num_trainable_layers") == 0
    a_weight = (
        16 if whole and "ppo" in job.stages else 6
    )  # bytes; Adam and gradients, or two copies
    need, free = LIBRARIES + a_weight * weights, psutil.virtual_memory().available
    if free < need:
        raise RunError(
            f"{free / 1e9:.1f} GB of memory are free, but a model of {weights / 1e6:,.0f} million "
            f"weights needs about {need / 1e9:.1f} GB: close other programs or take a smaller one."
        )
