"""TODO: purpose."""

import re

import torch
from peft import LoraConfig, get_peft_model

from ..errors import ModelError, SettingError
from ..fast.lora import make_lean
from ..fast.trunk import Trunk


def add_lora(model, r: int, num_trainable_layers: int = 0, dropout: float = 0.0):
    """The model with LoRA adapters (Hu 2021, arXiv 2106.09685) on all linear layers of its top blocks (0: of all blocks).

    Blocks below the lowest adapter get no gradient, so backward passes stop there.
    """
    return make_lean(get_peft_model(model, lora_config(model, r, num_trainable_layers, dropout)))


def unfreeze_top(model, num_trainable_layers: int = 0):
    """The model with its top blocks (0: all of them) and the norm after them trainable; embeddings and head stay frozen.

    What learns is float32, whatever the blocks below are kept in: an optimizer's small steps would be lost in bfloat16. (A trunk multiplies
    in bfloat16 all the same where the blocks below are.) A model that the trunk cannot split stays frozen.
    """
    model.requires_grad_(False)
    trunk = Trunk(model)
    if trunk.splits:
        top = [*trunk.blocks[lowest_layer(model, num_trainable_layers) :], trunk.norm]
        for p in (p for module in top for p in module.parameters()):
            # Row by row, as moments from a checkpoint are: a fused optimizer takes all to be laid out alike.
            p.data, p.requires_grad = p.data.float().contiguous(), True
        if next(trunk.model.parameters()).dtype != torch.float32:
            top[0].register_forward_pre_hook(
                lambda _, args: (args[0].float(), *args[1:])
            )  # these families give the states first
    return model


def lowest_layer(model, num_trainable_layers: int) -> int:
    """The number of the lowest block that learns. Raises ModelError."""
    total = model.config.num_hidden_layers
    if not 0 <= num_trainable_layers <= total:
        raise ModelError(
            f"num_trainable_layers={num_trainable_layers}, but the model has {total} layers: give 0 (all) to {total}."
        )
    return total - (num_trainable_layers or total)


def lora_config(model, r: int, num_trainable_layers: int = 0, dropout: float = 0.0):
    """peft's settings of these adapters, with the usual lora_alpha of twice the rank. Raises SettingError, ModelError."""
    if r < 1:
        raise SettingError(
            f"lora_r={r}: adapters need a rank of at least 1; only 04_ppo can do without them."
        )
    lowest = lowest_layer(model, num_trainable_layers)
    targets = [
        name
        for name, module in model.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D") and layer_of(name) >= lowest
    ]
    return LoraConfig(r=r, lora_alpha=2 * r, lora_dropout=dropout, target_modules=targets)


def layer_of(module_name: str) -> int:
    """The block a module belongs to, -1 outside the blocks (embeddings, head)."""
    number = re.search(r"\.(\d+)\.", module_name)
    return int(number[1]) if number else -1
