"""All that can be known is checked before the first notebook starts, for all stages of the run.

The only module of the console that may know models, data, preferences, rewards and PPO. It imports
them where it needs them: with built-in data and the defaults, no torch is loaded.
"""

import contextlib
import difflib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DataError, ExplainedError, RunError, SettingError
from .parameters import fill_settings, short
from .paths import STAGES
from .room import Job, check_disk, check_folder, check_memory, check_outputs
from .values import SOURCES, all_values, check_values

BUILTIN_WEIGHTS = {"smollm2-135m": 134_515_008, "tiny": 100_000}
LABEL_FILES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet")
SHOWN = 3  # rows of own data that are shown


@dataclass
class Found:
    """What the checks have counted, for the plan."""

    demonstrations: int = 0
    prompts: int = 0
    pairs: int = 0
    heldout: int = 0
    notes: list[str] = field(default_factory=list)


def make_job(run: Path, stages: list[str], given: dict[str, dict]) -> Job:
    """Raises RunError or SettingError for a value that cannot work. given: stage → its values."""
    for stage in stages:
        check_values(stage, given[stage])
        if stage == "ppo":
            check_sizes(given[stage])
    return Job(run, stages, {stage: all_values(stage, given[stage]) for stage in STAGES})


def check_sizes(given: dict) -> None:
    """PPO's own rules, such as that its batches divide."""
    from ..ppo.config import PPOConfig

    fill_settings(PPOConfig, all_values("ppo", given))


def check(job: Job, profile: str) -> Found:
    """Raises an ExplainedError for the first thing that would stop a stage of the run."""
    found = Found()
    check_outputs(job)
    check_folder(job.run)
    check_disk(job.run, profile)
    check_rows(job, found)
    check_judges(job, found)
    weights = check_models(job, found)
    check_memory(job, weights)
    check_new_prompts(job)
    return found


# --- rows


def check_rows(job: Job, found: Found) -> None:
    """Counts the rows of every source, and splits them as the notebooks will."""
    from ..data.rows import load_demonstrations, load_prompts, split_by_prompt

    if "sft" in job.stages:
        rows = _picked(job, "sft", "demonstrations", load_demonstrations)
        split = job.value("sft", "heldout_fraction"), job.value("sft", "seed")
        found.demonstrations = len(split_by_prompt(rows, *split)[0])
        _note(job, found, "sft", "demonstrations", rows)
    if "preferences" in job.stages:
        rows = _picked(job, "preferences", "prompts", load_prompts)
        found.prompts = len(rows)
        _note(job, found, "preferences", "prompts", rows)
    if "reward_model" in job.stages and job.value("reward_model", "preferences"):
        rows = _load(job, "reward_model", "preferences", _load_pairs)
        learned = [pair for pair in rows if pair.split != "other"]
        for share in ("heldout_fraction", "validation_fraction"):
            learned, _ = split_by_prompt(learned, job.value("reward_model", share), 0)
        found.pairs = len(rows)
        _note(job, found, "reward_model", "preferences", rows)
    if "ppo" in job.stages and job.value("ppo", "prompts"):
        _note(job, found, "ppo", "prompts", _load(job, "ppo", "prompts", load_prompts))
    if "evaluation" in job.stages:
        rows = _picked(job, "evaluation", "heldout_prompts", _load_heldout)
        found.heldout = len(rows)
        _note(job, found, "evaluation", "heldout_prompts", rows)


def _load_heldout(source: str, **strict) -> list:
    from ..data.rows import load_prompts

    return load_prompts(source, "heldout", **strict)


def _load(job: Job, stage: str, parameter: str, load: Callable) -> list:
    """The source's rows, read once. A DataError names the parameter, too."""
    source = job.value(stage, parameter)
    strict = {"strict": True} if job.value(stage, "strict") else {}
    key = (parameter, source, bool(strict))
    if key not in job.rows:
        _quiet(parameter, source)
        try:
            job.rows[key] = load(source, **strict)
        except DataError as error:
            raise DataError(f"{parameter}={source!r}: {error}") from None
    return job.rows[key]


def _quiet(parameter: str, source: str) -> None:
    """No progress bars where rows are read by the library `datasets`."""
    if source not in SOURCES[parameter] and not source.endswith((".jsonl", ".json", ".gz")):
        import datasets

        datasets.disable_progress_bars()


def _picked(job: Job, stage: str, parameter: str, load: Callable) -> list:
    """The rows that the notebook picks of its source."""
    from ..data.rows import pick

    rows = _load(job, stage, parameter, load)
    name = "num_demonstrations" if stage == "sft" else "num_prompts"
    return pick(rows, job.value(stage, name) or len(rows), job.value(stage, "seed"))


def _load_pairs(source: str, **strict) -> list:
    """The pairs that can be learned from. Raises DataError if there is none."""
    from ..preferences.pair_files import read_pairs
    from ..preferences.pairs import usable_pairs

    return usable_pairs(read_pairs(source, **strict))[0]


def _note(job: Job, found: Found, stage: str, parameter: str, rows: list) -> None:
    """Says what own data looks like to the model: the count, and the first rows."""
    source = job.value(stage, parameter)
    if source in SOURCES[parameter]:
        return
    found.notes.append(f"{parameter} of {STAGES[stage][0]}: {len(rows):,} rows of {source}")
    for row in rows[:SHOWN]:
        prompt = getattr(row, "prompt", row)
        seen = _as_seen(job, prompt.text)
        answer = getattr(row, "answer", None) or getattr(row, "chosen", None)
        shown = f"{seen} → {plain(answer, 60)}" if answer else seen
        found.notes.append(f"    {shown}")


def _as_seen(job: Job, text: str) -> str:
    """The prompt with what the model's chat template puts around it, if the model is there."""
    name = job.value("sft", "model")
    if not _at_hand(name):
        return plain(text, 100)
    _quiet_models()
    from ..models.load import chat_prompt, load_tokenizer

    return plain(chat_prompt(load_tokenizer(name), text), 100)


def plain(text: str, length: int) -> str:
    """The text in one line that no terminal takes for commands, cut to the length."""
    line = "".join(c if c.isprintable() else "⏎" if c == "\n" else "�" for c in str(text))
    return line if len(line) <= length else f"{line[: length - 1]}…"


# --- models and rewards


def _at_hand(name: str) -> bool:
    """Whether the model can be looked at without fetching the built-in one, which takes minutes."""
    cache = Path(os.environ.get("RLHF_CACHE") or Path.home() / ".cache" / "rlhf_utils")
    return name != "smollm2-135m" or (cache / f"{name}-v1").is_dir()


def _quiet_models() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def check_models(job: Job, found: Found) -> int:
    """Checks the model and its longest own prompts. Returns how many weights it has."""
    name = job.value("sft", "model")
    texts = _longest_own(job)
    own = name not in BUILTIN_WEIGHTS
    if not (own and "sft" in job.stages) and not texts or not _at_hand(name):
        return BUILTIN_WEIGHTS.get(name, 0)
    _quiet_models()
    from ..models.check import check_lengths, check_model

    facts = check_model(name)
    if own:
        found.notes.append(f"model: {plain(name, 200)}, {facts.parameters / 1e6:,.0f} M weights")
    for stage, longest in texts.items():
        length = job.value(stage, "response_length") or job.value("preferences", "response_length")
        check_lengths(facts, longest, length)
    return facts.parameters


def _longest_own(job: Job) -> dict[str, list[str]]:
    """Stage → the longest of the prompts that it asks, where they are the user's."""
    from ..data.rows import load_prompts

    longest = {}
    for stage, parameter in (
        ("preferences", "prompts"),
        ("ppo", "prompts"),
        ("evaluation", "heldout_prompts"),
    ):
        source = job.value(stage, parameter)
        if stage in job.stages and source and source not in SOURCES[parameter]:
            load = _load_heldout if stage == "evaluation" else load_prompts
            texts = [prompt.text for prompt in _load(job, stage, parameter, load)]
            longest[stage] = sorted(texts, key=len)[-SHOWN:]
    return longest


def check_judges(job: Job, found: Found) -> None:
    """The annotators of 02 and the reward of 04: that they exist and can be what they are for."""
    if "preferences" in job.stages:
        check_annotator(job, found)
    name = job.value("ppo", "reward")
    if "ppo" in job.stages and name != "reward_model":
        _refuse_near("reward", name, SOURCES["reward"])
        _quiet_models()
        from ..reward.functions import check_reward

        found.notes.append(f"reward: {plain(check_reward(name, None), 200)}")


def check_annotator(job: Job, found: Found) -> None:
    """Raises SettingError for an annotator that is neither simulated, a person, file nor reward."""
    name = job.value("preferences", "annotator")
    if name == "person" and not (job.run / "preferences" / "labels.sqlite").is_file():
        raise RunError(
            f"annotator='person' ranks in JupyterLab: `rlhf run {job.run.name} --only sft`, open "
            f"notebook 02 there with run={job.run.name!r}, and then --from reward_model."
        )
    if name in SOURCES["annotator"]:
        return
    if name.endswith(LABEL_FILES) or os.path.isfile(name):
        found.notes.append(_labels(name))
        return
    _refuse_near("annotator", name, SOURCES["annotator"])
    _quiet_models()
    from ..reward.functions import check_reward

    try:
        told = check_reward(name, None)
    except ExplainedError as error:
        raise SettingError(
            f"annotator={short(name)} is neither 'simulated', 'person', a label file nor a reward: "
            f"{error}"
        ) from error
    found.notes.append(f"annotator: {plain(told, 200)}")


def _refuse_near(parameter: str, name: str, known: tuple[str, ...]) -> None:
    """A name that is nearly one of ours is a slip, and no hub is asked about it."""
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.75)
    if close and not os.path.exists(name):
        raise SettingError(f"{parameter}={short(name)} is not known: did you mean {close[0]}?")


def _labels(name: str) -> str:
    from ..preferences.exchange import read_labels

    judgements, bad = read_labels(Path(name))
    if bad:
        line, reason = bad[0]
        raise SettingError(
            f"annotator={name!r}: {len(bad)} rows cannot be read, the first in line {line}: "
            f"{reason}."
        )
    rankings = [found for found in judgements if found.kind == "ranking"]
    if not rankings:
        raise SettingError(f"annotator={name!r} holds no ranking.")
    people = {found.annotator for found in rankings}
    return f"annotator: {len(rankings):,} rankings by {len(people)} annotators in {name}"


# --- held-out prompts


def check_new_prompts(job: Job) -> None:
    """Raises RunError if a held-out prompt is among those that a stage will learn from."""
    own = [
        (stage, parameter)
        for stage, parameter in (
            ("sft", "demonstrations"),
            ("preferences", "prompts"),
            ("reward_model", "preferences"),
            ("ppo", "prompts"),
            ("evaluation", "heldout_prompts"),
        )
        if job.value(stage, parameter) not in ("", *SOURCES[parameter])
    ]
    if "evaluation" not in job.stages or not own:
        return
    from ..data.rows import load_prompts
    from ..evaluation.heldout import check_heldout, learned_from

    # what 02 asks is in its items only once it has run
    fresh = "preferences" in job.stages
    with contextlib.redirect_stdout(io.StringIO()):  # rows that cannot be used were told above
        learned = learned_from(job.run / "nothing" if fresh else job.run, job.values)
    if fresh:
        learned["prompts of 02"] = _picked(job, "preferences", "prompts", load_prompts)
    heldout = _picked(job, "evaluation", "heldout_prompts", _load_heldout)
    check_heldout(heldout, learned)
