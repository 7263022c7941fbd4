"""What learns of a model: LoRA settings and adapters, or whole top blocks; and π_SFT beside it."""

import contextlib
import re
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..errors import SettingError
from ..fast import speed_up
from ..interrupts import deferred
from .kinds import text_config

OTHER_SENSES = re.compile("vision|visual|audio|image|multi_modal")  # in names of modules


def add_lora(model, r: int, num_trainable_layers: int = 0):
    """The model with LoRA adapters on all linear layers of its top blocks (0: of all blocks).

    LoRA: Hu 2021, arXiv 2106.09685. Blocks below the lowest adapter get no gradient, so backward
    passes stop there. Raises SettingError.
    """
    return speed_up(get_peft_model(model, lora_config(model, r, num_trainable_layers)))


def load_lora(model, directory):
    """The model with the adapters that peft saved in `directory`."""
    return speed_up(PeftModel.from_pretrained(model, directory))


def drop_adapters(model) -> None:
    """Takes adapters out of a model that got them as they are in it, as `add_lora` does."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            model.set_submodule(name, module.get_base_layer())
    vars(model).pop("peft_config", None)


def lora_config(model, r: int, num_trainable_layers: int = 0) -> LoraConfig:
    """peft's settings of these adapters."""
    if r < 1:
        raise SettingError(
            f"lora_r={r}: adapters need a rank of at least 1; only 04_ppo can do without them."
        )
    lowest = lowest_layer(model, num_trainable_layers)
    targets = {
        name: module
        for name, module in model.named_modules()
        if _is_linear(module) and layer_of(name) >= lowest
    }
    turned = any(isinstance(module, Conv1D) for module in targets.values())  # GPT-2's weights
    return LoraConfig(r=r, lora_alpha=2 * r, target_modules=list(targets), fan_in_fan_out=turned)


def _is_linear(module: nn.Module) -> bool:
    """Falcon's own kind is one, too; a router of experts that inherits from nn.Linear is none."""
    kind = type(module).__name__
    return isinstance(module, (nn.Linear, Conv1D)) and kind.endswith(("Linear", "Conv1D"))


def unfreeze_top(model, num_trainable_layers: int = 0):
    """The model with its top blocks (0: all of them) and the norm after them trainable.

    Embeddings and head stay frozen. What learns is float32, because an optimizer's small steps
    would be lost in bfloat16. Raises SettingError.
    """
    lowest = lowest_layer(model, num_trainable_layers)
    model.requires_grad_(False)
    for name, module in model.named_modules():
        is_norm = "Norm" in type(module).__name__ and "embed" not in name  # Bloom norms embeddings
        last_norm = layer_of(name) < 0 and is_norm and not OTHER_SENSES.search(name)
        if layer_of(name) < lowest and not last_norm:
            continue
        for parameter in module.parameters(recurse=False):
            # Contiguous, as moments from a checkpoint are: a fused optimizer wants one layout.
            parameter.data = parameter.data.float().contiguous()
            parameter.requires_grad = True
    if model.get_input_embeddings().weight.dtype != torch.float32:
        # the first module with a number is the block itself
        block = next(module for name, module in model.named_modules() if layer_of(name) == lowest)
        block.register_forward_pre_hook(_states_to_float32)
    return model


def _states_to_float32(block, args):
    states, *others = args
    return states.float(), *others


def reference_of(model) -> Callable[[], AbstractContextManager]:
    """A function that gives a context manager in which the model is the reference π_SFT.

    Adapters are switched off. Whole blocks are exchanged for a copy that is made now. No interrupt
    leaves them half exchanged.
    """
    if isinstance(model, PeftModel):
        adapters = model.base_model
        return lambda: _exchanged(adapters.disable_adapter_layers, adapters.enable_adapter_layers)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    frozen = [parameter.detach().clone() for parameter in learned]

    def reference():
        current = [parameter.data for parameter in learned]
        return _exchanged(
            lambda: _set_values(learned, frozen), lambda: _set_values(learned, current)
        )

    return reference


@contextlib.contextmanager
def _exchanged(there: Callable[[], None], back: Callable[[], None]):
    try:
        with deferred():
            there()
        yield
    finally:
        with deferred():
            back()


def _set_values(parameters: list[torch.nn.Parameter], values: list[torch.Tensor]) -> None:
    for parameter, value in zip(parameters, values):
        parameter.data = value
    torch.clear_autocast_cache()  # holds casts of the values from before


def lowest_layer(model, num_trainable_layers: int) -> int:
    """The number of the lowest block that learns. Raises SettingError for a number below 0."""
    total = text_config(model.config).num_hidden_layers
    if num_trainable_layers < 0:
        raise SettingError(
            f"num_trainable_layers={num_trainable_layers} must be 0 (all layers) or more."
        )
    if num_trainable_layers > total:  # the default is made for a model of 30 layers
        print(f"num_trainable_layers={num_trainable_layers}: the model has {total}, and all learn.")
    return max(total - (num_trainable_layers or total), 0)


def layer_of(name: str) -> int:
    """The block that a module or parameter of this name is in; −1 for embeddings, head and norm.

    Blocks that read pictures or sound are none.
    """
    if OTHER_SENSES.search(name):
        return -1
    number = re.search(r"\.(\d+)(\.|$)", name)
    return int(number[1]) if number else -1
