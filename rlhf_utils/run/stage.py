"""The run directory: where stages read and write, what a notebook's parameters may be, and the manifest each stage leaves.

    outputs/<run>/<stage>/manifest.json    parameters, seed, digests of inputs, versions, device, wall time, peak memory

Left out: sweeps and the comparison of runs.
"""

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import sys
import time
import warnings
from decimal import Decimal
from pathlib import Path

import torch

from ..data.rows import load_rows
from ..errors import RunError
from ..files import digest, read_json, write_json

STAGES = {  # stage → (notebook, minutes of the demo on 2 CPU cores, from which the first estimate of the time left is made)
    "sft": ("01_sft", 5.8),
    "preferences": ("02_preferences", 2.7),
    "reward_model": ("03_reward_model", 2.6),
    "ppo": ("04_ppo", 4.3),
    "evaluation": ("05_evaluation", 1.0),
}


PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "plotly", "papermill")


TYPES = {"str": str, "int": int, "float": float, "bool": bool}


ABOVE_ZERO = {
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "batch_size",
    "prompts_per_step",
    "save_every",
    "responses_per_prompt",
    "response_length",
    "max_length",
    "learning_rate",
    "temperature",
}


def project_root() -> Path:
    """The folder with notebooks/ and rlhf_utils/, looked for upwards from the working directory, else beside this package."""
    here = Path.cwd()
    beside = Path(__file__).resolve().parents[2]
    for folder in (here, *here.parents, beside):
        if (folder / "notebooks" / "01_sft.ipynb").is_file() and (folder / "rlhf_utils").is_dir():
            return folder
    return here


def run_dir(name: str) -> Path:
    """outputs/<name>. Raises RunError for a name that is no plain folder name, so that no run leaves outputs/."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise RunError(
            f"run={name!r} is no run name: use 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit."
        )
    return Path(os.environ.get("RLHF_OUTPUTS") or project_root() / "outputs") / name


def convert(name: str, value, kind: str):
    """The value as a declared type, where nothing is lost: "1e-4" is a float, "true" a bool, 3 a float. Raises RunError."""
    wanted = TYPES[kind]
    if type(value) is wanted and (wanted is not float or math.isfinite(value)):
        return value
    if wanted is bool and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    if (
        wanted in (int, float)
        and isinstance(value, (str, int, float))
        and not isinstance(value, bool)
    ):
        try:
            if wanted is float and math.isfinite(float(value)):
                return float(value)
            if wanted is int and (exact := Decimal(str(value))) == exact.to_integral_value():
                return int(exact)
        except (ValueError, ArithmeticError):
            pass
    raise RunError(
        f"Parameter {name}={value!r} should be of type {kind}, but is {type(value).__name__}."
    )


def check_parameters(namespace: dict) -> dict:
    """The notebook's parameters, converted to their annotated types, in the namespace too.

    Raises RunError for a value of the wrong type or out of range, and for a name that papermill injected but that no parameter has (papermill
    itself only warns). Annotations declare what is a parameter: only names annotated in the parameters cell count.
    """
    cells = namespace.get("In") or []
    declared = next((c for c in reversed(cells) if re.search(r"^run: str = ", c, re.MULTILINE)), "")
    kinds = dict(re.findall(rf"^(\w+)\s*:\s*({'|'.join(TYPES)})\b", declared, re.MULTILINE))
    if not kinds:  # a kernel without history, as nbval's: the namespace's own annotations
        kinds = {
            name: kind.__name__
            for name, kind in namespace.get("__annotations__", {}).items()
            if kind in TYPES.values()
        }
    notebooks = sorted((project_root() / "notebooks").glob("0*.ipynb"))
    injected = "\n".join(c for c in cells if c.startswith("# Parameters\n"))
    for name in re.findall(r"^(\w+) = ", injected, re.MULTILINE):
        if name not in kinds and not any(
            f'"{name}: ' in path.read_text() for path in notebooks
        ):  # a profile serves all notebooks
            raise RunError(
                f"There is no parameter {name!r} in this notebook; it has {', '.join(sorted(kinds))}."
            )
    values = {name: convert(name, namespace[name], kind) for name, kind in kinds.items()}
    for name, value in values.items():
        if isinstance(value, (int, float)) and (value < 0 or (value == 0 and name in ABOVE_ZERO)):
            raise RunError(
                f"Parameter {name}={value} must {'be above 0' if name in ABOVE_ZERO else 'not be negative'}."
            )
    if values.get("dtype", "auto") not in ("auto", "float32", "bfloat16"):
        raise RunError(
            f"Parameter dtype={values['dtype']!r} must be 'auto', 'float32' or 'bfloat16'."
        )
    namespace.update(values)
    return values


def peak_memory_gb() -> float:
    """The most memory this process has held, in GB; of the GPU, if that was more. NaN where the system does not tell."""
    try:
        import resource

        peak = (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            * (1 if sys.platform == "darwin" else 1024)
            / 1e9
        )
    except ImportError:
        peak = float("nan")
    return max(peak, torch.cuda.max_memory_allocated() / 1e9) if torch.cuda.is_available() else peak


def seed_everything(seed: int) -> torch.Generator:
    """Seeds torch, numpy and random, and returns a generator of its own for sampling, on the GPU where there is one."""
    from transformers import set_seed

    set_seed(seed % 2**32)
    return torch.Generator("cuda" if torch.cuda.is_available() else "cpu").manual_seed(seed)


def quiet_libraries() -> None:
    """Turns off the libraries' own progress bars and notices of renamed options, which would bury the story."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


class Stage:
    """One notebook's place in a run: checks parameters and inputs at the start, writes the manifest at the end."""

    def __init__(self, name: str, namespace: dict):
        self.name, self.started = name, time.time()
        self.parameters = check_parameters(namespace)
        self.run = run_dir(self.parameters["run"])
        self.dir = self.run / name
        self.dir.mkdir(parents=True, exist_ok=True)
        self.inputs: dict[str, str] = {}
        self.data: dict[str, str] = {}
        quiet_libraries()

    def needs(self, relative: str) -> Path:
        """The path of another stage's output.

        Raises RunError naming the notebook to run where it is missing, unfinished, or made from something that has changed since.
        """
        path, maker = self.run / relative, relative.split("/")[0]
        notebook = f"run notebook {STAGES[maker][0]} with run={self.run.name!r}"
        if not path.exists() or not (self.run / maker / "manifest.json").is_file():
            raise RunError(
                f"{relative} is {'unfinished' if path.exists() else 'missing'} in run {self.run.name!r}: {notebook} first."
            )
        self.inputs[relative] = digest(path)
        for source, seen in read_json(self.run / maker / "manifest.json")["inputs"].items():
            now = self.inputs.get(source) or (
                (self.run / source).exists() and digest(self.run / source)
            )
            if seen != now:
                raise RunError(
                    f"{relative} was made from another {source} than the one that is now in run {self.run.name!r}: {notebook} again."
                )
        return path

    def rows(self, source: str, kind: str) -> list[dict]:
        """`data.load_rows`, with the digest of what came kept for the manifest."""
        rows = load_rows(source, kind)
        self.data[kind] = hashlib.sha256(json.dumps(rows, default=str).encode()).hexdigest()
        return rows

    def track(self, iterable, description: str):
        """The items, with a progress bar, and with a small file that `rlhf run` reads to say how far the stage is."""
        from tqdm.auto import tqdm

        total = len(iterable)
        for done, item in enumerate(tqdm(iterable, total=total, desc=description)):
            self.progress(description, done, total)
            yield item

    def progress(self, what: str, done: int, total: int) -> None:
        """Leaves word for `rlhf run` on how far the stage is. From the first word on, what an earlier run of the stage left is stale."""
        (self.dir / "manifest.json").unlink(missing_ok=True)
        write_json(self.dir / "progress.json", {"what": what, "done": done, "total": total})

    def finish(self, results: dict) -> dict:
        """Writes the manifest with the stage's results (flat dotted keys) and returns it."""
        manifest = {
            "stage": self.name,
            "run": self.run.name,
            "parameters": self.parameters,
            "seed": self.parameters.get("seed"),
            "inputs": self.inputs,
            "data": self.data,
            "results": results,
            "wall_s": round(time.time() - self.started, 1),
            "peak_memory_gb": round(peak_memory_gb(), 2),
            "versions": {p: importlib.metadata.version(p) for p in PACKAGES},
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        write_json(self.dir / "manifest.json", manifest)
        (self.dir / "progress.json").unlink(missing_ok=True)
        return manifest


def collect_results(run: Path) -> dict:
    """The flat dotted results of all finished stages of a run, with time.<stage>_s and memory.<stage>_peak_gb."""
    results = {}
    for stage in STAGES:
        path = run / stage / "manifest.json"
        if path.is_file():
            manifest = read_json(path)
            results |= manifest["results"]
            results |= {
                f"time.{stage}_s": manifest["wall_s"],
                f"memory.{stage}_peak_gb": manifest["peak_memory_gb"],
            }
    return results
