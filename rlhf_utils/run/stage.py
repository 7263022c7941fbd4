"""A stage's place in the run directory: its parameters, its inputs, and the manifest it leaves.

outputs/<run>/<stage>/manifest.json    parameters, seed, digests of inputs, versions, device,
                                       wall time, peak memory
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import sys
import time
import warnings
from pathlib import Path

import torch

from ..errors import RunError
from ..files import digest, read_json, write_json
from .parameters import check_parameters, fill_settings
from .paths import STAGES, notebook_path, run_dir

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "plotly", "papermill")


def seed_everything(seed: int) -> torch.Generator:
    """Seeds torch, numpy and random; returns a generator for sampling, on a GPU if there is one."""
    from transformers import set_seed

    set_seed(seed % 2**32)
    return torch.Generator("cuda" if torch.cuda.is_available() else "cpu").manual_seed(seed)


def quiet_libraries() -> None:
    """Turns off the libraries' progress bars and notices, which would bury the story."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def peak_memory_gb() -> float:
    """The most memory that this process, or its GPU if that is more, has held, in GB."""
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    try:
        import resource
    except ImportError:  # Windows does not tell
        return peak / 1e9 or float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return max(peak, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit) / 1e9


class Stage:
    """One notebook's place in a run: checks what it starts from, and writes what it made.

    namespace: the notebook's globals(), whose parameters get their declared types.
    """

    def __init__(self, name: str, namespace: dict):
        self.name, self.started = name, time.time()
        self.parameters = check_parameters(notebook_path(name), namespace)
        self.run = run_dir(self.parameters.get("run"))
        self.dir = self.run / name
        self.dir.mkdir(parents=True, exist_ok=True)
        self.inputs: dict[str, str] = {}
        self.data: dict[str, str] = {}
        self.filled: dict = {}
        quiet_libraries()

    def settings(self, kind: type):
        """The dataclass `kind`, filled from the notebook's parameters and from `more`."""
        settings = fill_settings(kind, self.parameters)
        self.filled = dataclasses.asdict(settings)
        return settings

    def needs(self, relative: str) -> Path:
        """The path of another stage's output.

        Raises RunError naming the notebook to run if the output is missing, unfinished, or made
        from something that has changed since.
        """
        path, maker = self.run / relative, relative.split("/")[0]
        manifest = self.run / maker / "manifest.json"
        advice = f"run notebook {STAGES[maker][0]} with run={self.run.name!r}"
        if not path.exists() or not manifest.is_file():
            state = "unfinished" if path.exists() else "missing"
            raise RunError(f"{relative} is {state} in run {self.run.name!r}: {advice} first.")
        self.inputs[relative] = digest(path)
        for source, seen in read_json(manifest)["inputs"].items():
            if seen != (self.inputs.get(source) or digest(self.run / source)):
                raise RunError(
                    f"{relative} was made from another {source} than the one that is now in run "
                    f"{self.run.name!r}: {advice} again."
                )
        return path

    def note_data(self, kind: str, rows: list) -> list:
        """Keeps a digest of the rows, dataclasses or dicts, for the manifest; returns them."""
        text = json.dumps(
            rows, default=lambda r: vars(r) if dataclasses.is_dataclass(r) else str(r)
        )
        self.data[kind] = hashlib.sha256(text.encode()).hexdigest()
        return rows

    def track(self, iterable, description: str):
        """The items, with a progress bar here and in `rlhf run`.

        The bar is text and goes at the end: a saved notebook shows a bar of widgets as an error.
        """
        from IPython.display import clear_output
        from tqdm import tqdm

        total = len(iterable)
        bar = tqdm(iterable, description, total, file=sys.stdout, mininterval=1.0)
        for done, item in enumerate(bar):
            self.progress(description, done, total)
            yield item
        clear_output()

    def progress(self, what: str, done: int, total: int) -> None:
        """Tells `rlhf run` how far the stage is. The manifest of an earlier run of it goes."""
        (self.dir / "manifest.json").unlink(missing_ok=True)
        write_json(self.dir / "progress.json", {"what": what, "done": done, "total": total})

    def finish(self, results: dict) -> dict:
        """Writes the manifest with the stage's results (flat dotted keys) and returns it."""
        manifest = {
            "stage": self.name,
            "run": self.run.name,
            "parameters": self.parameters,
            "settings": self.filled,
            "seed": self.parameters.get("seed"),
            "inputs": self.inputs,
            "data": self.data,
            "results": results,
            "wall_s": round(time.time() - self.started, 1),
            "peak_memory_gb": round(peak_memory_gb(), 2),
            "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        write_json(self.dir / "manifest.json", manifest)
        (self.dir / "progress.json").unlink(missing_ok=True)
        return manifest


def collect_results(run: Path) -> dict:
    """The results of all finished stages, and their time.<stage>_s and memory.<stage>_peak_gb."""
    results = {}
    for stage in STAGES:
        path = run / stage / "manifest.json"
        if path.is_file():
            manifest = read_json(path)
            results |= manifest["results"]
            results[f"time.{stage}_s"] = manifest["wall_s"]
            results[f"memory.{stage}_peak_gb"] = manifest["peak_memory_gb"]
    return results
