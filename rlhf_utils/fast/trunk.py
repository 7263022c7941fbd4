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
from transformers import DynamicCache

from ..errors import ModelError
from .attention import GROUPED

# model_type → its names for the blocks, for the norm after them, and for positions that are added to the embeddings (None: rotary)
FAMILIES = dict.fromkeys(GROUPED, ("layers", "norm", None)) | {
    "gpt_neox": ("layers", "final_layer_norm", None),
    "gpt2": ("h", "ln_f", "wpe"),
}


@functools.cache
def _say_whole(family: str, why: str) -> None:
    warnings.warn(
        f"This {family} model {why}, so every pass runs the whole model: the same numbers, more slowly.",
        stacklevel=3,
    )


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
        family, kinds = (
            self.model.config.model_type,
            set(getattr(self.model.config, "layer_types", None) or ["full_attention"]),
        )
        self.splits = family in FAMILIES and len(kinds) == 1  # masks go by a block's number from 0
        if self.splits:
            self.names = FAMILIES[family]
            # A loaded adapter asks for no gradient, but switching it off must still change nothing in the trunk.
            trained = [
                i
                for i, block in enumerate(self.blocks)
                if any(p.requires_grad or "lora_" in name for name, p in block.named_parameters())
            ]
            self.cut = min(trained, default=len(self.blocks))
            # Blocks that learn are float32; above a bfloat16 trunk their products are bfloat16 all the same, as in mixed-precision training.
            self.mixes = self.norm.weight.dtype != self.model.get_input_embeddings().weight.dtype
        else:
            self.cut, self.mixes = 0, False
            _say_whole(
                family,
                "mixes kinds of attention"
                if family in FAMILIES
                else "is of a family whose blocks the suite cannot split",
            )

    @property
    def blocks(self) -> list[nn.Module]:
        return list(getattr(self.model, self.names[0]))

    @property
    def norm(self) -> nn.Module:
        return getattr(self.model, self.names[1])

    @torch.no_grad()
    def lower(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, cache=None
    ) -> torch.Tensor:
        """(B, L, H) states below the first trainable block; the (B, L) ids themselves for a family that runs whole.

        With a cache of what came before, the ids are the last ones of the mask.
        """
        if not self.splits:
            return input_ids
        return self._run(
            self.blocks[: self.cut],
            nn.Identity(),
            attention_mask,
            input_ids=input_ids,
            past_key_values=cache,
            use_cache=cache is not None,
        )

    def new_cache(self) -> DynamicCache:
        return DynamicCache(config=self.model.config)

    @torch.no_grad()
    def both(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, cache
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, L, H) last hidden states of ids that follow what the cache holds, and what `lower` gives of them, from one pass."""
        states = [input_ids]
        entered = (self.blocks + [self.norm])[self.cut] if self.splits else nn.Identity()
        hook = entered.register_forward_pre_hook(
            lambda _, args: states.append(args[0]), prepend=True
        )  # before a hook that changes their dtype
        try:
            return self._forward(
                attention_mask, input_ids=input_ids, past_key_values=cache, use_cache=True
            ), states[-1]
        finally:
            hook.remove()

    def upper(self, states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, L, H) last hidden states from what `lower` gave."""
        if not self.splits:
            return self._forward(attention_mask, input_ids=states)
        return self._run(
            self.blocks[self.cut :],
            self.norm,
            attention_mask,
            inputs_embeds=states.to(self.norm.weight.dtype),
        )

    @torch.no_grad()
    def lower_from(
        self, states: torch.Tensor, attention_mask: torch.Tensor, cut: int
    ) -> torch.Tensor:
        """What `lower` gives, from the (B, L, H) states that enter block number `cut`, at most as high as this trunk's."""
        blocks = self.blocks[cut : self.cut]
        return (
            self._run(blocks, nn.Identity(), attention_mask, inputs_embeds=states)
            if blocks
            else states
        )

    def frozen_copy(self):
        """A context manager in which the blocks above the cut, and the norm after them, are copies of what they are now."""
        if not self.splits:
            raise ModelError(
                f"A {self.model.config.model_type} model runs whole here, so its top blocks cannot learn as a whole: give it adapters."
            )
        *blocks, norm = copy.deepcopy(
            nn.ModuleList([*self.blocks[self.cut :], self.norm])
        ).requires_grad_(False)
        return functools.partial(
            self._with,
            {
                self.names[0]: nn.ModuleList([*self.blocks[: self.cut], *blocks]),
                self.names[1]: norm,
            },
        )

    def mixed(self) -> torch.autocast:
        """The precision of each pass, for several passes within: float32 weights that multiply in bfloat16 are cast once for all of them."""
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.mixes)

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

    def _run(
        self, blocks: list[nn.Module], norm: nn.Module, attention_mask: torch.Tensor, **inputs
    ) -> torch.Tensor:
        blocks_name, norm_name, positions_name = self.names
        parts = {blocks_name: nn.ModuleList(blocks), norm_name: norm}
        if positions_name and "inputs_embeds" in inputs:
            parts[positions_name] = NoPositions()
        with self._with(parts):
            return self._forward(attention_mask, **inputs)

    def _forward(self, attention_mask: torch.Tensor, **inputs) -> torch.Tensor:
        length = next(iter(inputs.values())).shape[1]
        inputs = {"use_cache": False} | inputs
        with self.mixed():
            return self.model(
                attention_mask=attention_mask.long(),
                position_ids=position_ids(attention_mask)[:, -length:],
                **inputs,
            ).last_hidden_state


def share_blocks(ours: Trunk, theirs: Trunk) -> int | None:
    """Puts their embeddings and lowest frozen blocks in place of ours as far as the weights are equal, bit for bit, in dtype and place.

    Returns where their states are cut if all blocks below are now shared, else None.
    """
    if (
        not (ours.splits and theirs.splits)
        or ours.model.config.model_type != theirs.model.config.model_type
    ):
        return None
    blocks_name, _, positions_name = ours.names
    mine, other = (trunk.model.get_input_embeddings() for trunk in (ours, theirs))
    if (
        not _same_weights(mine, other)
        or positions_name
        and not _same_weights(
            getattr(ours.model, positions_name), getattr(theirs.model, positions_name)
        )
    ):
        return None
    ours.model.set_input_embeddings(other)
    if positions_name:
        setattr(ours.model, positions_name, getattr(theirs.model, positions_name))
    count = 0
    for own, block in zip(ours.blocks[: ours.cut], theirs.blocks[: theirs.cut]):
        if not _same_weights(own, block):
            break
        getattr(ours.model, blocks_name)[count] = block
        count += 1
    return theirs.cut if count == theirs.cut else None


def _same_weights(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].device == b[k].device and torch.equal(a[k], b[k])
        for k in a
    )
