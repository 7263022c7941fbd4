"""Attention for the lengths and machines of the suite, under names that transformers takes: "grouped" on a CPU, "fused" on a GPU."""

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask


def grouped_attention(
    module, query, key, value, attention_mask, scaling: float, dropout: float = 0.0, **kwargs
):
    """Plain attention for queries that share keys and values, without copying these for each query: (B, T, heads, D) and no weights."""
    batch, heads, length, size = query.shape
    shared = key.shape[1]
    scores = query.reshape(batch, shared, -1, size) @ key.transpose(2, 3) * scaling
    scores = scores.view(batch, shared, heads // shared, length, -1)
    if attention_mask is not None:
        scores = scores + attention_mask[:, :, None]
    weights = torch.nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = torch.nn.functional.dropout(weights, dropout, module.training).view(
        batch, shared, heads // shared * length, -1
    )
    return (weights @ value).view(batch, heads, length, size).transpose(1, 2).contiguous(), None


GROUPED = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
)  # families whose own plain attention is this formula
AttentionInterface.register("grouped", grouped_attention)
AttentionMaskInterface.register("grouped", eager_mask)
# Torch's fused attention, always with a mask: to find out whether it could do without makes a GPU wait for the host at every token.
AttentionInterface.register("fused", sdpa_attention_forward)
AttentionMaskInterface.register(
    "fused", lambda *args, **options: sdpa_mask(*args, **options | {"allow_is_causal_skip": False})
)
