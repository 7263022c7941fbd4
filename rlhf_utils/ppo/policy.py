"""The policy of PPO: π, its reference and a value head on one model; saved and loaded."""

import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..errors import ModelError, SettingError
from ..files import read_json, write_json
from ..models.adapters import add_lora, layer_of, load_lora, reference_of, unfreeze_top
from ..models.export import save_merged
from ..models.kinds import text_config
from ..models.load import chat_prompt, load_model


class Policy(nn.Module):
    """π, its reference π_SFT and a value head that starts at zero.

    model: one with adapters (`add_lora`), or one whose top blocks learn as a whole
    (`unfreeze_top`). It is π_SFT now, and within `with policy.reference():` it still is later.
    Do not copy a policy or move it to another device: the reference would stay behind.

    Raises SettingError for a model whose head learns.
    """

    def __init__(self, model):
        super().__init__()
        self.model = model
        weight = model.get_output_embeddings().weight
        if weight.requires_grad:
            raise SettingError(
                "The policy's head must stay frozen, because the reference shares it: "
                "give a model from add_lora or unfreeze_top."
            )
        self.reference = reference_of(model)
        self.value_head = nn.Linear(weight.shape[1], 1, device=weight.device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self.eval()  # no dropout in any role, training included

    def trainable(self) -> dict[str, nn.Parameter]:
        return trainable(self)

    def save(self, directory: Path) -> None:
        """What was learned, without the value head: peft's adapter, or top.safetensors."""
        shutil.rmtree(directory, ignore_errors=True)
        if hasattr(self.model, "disable_adapter"):
            self.model.save_pretrained(directory)
            _name_base_from(directory)
            return
        directory.mkdir(parents=True)
        save_file(trainable(self.model), directory / "top.safetensors")


def _name_base_from(directory: Path) -> None:
    """Names a base of the same run by its place beside the adapter: a run may be moved."""
    config = read_json(directory / "adapter_config.json")
    base, run = str(config.get("base_model_name_or_path") or ""), directory.resolve().parent.parent
    if base and Path(base).resolve().is_relative_to(run):
        base = os.path.relpath(Path(base).resolve(), directory.resolve())
        write_json(directory / "adapter_config.json", config | {"base_model_name_or_path": base})


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def make_policy(model, lora_r: int, num_trainable_layers: int) -> Policy:
    """A policy that starts as `model`, which is π_SFT. What learns is float32.

    lora_r: rank of the adapters; 0: the top layers learn as a whole.
    num_trainable_layers: how many top layers learn; 0: all.
    """
    if lora_r:
        return Policy(add_lora(model, lora_r, num_trainable_layers))
    return Policy(unfreeze_top(model, num_trainable_layers))


def load_policy(model, directory: Path) -> Policy:
    """What `Policy.save` wrote, with a fresh value head.

    model: the π_SFT that it was learned from. Raises ModelError for a folder that holds no
    policy, or that of another model.
    """
    if (directory / "adapter_config.json").is_file():
        return Policy(load_lora(model, directory))
    if not (directory / "top.safetensors").is_file():
        raise ModelError(
            f"{directory.name}/ holds neither an adapter nor top.safetensors: run 04_ppo again."
        )
    learned = load_file(directory / "top.safetensors")
    lowest = min(layer for name in learned if (layer := layer_of(name)) >= 0)
    policy = Policy(unfreeze_top(model, text_config(model.config).num_hidden_layers - lowest))
    if trainable(model).keys() != learned.keys():
        raise ModelError(
            f"The top blocks in {directory.name}/ are not those of this model: "
            "load the π_SFT that they were learned from."
        )
    model.load_state_dict(learned, strict=False)
    return policy


@torch.no_grad()
def save_and_check(policy: Policy, tokenizer, start: str, folder: Path, prompt: str) -> float:
    """Writes policy/ and policy-merged/ into the folder; returns the largest change of a logit.

    start: the folder of π_SFT. Both are loaded again in float32 and asked the prompt. Raises
    ModelError if the merged model is another one.
    """
    policy.save(folder / "policy")
    device = policy.value_head.weight.device
    asked = chat_prompt(tokenizer, prompt)
    ids = tokenizer(asked, add_special_tokens=False, return_tensors="pt").to(device)

    saved = load_policy(load_model(start, torch.float32, device), folder / "policy").model
    expected = saved(**ids).logits
    save_merged(saved, tokenizer, folder / "policy-merged")
    del saved  # frees its memory for the other
    merged = load_model(str(folder / "policy-merged"), torch.float32, device)
    difference = float((merged(**ids).logits - expected).abs().max())
    if not difference < 1e-2:
        raise ModelError(
            f"The merged model is not the trained policy: a logit differs by {difference:.1e}."
        )
    return difference
