"""Checkpoints of a PPO run. On a CPU a resumed run is exactly the run that never stopped.

A checkpoint is written aside, forced to the disk and renamed. A damaged one is found by its digest,
and the one before it is used. Only safetensors and JSON, nothing pickled.
"""

import contextlib
import os
import shutil
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ..errors import PPOError
from ..files import digest, read_json, write_json
from .config import PPOConfig
from .loop import KLController
from .policy import Policy

KEPT = 2  # checkpoints
MAY_CHANGE = ("run", "resume", "more", "save_every", "learning_rate", "kl_coef")


def must_match(config: PPOConfig, *known: dict) -> dict:
    """The settings of `Checkpoints`: all of these but what a resumed run may change."""
    settings = dict(vars(config))
    for others in known:
        settings |= others
    return {name: value for name, value in settings.items() if name not in MAY_CHANGE}


@dataclass
class TrainingState:
    """All that an update changes."""

    policy: Policy
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    controller: KLController

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights that learn, the optimizer's moments and the random states, by name."""
        found = {f"weight/{name}": p for name, p in self.policy.trainable().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            for name, value in moments.items():
                found[f"optimizer/{index}/{name}"] = value
        found["random/sampling"] = self.generator.get_state()
        found["random/torch"] = torch.get_rng_state()
        return found

    @torch.no_grad()
    def restore(self, tensors: dict[str, torch.Tensor], kl_coef: float) -> None:
        for name, parameter in self.policy.trainable().items():
            parameter.copy_(tensors[f"weight/{name}"])

        moments = defaultdict(dict)
        for key, value in tensors.items():
            if key.startswith("optimizer/"):
                _, index, name = key.split("/")
                moments[int(index)][name] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})

        self.generator.set_state(tensors["random/sampling"])
        torch.set_rng_state(tensors["random/torch"])
        # A fixed β is a parameter: it may have been changed to get over a failure.
        if self.controller.target:
            self.controller.value = kl_coef


class Checkpoints:
    """Saves and loads the state of a run below `folder`.

    settings: what a resumed run must share with the run that it goes on from.
    """

    def __init__(self, folder: Path, state: TrainingState, settings: dict):
        self.folder, self.state, self.settings = folder, state, settings

    def clear(self) -> int:
        """Removes an earlier run's checkpoints; returns 0, the update to begin with.

        Raises PPOError for a policy that has learned already.
        """
        if self.state.optimizer.state:
            raise PPOError(
                "The policy has learned already: run the notebook from its top, or the cell of "
                "the loop alone to go on."
            )
        shutil.rmtree(self.folder, ignore_errors=True)
        return 0

    def saved(self) -> list[Path]:
        """The folders of the checkpoints, the newest last."""
        return sorted(self.folder.glob("update-??????"))  # not those ending in .part

    @contextlib.contextmanager
    def guard(self, update: int, of: int = 0):
        """Around one update: a PPOError also names the update and the last good checkpoint.

        The numbers of the failed step go to failed.json. of: updates in all.
        An interrupt becomes one sentence, too.
        """
        try:
            yield
        except KeyboardInterrupt:
            told = f"Stopped in update {update} of {of}. Run this cell again to go on."
            raise PPOError(told) from None
        except PPOError as error:
            failed = {"update": update, "error": str(error), "metrics": error.metrics}
            write_json(self.folder / "failed.json", failed)
            good = [path.name for path in self.saved() if _description(path)]
            advice = "There is no checkpoint yet."
            if good:
                advice = f"The last good checkpoint is {good[-1]}: resume=True goes on from it."
            raise PPOError(f"Update {update}: {error} {advice}", error.metrics) from None

    def save(self, update: int) -> Path:
        """Writes the state after `update` finished updates; returns the checkpoint's folder."""
        target = self.folder / f"update-{update:06d}"

        # write aside
        aside = target.with_suffix(".part")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        save_file(self.state.tensors(), aside / "state.safetensors")
        description = {
            "update": update,
            "kl_coef": self.state.controller.value,
            "settings": self.settings,
            "sha256": digest(aside / "state.safetensors"),
        }
        write_json(aside / "state.json", description)
        _force_to_disk(*aside.iterdir(), aside)

        # rename
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
        _force_to_disk(self.folder)

        # remove what is no longer needed
        (self.folder / "failed.json").unlink(missing_ok=True)
        for old in self.saved()[:-KEPT]:
            shutil.rmtree(old)
        return target

    def load_last(self) -> int:
        """Restores the newest whole checkpoint; returns how many updates it had finished.

        Raises PPOError if there is none, or if it was made with other settings.
        """
        for folder in reversed(self.saved()):
            description = _description(folder)
            if description:
                self._check_settings(folder, description["settings"])
                self.state.restore(load_file(folder / "state.safetensors"), description["kl_coef"])
                return description["update"]
            warnings.warn(
                f"The checkpoint {folder.name} is damaged; the one before it is tried.",
                stacklevel=2,
            )
        raise PPOError(
            f"There is no checkpoint in {self.folder.name}/ to resume from: run with resume=False."
        )

    def _check_settings(self, folder: Path, made_with: dict) -> None:
        changed = [
            f"{name}={made_with.get(name)!r}, now {value!r}"
            for name, value in self.settings.items()
            if made_with.get(name) != value
        ]
        if changed:
            raise PPOError(
                f"The checkpoint {folder.name} was made with other settings "
                f"({'; '.join(changed)}): use the same ones, or resume=False."
            )


def _description(folder: Path) -> dict | None:
    """A checkpoint's state.json; None if the checkpoint is damaged."""
    try:
        description = read_json(folder / "state.json")
        whole = digest(folder / "state.safetensors") == description["sha256"]
    except (OSError, ValueError, KeyError):
        return None
    return description if whole else None


def _force_to_disk(*paths: Path) -> None:
    for path in paths:
        if path.is_file() or os.name == "posix":  # elsewhere a folder cannot be opened
            handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
            os.fsync(handle)
            os.close(handle)
