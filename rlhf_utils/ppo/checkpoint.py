"""Checkpoints of a PPO run: weights, optimizer, random states, β and the update to go on with. Resuming on a CPU is exact.

A checkpoint is written aside, forced to the disk and renamed, so that a folder of its name is whole; one that is not all the same
(a disk that lies, a copy cut short) is found by its digest, and the one before it used. Only safetensors and JSON, nothing pickled.
"""

import contextlib
import os
import shutil
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ..errors import PPOError
from ..files import digest, read_json, write_json
from .loop import KLController
from .policy import Policy


def _force_to_disk(*paths: Path) -> None:
    for path in paths:
        if path.is_file() or os.name == "posix":  # elsewhere a folder cannot be opened
            handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
            os.fsync(handle)
            os.close(handle)


class Checkpoints:
    """Saves and loads the state of a run below `folder`, keeping the last `keep` and the best; `settings` are what a resumed run must share."""

    def __init__(
        self,
        folder: Path,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        controller: KLController,
        settings: dict,
        keep: int = 2,
    ):
        self.folder, self.policy, self.optimizer, self.generator = (
            Path(folder),
            policy,
            optimizer,
            generator,
        )
        self.controller, self.settings, self.keep = controller, settings, keep

    def clear(self) -> int:
        """Removes what an earlier run left, so that a later resume cannot take it for this one's; returns 0, the update to begin with."""
        shutil.rmtree(self.folder, ignore_errors=True)
        return 0

    def saved(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("update-*") if p.suffix != ".part")

    def best(self) -> Path | None:
        """The checkpoint saved with the highest score, if there is one with a score."""
        scores = {path: (self.state(path) or {}).get("score") for path in self.saved()}
        return max(
            (path for path in scores if scores[path] is not None), key=scores.get, default=None
        )

    def state(self, folder: Path) -> dict | None:
        """What a checkpoint says of itself; None for one that is not whole."""
        try:
            state = read_json(folder / "state.json")
            return state if digest(folder / "state.safetensors") == state["sha256"] else None
        except (OSError, ValueError, KeyError):
            return None

    @contextlib.contextmanager
    def guard(self, update: int):
        """Around one update: a PPOError also says which update it was and what is left, and its numbers go to failed.json."""
        try:
            yield
        except PPOError as error:
            good = next((path.name for path in reversed(self.saved()) if self.state(path)), None)
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(
                self.folder / "failed.json",
                {"update": update, "error": str(error), "metrics": error.metrics},
            )
            left = (
                f"The last good checkpoint is {good}: resume=True goes on from it."
                if good
                else "There is no checkpoint yet."
            )
            raise PPOError(f"Update {update}: {error} {left}", error.metrics) from None

    def save(self, update: int, score: float | None = None) -> Path:
        """Writes the state after `update` finished updates, and removes all but the last `keep` and the one of the highest `score`.

        score: how good the policy is; in 04 the mean reward, penalty included, of the batch that this update learned from.
        """
        target = self.folder / f"update-{update:06d}"
        aside = target.with_suffix(".part")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        tensors = {
            f"weight/{name}": p.detach().cpu().contiguous()
            for name, p in self.policy.trainable().items()
        }
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer/{index}/{name}": value.cpu().contiguous()
                for name, value in moments.items()
            }
        tensors["random/sampling"], tensors["random/torch"] = (
            self.generator.get_state(),
            torch.get_rng_state(),
        )
        save_file(tensors, aside / "state.safetensors")
        state = {
            "update": update,
            "kl_coef": self.controller.value,
            "settings": self.settings,
            "score": score,
            "sha256": digest(aside / "state.safetensors"),
        }
        write_json(aside / "state.json", state)
        _force_to_disk(*aside.iterdir(), aside)
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
        _force_to_disk(self.folder)
        (self.folder / "failed.json").unlink(missing_ok=True)  # it has been got over
        best = self.best()
        for old in self.saved()[: -self.keep]:
            if old != best:
                shutil.rmtree(old)
        return target

    def load_last(self) -> int:
        """Restores the newest whole checkpoint and returns how many updates it had finished. Raises PPOError where there is none, and as `load`."""
        for folder in reversed(self.saved()):
            if self.state(folder):
                return self.load(folder)
            warnings.warn(
                f"The checkpoint {folder.name} is not whole and is passed over.", stacklevel=2
            )
        raise PPOError(
            f"There is no checkpoint in {self.folder.name}/ to resume from: run with resume=False."
        )

    def load(self, folder: Path) -> int:
        """Restores a checkpoint, of `saved` or `best`, and returns how many updates it had finished.

        Raises PPOError for one that is not whole, and for one made with other settings, which it names.
        """
        if not (state := self.state(folder)):
            raise PPOError(
                f"The checkpoint {folder.name} is not whole; there are {', '.join(path.name for path in self.saved())}."
            )
        tensors = load_file(folder / "state.safetensors")
        made = state["settings"]
        other = [
            f"{name}={made.get(name)!r}, now {value!r}"
            for name, value in self.settings.items()
            if made.get(name) != value
        ]
        if other:
            raise PPOError(
                f"The checkpoint {folder.name} was made with other settings ({'; '.join(other)}): use the same, or resume=False."
            )
        with torch.no_grad():
            for name, parameter in self.policy.trainable().items():
                parameter.copy_(tensors[f"weight/{name}"])
        moments: dict[int, dict] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer/"):
                _, index, name = key.split("/")
                moments.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        self.generator.set_state(tensors["random/sampling"])
        torch.set_rng_state(tensors["random/torch"])
        if (
            self.controller.target
        ):  # a fixed β is the parameter's, which may have been changed to get over a failure
            self.controller.value = state["kl_coef"]
        return state["update"]
