"""TODO: purpose."""

from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
)


def save_merged(peft_model, tokenizer, directory: Path) -> None:
    """Saves float32 weights, adapters folded in where there are any, as a plain transformers directory; the model given is float32 and merged after it."""
    merged = peft_model.to(torch.float32)
    merged = merged.merge_and_unload() if hasattr(merged, "merge_and_unload") else merged
    if hasattr(merged, "generation_config"):
        ids = {
            name: getattr(tokenizer, name)
            for name in ("bos_token_id", "eos_token_id", "pad_token_id")
        }
        merged.generation_config = GenerationConfig(**ids)
    merged.config.pad_token_id = tokenizer.pad_token_id
    merged.config.use_cache = True
    merged.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
