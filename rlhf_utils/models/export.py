"""Saves a trained model as a plain transformers directory, with its adapters folded in."""

from pathlib import Path

import torch
from transformers import GenerationConfig

from .chat import end_ids
from .kinds import text_config


def save_merged(model, tokenizer, directory: Path) -> None:
    """Saves float32 weights that plain `from_pretrained` loads. The model given is changed."""
    merged = model.to(torch.float32)
    if hasattr(merged, "merge_and_unload"):
        merged = merged.merge_and_unload()
    ends = end_ids(merged, tokenizer)
    if getattr(merged, "generation_config", None) is not None:
        merged.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=ends[0] if len(ends) == 1 else ends,
            pad_token_id=tokenizer.pad_token_id,
        )
    text_config(merged.config).pad_token_id = tokenizer.pad_token_id
    merged.config.pad_token_id = tokenizer.pad_token_id
    merged.config.use_cache = True
    merged.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
