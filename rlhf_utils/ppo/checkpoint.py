"""Checkpoints of a PPO run. On a CPU a resumed run is exactly the run that never stopped.

A checkpoint is written aside, forced to the disk and renamed. A damaged one is found by its digest,
and the one before it is used. Only safetensors and JSON, nothing pickled.
"""

import contextlib
import hashlib
import json
import os
import shutil
import warnings
from collections import defaultdict
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..errors import DataError, PPOError
from ..files import JsonlLog, digest, read_json, records, strict, write_json
from ..interrupts import at_stops, deferred
from .config import PPOConfig
from .loop import KLController
from .policy import Policy

KEPT = 2  # of the newest checkpoints, besides those nearest to each quarter of the run
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

    def __post_init__(self):
        self.learning = self.policy.trainable()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights that learn, the optimizer's moments and the random states, by name."""
        found = {f"weight/{name}": p for name, p in self.learning.items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            for name, value in moments.items():
                found[f"optimizer/{index}/{name}"] = value
        found["random/sampling"] = self.generator.get_state()
        found["random/torch"] = torch.get_rng_state()
        return found

    @torch.no_grad()
    def restore(self, tensors: dict[str, torch.Tensor], kl_coef: float) -> None:
        """Raises PPOError, and changes nothing, if the tensors are of other weights."""
        saved = {name: tensors.get(f"weight/{name}") for name in self.learning}
        for name, parameter in self.learning.items():
            if saved[name] is None or saved[name].shape != parameter.shape:
                raise PPOError(
                    f"The checkpoint holds another {name}, as a model or version that has changed "
                    "since writes it: run with resume=False."
                )
        for name, parameter in self.learning.items():
            parameter.copy_(saved[name])

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
        self.logs: dict[str, JsonlLog] = {}
        self.known: dict[str, list] = {}  # log → its rows at the checkpoint, and their digest
        self.branched_from: dict = {}  # the run and update that a branch began with

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
    def guard(self, update: int):
        """Around one update: if anything stops it, all is as it was before, and it can be repeated.

        An interrupt waits for the next step of the update, a second one does not. Raises PPOError,
        which names the update, for one within, and for a disk that is full or closed.
        """
        with at_stops():
            now, kl_coef = self.state.tensors(), self.state.controller.value
            before = {name: t.detach().to("cpu", copy=True) for name, t in now.items()}
            try:
                yield
            except BaseException as error:
                with deferred():
                    self.state.restore(before, kl_coef)
                    for name in ("metrics.jsonl", "answers.jsonl"):  # a row for each update
                        with contextlib.suppress(KeyError, OSError):  # no log, a full disk
                            self.logs[name].cut(update - 1)
                if isinstance(error, (OSError, SafetensorError)):
                    raise PPOError(
                        f"Update {update} cannot be written ({error}): make room on the disk, or "
                        "open its folder for writing, and run this cell again."
                    ) from None
                if not isinstance(error, PPOError):
                    raise
                good = [path.name for path in self.saved() if not damage_of(path)]
                advice = "There is no checkpoint yet."
                if good:
                    advice = f"The last good checkpoint is {good[-1]}: resume=True goes on from it."
                raise PPOError(f"Update {update}: {error} {advice}") from None

    def open_log(self, name: str, start: int) -> JsonlLog:
        """The log `name` beside the checkpoints; it begins with the rows known to that of `start`.

        Raises PPOError if they have changed since.
        """
        path = self.folder.parent / name
        rows = known_rows(path, start, *self.known[name]) if start else []
        log = self.logs[name] = JsonlLog(path, rows)
        return log

    def save(self, update: int) -> Path:
        """Writes the state after `update` finished updates; returns the checkpoint's folder."""
        target = self.folder / f"update-{update:06d}"

        aside = target.with_suffix(".part")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        save_file(self.state.tensors(), aside / "state.safetensors")
        description = {
            "update": update,
            "kl_coef": self.state.controller.value,
            "settings": self.settings,
            "logs": {n: [len(log.rows), content_digest(log.rows)] for n, log in self.logs.items()},
            "sha256": digest(aside / "state.safetensors"),
            "branched_from": self.branched_from,
        }
        write_json(aside / "state.json", sealed(description))
        _force_to_disk(*aside.iterdir(), aside)

        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
        _force_to_disk(self.folder)

        self._make_room()
        return target

    def _make_room(self) -> None:
        saved = {int(path.name[-6:]): path for path in self.saved()}
        kept = set(list(saved)[-KEPT:])
        with contextlib.suppress(KeyError):
            total = self.settings["total_episodes"] // self.settings["batch_size"]
            for quarter in (total / 4, total / 2, 3 * total / 4):
                kept.add(min(saved, key=lambda update: abs(update - quarter)))  # noqa: B023
        for update in saved.keys() - kept:
            shutil.rmtree(saved[update], ignore_errors=True)

    def load_last(self) -> int:
        """Restores the newest whole checkpoint; returns how many updates it had finished.

        Raises PPOError if there is none, or if it was made with other settings.
        """
        damage = ""
        for folder in reversed(self.saved()):
            damage = damage_of(folder)
            if not damage:
                description = read_json(folder / "state.json")
                self._check_settings(folder, description)
                self.state.restore(load_file(folder / "state.safetensors"), description["kl_coef"])
                self.known = description["logs"]
                self.branched_from = description.get("branched_from", {})
                return description["update"]
            warnings.warn(
                f"The checkpoint {folder.name} is damaged ({damage}) and is passed over.",
                stacklevel=2,
            )
        found = f"There is no checkpoint in {self.folder.name}/ to resume from"
        if damage:
            found = f"Every checkpoint in {self.folder.name}/ is damaged, the oldest in {damage}"
        raise PPOError(f"{found}: run with resume=False.")

    def _check_settings(self, folder: Path, description: dict) -> None:
        made_with, free = description["settings"], description.get("may_change", ())
        changed = [
            f"{name}={made_with.get(name)!r}, now {value!r}"
            for name, value in self.settings.items()
            if made_with.get(name) != value and name not in free
        ]
        if changed:
            raise PPOError(
                f"The checkpoint {folder.name} was made with other settings "
                f"({'; '.join(changed)}): use the same ones, or resume=False."
            )


def known_rows(path: Path, update: int, count: int, seen: str) -> list[dict]:
    """The first `count` rows of a log, whose digest is `seen`. Raises PPOError for others."""
    rows = []
    with contextlib.suppress(DataError):  # it is gone
        rows = [row for _, row in islice(records(path), count) if isinstance(row, dict)]
    if content_digest(rows) != seen:
        raise PPOError(
            f"The first {count} rows of {path.name} are not those that the checkpoint of update "
            f"{update} knows: put the file back as it was, or run with resume=False."
        )
    return rows


def sealed(description: dict) -> dict:
    """What stands in state.json, with a digest of it."""
    return description | {"sha256_of_this": content_digest(description)}


def damage_of(folder: Path) -> str:
    """The file of a checkpoint that is missing or not as it was written; "" if it is whole."""
    try:
        description = read_json(folder / "state.json")
        whole = description.pop("sha256_of_this", "") == content_digest(description)
    except (OSError, ValueError, RecursionError):
        whole = False
    if not whole:
        return "state.json"
    weights = folder / "state.safetensors"
    return "" if digest(weights) == description["sha256"] else weights.name


def content_digest(content) -> str:
    return hashlib.sha256(json.dumps(strict(content), sort_keys=True).encode()).hexdigest()


def _force_to_disk(*paths: Path) -> None:
    for path in paths:
        if path.is_file() or os.name == "posix":  # elsewhere a folder cannot be opened
            handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
            os.fsync(handle)
            os.close(handle)
