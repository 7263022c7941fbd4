"""The frozen lower blocks of a transformer, run once for all who need them.

Adapters sit in the top blocks only, so what the lower blocks make of a text never changes: policy, reference, value, every PPO
epoch and every epoch of the reward model share it (as the hydra of trlx shares its trunk; Havrilla 2023). Families that are not in
FAMILIES run whole, which is slower and gives the same numbers. Left out: capturing the states while sampling.
"""

import torch
from torch import nn

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # embeddings go into the blocks as they are, and one norm follows


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
        kinds = set(getattr(self.model.config, "layer_types", None) or ["full_attention"])  # masks go by a block's number from 0
        self.splits = self.model.config.model_type in FAMILIES and len(kinds) == 1
        if self.splits:
            self.blocks, self.norm = list(self.model.layers), self.model.norm
            # A loaded adapter asks for no gradient, but switching it off must still change nothing in the trunk.
            trained = [i for i, block in enumerate(self.blocks) if any(p.requires_grad or "lora_" in name for name, p in block.named_parameters())]
            self.cut = min(trained, default=len(self.blocks))

    @torch.no_grad()
    def lower(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, L, H) states below the first trainable block; the (B, L) ids themselves for a family that runs whole."""
        return self._run(self.blocks[: self.cut], nn.Identity(), attention_mask, input_ids=input_ids) if self.splits else input_ids

    def upper(self, states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, L, H) last hidden states from what `lower` gave."""
        if not self.splits:
            return self._forward(attention_mask, input_ids=states)
        return self._run(self.blocks[self.cut :], self.norm, attention_mask, inputs_embeds=states.to(self.norm.weight.dtype))

    def _run(self, blocks: list[nn.Module], norm: nn.Module, attention_mask: torch.Tensor, **inputs) -> torch.Tensor:
        whole = self.model.layers
        self.model.layers, self.model.norm = nn.ModuleList(blocks), norm
        try:
            return self._forward(attention_mask, **inputs)
        finally:
            self.model.layers, self.model.norm = whole, self.norm

    def _forward(self, attention_mask: torch.Tensor, **inputs) -> torch.Tensor:
        return self.model(attention_mask=attention_mask.long(), position_ids=position_ids(attention_mask), use_cache=False, **inputs).last_hidden_state
