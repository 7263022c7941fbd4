"""The frozen lower blocks of a transformer, run once for all who need them.

Adapters sit in the top blocks only, so what the lower blocks make of a text never changes: policy, reference, value, every PPO
epoch and every epoch of the reward model share it (as the hydra of trlx shares its trunk; Havrilla 2023). Families that are not in
FAMILIES run whole, which is slower, gives the same numbers, and is said once. Left out: splitting models that mix kinds of attention.
"""

import contextlib
import copy
import functools
import warnings

import torch
from torch import nn

from .errors import ModelError

# model_type → its names for the blocks, for the norm after them, and for positions that are added to the embeddings (None: rotary)
FAMILIES = dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma"), ("layers", "norm", None)) | {
    "gpt_neox": ("layers", "final_layer_norm", None),
    "gpt2": ("h", "ln_f", "wpe"),
}


@functools.cache
def _say_whole(family: str, why: str) -> None:
    warnings.warn(f"This {family} model {why}, so every pass runs the whole model: the same numbers, more slowly.", stacklevel=3)


class NoPositions(nn.Module):
    """Stands in for added position embeddings where the states already hold them."""

    def forward(self, position_ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros((), device=position_ids.device)


def backbone(model) -> nn.Module:
    """The transformer without its head, below peft's wrapper if there is one."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner.base_model if inner.base_model is not None else inner


def position_ids(attention_mask: torch.Tensor) -> torch.Tensor:
    """(B, L) positions that count real tokens only, so that left padding moves nothing."""
    return (attention_mask.long().cumsum(1) - 1).clamp(min=0)


class Trunk:
    """Splits a model into a frozen lower part and an upper part that holds every trainable weight.

    upper(lower(ids, mask), mask) equals the whole model's last hidden state.
    """

    def __init__(self, model):
        self.model = backbone(model)
        family, kinds = self.model.config.model_type, set(getattr(self.model.config, "layer_types", None) or ["full_attention"])
        self.splits = family in FAMILIES and len(kinds) == 1  # masks go by a block's number from 0
        if self.splits:
            self.names = FAMILIES[family]
            # A loaded adapter asks for no gradient, but switching it off must still change nothing in the trunk.
            trained = [i for i, block in enumerate(self.blocks) if any(p.requires_grad or "lora_" in name for name, p in block.named_parameters())]
            self.cut = min(trained, default=len(self.blocks))
        else:
            self.cut = 0
            _say_whole(family, "mixes kinds of attention" if family in FAMILIES else "is of a family whose blocks the suite cannot split")

    @property
    def blocks(self) -> list[nn.Module]:
        return list(getattr(self.model, self.names[0]))

    @property
    def norm(self) -> nn.Module:
        return getattr(self.model, self.names[1])

    @torch.no_grad()
    def lower(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, L, H) states below the first trainable block; the (B, L) ids themselves for a family that runs whole."""
        return self._run(self.blocks[: self.cut], nn.Identity(), attention_mask, input_ids=input_ids) if self.splits else input_ids

    @contextlib.contextmanager
    def captured(self):
        """Yields a list that gets, at each whole pass of the model within, the (B, L, H) states that enter the first trainable block."""
        states: list[torch.Tensor] = []
        if not self.splits:
            yield states
            return
        entered = (self.blocks + [self.norm])[self.cut]
        hook = entered.register_forward_pre_hook(lambda _, args: states.append(args[0]), prepend=True)  # before a hook that changes their dtype
        try:
            yield states
        finally:
            hook.remove()

    def upper(self, states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, L, H) last hidden states from what `lower` gave."""
        if not self.splits:
            return self._forward(attention_mask, input_ids=states)
        return self._run(self.blocks[self.cut :], self.norm, attention_mask, inputs_embeds=states.to(self.norm.weight.dtype))

    def frozen_copy(self):
        """A context manager in which the blocks above the cut, and the norm after them, are copies of what they are now."""
        if not self.splits:
            raise ModelError(f"A {self.model.config.model_type} model runs whole here, so its top blocks cannot learn as a whole: give it adapters.")
        blocks, norm = copy.deepcopy(nn.ModuleList(self.blocks[self.cut :])).requires_grad_(False), copy.deepcopy(self.norm).requires_grad_(False)

        @contextlib.contextmanager
        def swapped():
            parts = {self.names[0]: nn.ModuleList([*self.blocks[: self.cut], *blocks]), self.names[1]: norm}
            with self._with(parts):
                yield

        return swapped

    @contextlib.contextmanager
    def _with(self, parts: dict[str, nn.Module]):
        """The model with some of its parts replaced, and as it was afterwards."""
        whole = {name: getattr(self.model, name) for name in parts}
        try:
            for name, part in parts.items():
                setattr(self.model, name, part)
            yield
        finally:
            for name, part in whole.items():
                setattr(self.model, name, part)

    def _run(self, blocks: list[nn.Module], norm: nn.Module, attention_mask: torch.Tensor, **inputs) -> torch.Tensor:
        blocks_name, norm_name, positions_name = self.names
        parts = {blocks_name: nn.ModuleList(blocks), norm_name: norm}
        if positions_name and "inputs_embeds" in inputs:
            parts[positions_name] = NoPositions()
        with self._with(parts):
            return self._forward(attention_mask, **inputs)

    def _forward(self, attention_mask: torch.Tensor, **inputs) -> torch.Tensor:
        return self.model(attention_mask=attention_mask.long(), position_ids=position_ids(attention_mask), use_cache=False, **inputs).last_hidden_state
