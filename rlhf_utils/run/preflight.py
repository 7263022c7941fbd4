"""All that can be known is checked before the first notebook starts, for all stages of the run.

The only module of the console that may know models, data, preferences, rewards and PPO. What loads
torch is imported where it is needed: with built-in data and the defaults, nothing does.
"""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ..data.rows import load_demonstrations, load_prompts, pick, shown_rows, split_by_prompt
from ..errors import DataError, ExplainedError, RunError, SettingError
from ..evaluation.heldout import check_heldout
from ..files import printable
from ..ppo.config import PPOConfig
from ..preferences.label_queue import CollectionSettings
from ..preferences.pair_files import read_pairs
from ..preferences.pairs import usable_pairs
from .parameters import fill_settings, near, short
from .paths import STAGES, run_dir
from .state import finished
from .values import SOURCES, all_values

BUILTIN_WEIGHTS = {"smollm2-135m": 134_515_008, "tiny": 100_000}
NEEDED_DISK = 3e9  # bytes; a run of the demo keeps 2 GB
LIBRARIES = 0.8e9  # bytes that torch and the rest take before any model


@dataclass
class Job:
    """What is to be run, and what the checks have found for the plan."""

    run: Path
    stages: list[str]
    values: dict[str, dict]
    "every parameter and setting of all five stages"
    rows: dict[str, list] = field(default_factory=dict)
    "stage → what was read of its source"
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def value(self, stage: str, name: str):
        return self.values[stage][name]

    def has_own(self, stage: str) -> bool:
        """Whether the rows that the stage reads are the user's."""
        parameter = READS[stage][0]
        return self.value(stage, parameter) not in ("", *SOURCES[parameter])


def check(run: Path, stages: list[str], given: dict[str, dict]) -> Job:
    """Raises an ExplainedError for the first thing that would stop a stage of the run.

    given: stage → what its notebook gets.
    """
    job = Job(run, stages, {stage: all_values(stage, given[stage]) for stage in STAGES})
    for stage, kind in (("preferences", CollectionSettings), ("ppo", PPOConfig)):
        if stage in stages:  # rules of their own, such as that batches divide
            told = {name: v for name, v in job.values[stage].items() if v is not None}
            fill_settings(kind, told)
    check_compared(job)
    check_outputs(job)
    for stage in stages:
        check_folder(run / stage)
    check_disk(job)
    check_rows(job)
    check_annotator(job)
    check_reward_name(job)
    check_memory(job, check_own_model(job))
    check_new_prompts(job)
    return job


# --- what the stages start from


def check_compared(job: Job) -> None:
    """The runs that 05 is to show beside this one are there."""
    asked = job.values["evaluation"].get("compare_with", "") if "evaluation" in job.stages else ""
    for name in filter(None, map(str.strip, asked.split(","))):
        if not run_dir(name).is_dir():
            raise RunError(f"compare_with={asked!r}: there is no run {name!r} beside {job.run}.")


def check_outputs(job: Job) -> None:
    """What the stages start from is there, or a stage of this call makes it."""
    for place, stage in enumerate(job.stages):
        for relative in needed(job, stage):
            maker, path = relative.split("/")[0], job.run / relative
            if maker in job.stages[:place] or (finished(job.run, maker) and path.exists()):
                continue
            state = "unfinished" if path.exists() else "missing"
            raise RunError(
                f"{STAGES[stage][0]} needs {relative}, which is {state} in run "
                f"{job.run.name!r}: run with --from {maker}."
            )


def needed(job: Job, stage: str) -> list[str]:
    """The outputs of other stages that the stage starts from."""
    found = [] if stage == "sft" else ["sft/policy"]
    if stage == "evaluation":
        found.append("ppo/policy")
    if stage in ("ppo", "evaluation") and job.value("ppo", "reward") == "reward_model":
        found.append("reward_model")
    if stage == "preferences" and job.value(stage, "annotator") == "reward_model":
        found.append("reward_model")
    if stage == "reward_model" and not job.value(stage, "preferences"):
        found.append("preferences/pairs.jsonl")
    if stage == "ppo" and not job.value(stage, "prompts"):
        found.append("preferences/items.jsonl")
    return found


def check_folder(path: Path) -> None:
    """Raises RunError if the folder cannot be made or written."""
    folder = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    if not folder.is_dir():
        raise RunError(f"{folder} is no folder: move it away, or give another run.")
    if not os.access(folder, os.W_OK):
        raise RunError(f"{folder} cannot be written: change its permissions.")


def check_disk(job: Job) -> None:
    folder = next(folder for folder in (job.run, *job.run.parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    if free < NEEDED_DISK and job.value("sft", "model") != "tiny":
        raise RunError(
            f"The disk is nearly full: {free / 1e9:.1f} GB are free below {folder}, and a run "
            f"needs {NEEDED_DISK / 1e9:.0f} GB."
        )


def check_memory(job: Job, weights: int) -> None:
    """Raises RunError where the free memory is clearly too small; a GPU has its own."""
    if shutil.which("nvidia-smi"):
        return
    whole = job.value("ppo", "lora_r") == 0 and job.value("ppo", "num_trainable_layers") == 0
    bytes_each = 16 if whole and "ppo" in job.stages else 6  # Adam and gradients, or two copies
    need, free = LIBRARIES + bytes_each * weights, psutil.virtual_memory().available
    if free < need:
        raise RunError(
            f"{free / 1e9:.1f} GB of memory are free, but a model of {weights / 1e6:,.0f} million "
            f"weights needs about {need / 1e9:.1f} GB: close other programs or take a smaller one."
        )


# --- rows


def _load_pairs(source: str, strict: bool) -> list:
    return usable_pairs(read_pairs(source, strict))[0]


def _load_heldout(source: str, strict: bool) -> list:
    return load_prompts(source, "heldout", strict)


# stage → the parameter that names its rows, how many of them it picks, how they are read
READS = {
    "sft": ("demonstrations", "num_demonstrations", load_demonstrations),
    "preferences": ("prompts", "num_prompts", load_prompts),
    "reward_model": ("preferences", "", _load_pairs),
    "ppo": ("prompts", "", load_prompts),
    "evaluation": ("heldout_prompts", "num_prompts", _load_heldout),
}


def rows_of(job: Job, stage: str) -> list:
    """The rows of the stage's source, read once; none where an earlier stage makes them."""
    parameter, _, load = READS[stage]
    source = job.value(stage, parameter)
    if stage not in job.rows:
        try:
            strict = bool(job.value(stage, "strict"))
            job.rows[stage] = load(source, strict=strict) if source else []
        except DataError as error:
            raise DataError(f"{parameter}={source!r}: {error}") from None
    return job.rows[stage]


def picked(job: Job, stage: str) -> list:
    """The rows that the notebook picks of its source."""
    rows, count = rows_of(job, stage), READS[stage][1]
    return pick(rows, job.value(stage, count) or len(rows), job.value(stage, "seed"))


def check_rows(job: Job) -> None:
    """Counts the rows of every source, splits them as the notebooks will, and shows own ones."""
    for stage in job.stages:
        rows = picked(job, stage) if READS[stage][1] else rows_of(job, stage)
        job.counts[stage] = len(rows)
        if stage == "sft":
            split = job.value(stage, "heldout_fraction"), job.value(stage, "seed")
            job.counts[stage] = len(split_by_prompt(rows, *split)[0])
        if stage == "reward_model" and rows:
            learned = [pair for pair in rows if pair.split != "other"]
            for share in ("heldout_fraction", "validation_fraction"):
                learned, _ = split_by_prompt(learned, job.value(stage, share), 0)
        if job.has_own(stage):
            parameter = READS[stage][0]
            source = printable(job.value(stage, parameter), 200)
            shown = shown_rows(parameter.removesuffix("_prompts"), rows)
            job.notes += [f"{parameter} of {STAGES[stage][0]}, {source}:", shown]


def check_new_prompts(job: Job) -> None:
    """Raises RunError if a held-out prompt is among those that a stage will learn from."""
    if "evaluation" not in job.stages or not any(job.has_own(stage) for stage in STAGES):
        return
    learned = {}
    for stage in ("sft", "preferences", "reward_model", "ppo"):
        rows = picked(job, stage) if stage == "preferences" else rows_of(job, stage)
        name = f"{READS[stage][0]} of {STAGES[stage][0]}"
        learned[name] = [getattr(row, "prompt", row) for row in rows]
    check_heldout(picked(job, "evaluation"), learned)


# --- models, annotators and rewards


def check_own_model(job: Job) -> int:
    """Checks the model and its longest own prompts. Returns how many weights it has."""
    name = job.value("sft", "model")
    own = name not in BUILTIN_WEIGHTS and "sft" in job.stages
    asking = ("preferences", "ppo", "evaluation")
    asking = [stage for stage in asking if stage in job.stages and job.has_own(stage)]
    if not (own or asking):
        return BUILTIN_WEIGHTS.get(name, 0)
    from ..models.builtin import cache_dir
    from ..models.check import check_lengths, check_model

    if name == "smollm2-135m" and not (cache_dir() / f"{name}-v1").is_dir():
        return BUILTIN_WEIGHTS[name]  # to fetch it takes minutes
    facts = check_model(name)
    if own:
        weights = f"{facts.parameters / 1e6:,.0f} M weights"
        job.notes.append(f"model: {printable(name, 200)}, {weights}")
    for stage in asking:
        texts = sorted((prompt.text for prompt in rows_of(job, stage)), key=len)
        check_lengths(facts, texts[-3:], job.value(stage, "response_length"))
    return facts.parameters


def check_annotator(job: Job) -> None:
    """The annotator of 02 exists, and can rank."""
    if "preferences" not in job.stages:
        return
    name, run = job.value("preferences", "annotator"), job.run
    if name == "person" and not (run / "preferences" / "labels.sqlite").is_file():
        raise RunError(
            f"annotator='person' ranks in JupyterLab: `rlhf run {run.name} --only sft`, open "
            f"notebook 02 there with run={run.name!r}, and then --from reward_model."
        )
    if name in SOURCES["annotator"]:
        return
    if os.path.isfile(name) or name.endswith(".gz"):
        job.notes.append(_labels(name))
        return
    from ..reward.functions import check_reward

    try:
        told = check_reward(name, None)
    except ExplainedError as error:
        raise SettingError(
            f"annotator={short(name)} is no annotator, file of labels or reward: {error}"
        ) from error
    job.notes.append(f"annotator: {printable(told, 200)}")


def _labels(name: str) -> str:
    from ..preferences.exchange import read_rankings

    rankings = read_rankings(Path(name))
    people = {found.annotator for found in rankings}
    return f"annotator: {len(rankings):,} rankings by {len(people)} annotators in {name}"


def check_reward_name(job: Job) -> None:
    """The reward of 04 exists. A name that is nearly `reward_model` is a slip; no hub is asked."""
    name = job.value("ppo", "reward")
    if "ppo" not in job.stages or name == "reward_model":
        return
    slip = near(name, SOURCES["reward"], "none")
    if slip != "none" and not os.path.exists(name):
        raise SettingError(f"reward={short(name)} is not known{slip}")
    from ..reward.functions import check_reward

    job.notes.append(f"reward: {printable(check_reward(name, None), 200)}")
