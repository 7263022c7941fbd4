"""Attention under two names that transformers takes: "grouped" for a CPU, "fused" for a GPU."""

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

# model types whose own plain attention is the formula of `grouped_attention`
GROUPED = ("llama", "mistral", "qwen2", "qwen3", "gemma")


def choose(model: nn.Module) -> None:
    """Sets the attention that is fastest at the lengths of this suite."""
    if model.device.type == "cpu":
        # Torch's fused attention has a backward pass on CPUs that is several times slower.
        grouped = model.config.model_type in GROUPED
        model.set_attn_implementation("grouped" if grouped else "eager")
    elif model.config._attn_implementation == "sdpa":
        # With a mask cuDNN plans anew for each shape, and each sampled token makes a new shape.
        torch.backends.cuda.enable_cudnn_sdp(False)
        model.set_attn_implementation("fused")


def grouped_attention(
    module, query, key, value, attention_mask, scaling: float, dropout: float = 0.0, **kwargs
):
    """softmax(q kᵀ · scaling + mask) v, without copying shared keys and values for each query head.

    query: (B, heads, T, D). key and value: (B, shared, L, D). Returns (B, T, heads, D) and None.
    """
    batch, heads, length, size = query.shape
    shared = key.shape[1]
    scores = query.reshape(batch, shared, -1, size) @ key.transpose(2, 3) * scaling
    scores = scores.view(batch, shared, heads // shared, length, -1)
    if attention_mask is not None:
        scores = scores + attention_mask[:, :, None]
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, dropout, module.training)
    weights = weights.view(batch, shared, heads // shared * length, -1)
    output = (weights @ value).view(batch, heads, length, size)
    return output.transpose(1, 2).contiguous(), None


def _mask_always(*args, **options):
    # Finding out whether a mask could be left out makes a GPU wait for the host at every token.
    return sdpa_mask(*args, **options | {"allow_is_causal_skip": False})


AttentionInterface.register("grouped", grouped_attention)
AttentionMaskInterface.register("grouped", eager_mask)
AttentionInterface.register("fused", sdpa_attention_forward)
AttentionMaskInterface.register("fused", _mask_always)
