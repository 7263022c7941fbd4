"""Checkpoints of a PPO run: weights, optimizer, random states, β and the update to go on with. Resuming on a CPU is exact.

A checkpoint is written aside and renamed, so that a folder of its name is whole. Only safetensors and JSON, nothing pickled.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .ppo import KLController, Policy, PPOError


class Checkpoints:
    """Saves and loads the state of a run below `folder`, keeping the last `keep`; `settings` are what a resumed run must share with it."""

    def __init__(self, folder: Path, policy: Policy, optimizer: torch.optim.Optimizer, generator: torch.Generator, controller: KLController,
                 settings: dict, keep: int = 2):
        self.folder, self.policy, self.optimizer, self.generator = Path(folder), policy, optimizer, generator
        self.controller, self.settings, self.keep = controller, settings, keep

    def clear(self) -> int:
        """Removes what an earlier run left, so that a later resume cannot take it for this one's; returns 0, the update to begin with."""
        shutil.rmtree(self.folder, ignore_errors=True)
        return 0

    def saved(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("update-*") if p.suffix != ".part")

    def save(self, update: int) -> Path:
        """Writes the state after `update` finished updates and removes checkpoints beyond the last `keep`."""
        target = self.folder / f"update-{update:06d}"
        aside = target.with_suffix(".part")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        tensors = {f"weight/{name}": p.detach().cpu().contiguous() for name, p in self.policy.trainable().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{name}": value.cpu().contiguous() for name, value in moments.items()}
        tensors["random/sampling"], tensors["random/torch"] = self.generator.get_state(), torch.get_rng_state()
        save_file(tensors, aside / "state.safetensors")
        (aside / "state.json").write_text(json.dumps({"update": update, "kl_coef": self.controller.value, "settings": self.settings}))
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
        for old in self.saved()[: -self.keep]:
            shutil.rmtree(old)
        return target

    def load_last(self) -> int:
        """Restores the newest checkpoint and returns how many updates it had finished.

        Raises PPOError where there is none, and where it was made with other settings, which it names.
        """
        if not self.saved():
            raise PPOError(f"There is no checkpoint in {self.folder.name}/ to resume from: run with resume=False.")
        folder = self.saved()[-1]
        tensors, state = load_file(folder / "state.safetensors"), json.loads((folder / "state.json").read_text())
        made = state["settings"]
        other = [f"{name}={made.get(name)!r}, now {value!r}" for name, value in self.settings.items() if made.get(name) != value]
        if other:
            raise PPOError(f"The checkpoint {folder.name} was made with other settings ({'; '.join(other)}): use the same, or resume=False.")
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
        self.controller.value = state["kl_coef"]
        return state["update"]
