"""The trunk: where a transformer is cut, and its frozen lower blocks, run once for all users.

Adapters sit in the top blocks only, so what the lower blocks make of a text never changes. Policy,
reference, value head and every PPO epoch share it, as in the hydra of trlx (Havrilla 2023).
Left out: families that are not in FAMILIES, and models that mix kinds of attention. They run whole,
with a warning.
"""

import contextlib
import functools
import warnings

import torch
from torch import Tensor, nn

from . import plain
from .attention import GROUPED
from .logprobs import head_logits
from .memory import release_freed_memory

# model type → its names for the blocks, for the norm after them, and for the positions that are
# added to the embeddings (None: rotary positions)
FAMILIES = dict.fromkeys(GROUPED, ("layers", "norm", None)) | {
    "gpt_neox": ("layers", "final_layer_norm", None),
    "gpt2": ("h", "ln_f", "wpe"),
}


class Trunk(plain.Trunk):
    """A frozen lower part, and an upper part that holds every trainable weight.

    upper(lower(ids, mask), mask) equals the whole model's last hidden states.
    """

    def __init__(self, model):
        super().__init__(model)
        config = self.model.config
        family = config.model_type
        kinds_of_attention = set(getattr(config, "layer_types", None) or ["full_attention"])
        # Masks go by a block's number, counted from 0, so all blocks must be of one kind.
        self.splits = family in FAMILIES and len(kinds_of_attention) == 1
        self.mixes = False
        if not self.splits:
            _warn_whole(family)
            return
        self.names = FAMILIES[family]
        trained = [number for number, block in enumerate(self.blocks) if _learns(block)]
        self.cut = min(trained, default=len(self.blocks))
        # Blocks that learn are float32. Above a bfloat16 trunk they multiply in bfloat16 all the
        # same, as in mixed-precision training.
        self.mixes = self.norm.weight.dtype != self.model.get_input_embeddings().weight.dtype

    @property
    def blocks(self) -> list[nn.Module]:
        return list(getattr(self.model, self.names[0]))

    @property
    def norm(self) -> nn.Module:
        return getattr(self.model, self.names[1])

    def mixed(self):
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.mixes)

    @torch.no_grad()
    def lower(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if not self.splits:
            return super().lower(input_ids, attention_mask)
        with self._only(self.blocks[: self.cut], nn.Identity()):
            return self.forward(attention_mask, input_ids=input_ids)

    def upper(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        if not self.splits:
            return super().upper(states, attention_mask)
        states = states.to(self.norm.weight.dtype)
        with self._only(self.blocks[self.cut :], self.norm, positions=_NoPositions()):
            return self.forward(attention_mask, inputs_embeds=states)

    @torch.no_grad()
    def extend(self, input_ids, attention_mask, cache) -> tuple[Tensor, Tensor]:
        if not self.splits:
            return super().extend(input_ids, attention_mask, cache)
        states = []
        first_of_upper = (self.blocks + [self.norm])[self.cut]
        # prepend: before a hook of unfreeze_top that changes the dtype
        hook = first_of_upper.register_forward_pre_hook(
            lambda module, args: states.append(args[0]), prepend=True
        )
        try:
            hidden, _ = super().extend(input_ids, attention_mask, cache)
        finally:
            hook.remove()
        return hidden, states[0]

    def logits(self, hidden: Tensor, temperature) -> Tensor:
        return head_logits(self.head, hidden, temperature)

    def free_memory(self) -> None:
        release_freed_memory()

    @contextlib.contextmanager
    def _only(self, blocks: list[nn.Module], norm: nn.Module, positions: nn.Module | None = None):
        """Within, the model has only these blocks and this norm; `positions` replace added ones."""
        blocks_name, norm_name, positions_name = self.names
        parts = {blocks_name: nn.ModuleList(blocks), norm_name: norm}
        if positions_name and positions is not None:
            parts[positions_name] = positions
        whole = {name: getattr(self.model, name) for name in parts}
        try:
            for name, part in parts.items():
                setattr(self.model, name, part)
            yield
        finally:
            for name, part in whole.items():
                setattr(self.model, name, part)


class _NoPositions(nn.Module):
    """Replaces added position embeddings, because the states at the cut already hold them."""

    def forward(self, position_ids: Tensor) -> Tensor:
        return torch.zeros((), device=position_ids.device)


def _learns(block: nn.Module) -> bool:
    """Whether a block is trained or has adapters.

    A loaded adapter asks for no gradient, but switching it off must not change the trunk.
    """
    return any(p.requires_grad or "lora_" in name for name, p in block.named_parameters())


@functools.cache
def _warn_whole(family: str) -> None:
    warnings.warn(
        f"This {family} model is of a family that the suite cannot split, or it mixes kinds of "
        "attention. So every pass runs the whole model: the same numbers, more slowly.",
        stacklevel=3,
    )
