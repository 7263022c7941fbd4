"""The policy of PPO: π, the π_SFT that it is held to, and a value head, on one trunk; how it is saved and loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn

from ..errors import ModelError, SettingError
from ..fast.lora import make_lean
from ..fast.trunk import Trunk
from ..models.adapters import add_lora, layer_of, unfreeze_top
from ..reward.model import make_head


class Policy(nn.Module):
    """π, its reference π_SFT and a value head that starts at zero.

    π is either a peft model, whose adapters switched off give the reference, or a model whose top blocks learn as a whole
    (`unfreeze_top`), of which a frozen copy is kept. Not to be copied or moved to another device: the frozen copy would stay behind.
    """

    def __init__(self, model):
        super().__init__()
        self.model = model
        weight = model.get_output_embeddings().weight
        self.value_head = nn.Linear(weight.shape[1], 1, device=weight.device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self.eval()  # dropout off in every role, training too
        self.adapted = hasattr(model, "disable_adapter")
        if weight.requires_grad:
            raise SettingError(
                "The policy's head must stay frozen, as the reference shares it: give add_lora's or unfreeze_top's model."
            )
        self.reference = (
            model.disable_adapter if self.adapted else Trunk(model).frozen_copy()
        )  # a context manager that turns π into π_SFT

    def trainable(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def start_values(self, value_init: str, reward_model: Callable[[], Path]) -> None:
        """The value head starts as "zero", or as the head of the saved "reward_model", in points of its normalised reward.

        That head was trained on the states of the reward model's own top blocks and reads π's now, so it starts as a rough guess.
        Raises SettingError for another value_init, and where the head does not read one state of the policy's size.
        """
        if value_init not in ("zero", "reward_model"):
            raise SettingError(f"value_init={value_init!r} must be 'zero' or 'reward_model'.")
        if value_init == "zero":
            return
        directory = Path(reward_model())
        settings = json.loads((directory / "reward_config.json").read_text())
        size, head = (
            self.model.config.hidden_size,
            make_head(self.model.config.hidden_size, settings["head"], 0.0),
        )
        saved = {
            name[2:]: tensor
            for name, tensor in load_file(directory / "head.safetensors").items()
            if name.startswith("0.")
        }  # the first of an ensemble
        more = any(settings.get(name) for name in ("read_prompt", "read_middle", "read_length"))
        if more or any(saved[name].shape != t.shape for name, t in head.state_dict().items()):
            raise SettingError(
                f"value_init='reward_model' needs a reward head that reads one state of {size} numbers, but this one reads other "
                "places or sizes: run 03_reward_model with read_prompt, read_middle and read_length False, or give value_init='zero'."
            )
        head.load_state_dict(saved)
        last = head if isinstance(head, nn.Linear) else head[-1]
        bias = torch.zeros(1) if last.bias is None else last.bias.detach()
        last.bias = nn.Parameter((bias - settings["mean"]) / settings["std"])
        last.weight.data /= settings["std"]
        self.value_head = head.to(self.value_head.weight.device).eval()

    def save(self, directory: Path) -> None:
        """What was learned, without the value head: peft's adapter, or the top blocks as top.safetensors."""
        shutil.rmtree(directory, ignore_errors=True)
        if self.adapted:
            self.model.save_pretrained(directory)
        else:
            Path(directory).mkdir(parents=True)
            learned = {
                name: p.detach().cpu().contiguous()
                for name, p in self.model.named_parameters()
                if p.requires_grad
            }
            save_file(learned, Path(directory) / "top.safetensors")


def make_policy(model, lora_r: int, num_trainable_layers: int = 0) -> Policy:
    """The policy with adapters of rank `lora_r` on the top layers of π_SFT, or with whole top layers that learn where it is 0.

    What learns is float32. The frozen weights beside adapters stay as they are: in float32 an update would take 40% longer.
    """
    if lora_r:
        return Policy(add_lora(model, lora_r, num_trainable_layers))
    return Policy(unfreeze_top(model, num_trainable_layers))


def load_policy(model, directory: Path) -> Policy:
    """What `Policy.save` wrote, on the π_SFT that it was learned from; its value head is a fresh one. Raises ModelError."""
    directory = Path(directory)
    if (directory / "adapter_config.json").is_file():
        return Policy(make_lean(PeftModel.from_pretrained(model, directory)))
    if not (directory / "top.safetensors").is_file():
        raise ModelError(
            f"{directory.name}/ holds neither an adapter nor top.safetensors: run 04_ppo again."
        )
    learned = load_file(directory / "top.safetensors")
    lowest = min(layer for name in learned if (layer := layer_of(name)) >= 0)
    policy = Policy(unfreeze_top(model, model.config.num_hidden_layers - lowest))
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    if names != set(learned):
        raise ModelError(
            f"The top blocks in {directory.name}/ are not those of this model: load the π_SFT that they were learned from."
        )
    model.load_state_dict(learned, strict=False)
    return policy
