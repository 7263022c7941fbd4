"""What a stage says about itself, and whether what it wrote is still as it wrote it.

<run>/<stage>/manifest.json    parameters, seed, digests of inputs and outputs, versions, device,
                               wall time, peak memory
"""

import hashlib
import json
import math
from pathlib import Path

from ..errors import DataError, RunError
from ..files import digest, files_below, read_json, strict
from .paths import STAGES

# What other stages read of a stage; "" is its whole folder.
READ = {
    "sft": ("policy",),
    "preferences": ("items.jsonl", "pairs.jsonl", "agreement.json"),
    "reward_model": ("",),
    "ppo": ("policy", "metrics.jsonl", "samples.jsonl", "answers.jsonl"),
}

KINDS = {
    "parameters": dict,
    "inputs": dict,
    "outputs": dict,
    "results": dict,
    "wall_s": (int, float),
    "peak_memory_gb": (int, float, type(None)),
}
MEASURED = ("inputs", "outputs", "data", "results", "wall_s", "peak_memory_gb")
# Results that are finite unless training diverged. Others may be NaN, where nothing was counted.
LEARNED = ("sft.loss", "ppo.")


def notebook_to_run(folder: Path, again: bool = True) -> str:
    """The advice "run notebook … of run … again" for a stage's folder."""
    notebook = STAGES[folder.name][0] if folder.name in STAGES else folder.name
    told = f"run notebook {notebook} with run={folder.parent.name!r}"
    return f"{told} again" if again else told


def read_manifest(folder: Path, *names: str) -> dict:
    """The manifest in a stage's folder, with the entries `names`.

    Raises RunError if it is damaged. One by an earlier version may have no outputs.
    """
    where = f"{folder.name}/manifest.json of run {folder.parent.name!r} is damaged"
    try:
        manifest = read_json(folder / "manifest.json")
    except DataError:
        raise RunError(f"{where}: {notebook_to_run(folder)}.") from None
    manifest.setdefault("outputs", {})
    names = (*names, "outputs")
    wrong = [name for name in names if not isinstance(manifest.get(name), KINDS[name])]
    if manifest.get("sha256", seal(manifest)) != seal(manifest):
        wrong.append("sha256")
    if wrong:
        raise RunError(f"{where} ({wrong[0]!r} is missing or wrong): {notebook_to_run(folder)}.")
    return manifest


def seal(manifest: dict) -> str:
    """A digest of what the stage has measured, which a flipped bit changes."""
    measured = strict({name: manifest.get(name) for name in MEASURED})
    return hashlib.sha256(json.dumps(measured, sort_keys=True).encode()).hexdigest()


def outputs_of(folder: Path) -> dict[str, str]:
    """Digests of what other stages read of this one, and of each file of a folder among it.

    Their names are relative to the run.
    """
    found = {}
    for name in READ.get(folder.name, ()):
        path = folder / name
        for file in [path, *files_below(path)]:
            if file.exists():
                found[file.relative_to(folder.parent).as_posix()] = digest(file)
    return found


def check_output(path: Path, run: Path, seen: str, written: dict) -> None:
    """Raises RunError, naming the file, if `path` is not as its stage has written it.

    seen: the digest of `path` now. written: the outputs in the stage's manifest.
    """
    relative = path.relative_to(run).as_posix()
    if seen == written.get(relative, seen):
        return
    folder = run / relative.split("/")[0]
    named, what = relative, "has changed"
    for name, known in written.items():
        if name.startswith(relative + "/") and not (run / name).is_file():
            named, what = name, "has gone"
        elif name.startswith(relative + "/") and digest(run / name) != known:
            named = name
    raise RunError(
        f"{named} {what} since {STAGES[folder.name][0]} wrote it: {notebook_to_run(folder)}."
    )


def check_results(results: dict) -> None:
    """Raises RunError for a number that says that training diverged."""
    for name, value in results.items():
        if name.startswith(LEARNED) and isinstance(value, float) and not math.isfinite(value):
            raise RunError(
                f"{name} is {value}: training has diverged, so the stage is not finished. "
                "Lower learning_rate and run this notebook again."
            )


def collect_results(run: Path) -> dict:
    """The results of all finished stages, and their time.<stage>_s and memory.<stage>_peak_gb."""
    results = {}
    for stage in STAGES:
        if (run / stage / "manifest.json").is_file():
            manifest = read_manifest(run / stage, "results", "wall_s", "peak_memory_gb")
            results |= results_with_costs(stage, manifest)
    return results


def results_with_costs(stage: str, manifest: dict) -> dict:
    """The results in a manifest, and the stage's seconds and memory."""
    return manifest["results"] | {
        f"time.{stage}_s": manifest["wall_s"],
        f"memory.{stage}_peak_gb": manifest["peak_memory_gb"],
    }
