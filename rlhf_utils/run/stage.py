"""A stage's place in the run directory: its parameters, its inputs, and the manifest it leaves."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from ..errors import RunError
from ..files import digest, write_json
from .cores import leave_cores, share_cores
from .lock import RunLock, make_folder, share_lock
from .manifest import (
    check_output,
    check_results,
    notebook_to_run,
    outputs_of,
    read_manifest,
    seal,
)
from .parameters import check_parameters, fill_settings
from .paths import notebook_path, run_dir

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


def calm_interrupts() -> None:
    """From now on a cell that is interrupted ends in one sentence, whatever it does."""
    from IPython import get_ipython

    def tell(shell, kind, error, traceback, tb_offset=None) -> None:
        told = "Stopped. Run this cell again, or the notebook from its top."
        shell._showtraceback(kind, kind(told), [told])

    if shell := get_ipython():
        shell.set_custom_exc((KeyboardInterrupt,), tell)


def peak_memory_gb() -> float:
    """The most memory that this process, or its GPU if that is more, has held, in GB."""
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    try:
        import resource
    except ImportError:  # Windows does not tell
        return peak / 1e9
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
        self.dir, self.lock = self.run / name, None
        self._refuse_holder()
        make_folder(self.dir)
        self.inputs: dict[str, str] = {}
        self._digests: dict[str, str] = {}
        self.data: dict[str, str] = {}
        self.filled: dict = {}
        self.lineage: dict = {}  # the run and the update that this one is a branch of
        quiet_libraries()
        calm_interrupts()
        share_cores()

    def _refuse_holder(self) -> None:
        if holder := RunLock.holder(self.run):
            raise RunError(
                f"Run {self.run.name!r} is being made by {holder}: "
                "wait until it is done, or set another `run`."
            )

    def settings(self, kind: type):
        """The dataclass `kind`, filled from the notebook's parameters and from `more`."""
        settings = fill_settings(kind, self.parameters)
        self.filled = dataclasses.asdict(settings)
        return settings

    def needs(self, relative: str) -> Path:
        """The path of another stage's output.

        Raises RunError naming the notebook to run if the output is missing, unfinished, changed
        since it was written, or made from something that has changed since.
        """
        path, maker = self.run / relative, self.run / relative.split("/")[0]
        if not path.exists() or not (maker / "manifest.json").is_file():
            state = "unfinished" if path.exists() else "missing"
            advice = notebook_to_run(maker, again=False)
            raise RunError(f"{relative} is {state} in run {self.run.name!r}: {advice} first.")
        manifest = read_manifest(maker, "inputs")
        self.inputs[relative] = self._digest(relative)
        check_output(path, self.run, self.inputs[relative], manifest["outputs"])
        for source, seen in manifest["inputs"].items():
            if seen != self._digest(source):
                raise RunError(
                    f"{relative} was made from another {source} than the one that is now in run "
                    f"{self.run.name!r}: {notebook_to_run(maker)}."
                )
        return path

    def parameters_of(self, stage: str) -> dict:
        """The parameters that another stage of the run was made with. Raises RunError."""
        return read_manifest(self.run / stage, "parameters")["parameters"]

    def _digest(self, relative: str) -> str:
        """Of a file or folder of the run, which is read once."""
        if relative not in self._digests:
            self._digests[relative] = digest(self.run / relative)
        return self._digests[relative]

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

    @contextlib.contextmanager
    def pausable(self, done: Callable[[], str]):
        """Around work that can go on where it was: an interrupt becomes one sentence.

        done: says what is finished, such as "update 3 of 13".
        """
        try:
            yield
        except KeyboardInterrupt:
            told = f"Stopped after {done()}. Run this cell again to go on."
            raise RunError(told) from None

    def progress(self, what: str, done: int, total: int) -> None:
        """Tells `rlhf run` how far the stage is. The manifest of an earlier run of it goes.

        Until it is finished, a notebook at work by hand keeps every `rlhf run` out.
        """
        if not self.lock:
            self._refuse_holder()
            self.lock = share_lock(self.run)
        (self.dir / "manifest.json").unlink(missing_ok=True)
        write_json(self.dir / "progress.json", {"what": what, "done": done, "total": total})
        share_cores()

    def manifest(self, results: dict) -> dict:
        """What `finish` would write now: for a stage that puts it into its own outputs.

        results: by flat dotted names. Raises RunError if they say that training diverged.
        """
        check_results(results)
        manifest = {
            "stage": self.name,
            "run": self.run.name,
            "parameters": self.parameters,
            "settings": self.filled,
            "seed": self.parameters.get("seed"),
            "inputs": self.inputs,
            "outputs": outputs_of(self.dir),
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
        if self.lineage:
            manifest["branched_from"] = self.lineage
        return manifest | {"sha256": seal(manifest)}

    def finish(self, results: dict, manifest: dict | None = None) -> dict:
        """Writes the manifest, which says that the stage is finished: last. Returns it."""
        manifest = manifest or self.manifest(results)
        write_json(self.dir / "manifest.json", manifest)
        (self.dir / "progress.json").unlink(missing_ok=True)
        if self.lock:
            self.lock = self.lock.close()
        leave_cores()
        return manifest
