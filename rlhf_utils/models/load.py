"""Name → model and tokenizer: the built-in models, a local directory, or a hub id; device and dtype; LoRA; saving.

`smollm2-135m` is SmolLM2-135M-Instruct (Allal et al. 2025, arXiv 2502.02737; Apache-2.0), quantised to 4 bits in a package
of the Python package index and converted here, once, to float32 safetensors. `tiny` has random weights, for tests.
Left out: quantised training, several GPUs.
"""

import os
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
)

from ..errors import ModelError
from ..fast.attention import GROUPED
from ..fast.matmul import product_rate, set_products, use_fast_products
from ..fast.memory import keep_freed_memory, release_freed_memory
from .builtin import _builtin_model, _tiny_model

# Each new shape of a bfloat16 product leaves a kernel and its buffers behind: a thousand of them, torch's default, hold a gigabyte. An update of
# PPO has about a hundred, which take a twentieth of its time to make anew.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "150")


AFTER_THE_HEAD = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
)  # Gemma 2, Cohere, Granite, Falcon H1 …


def pick_device() -> torch.device:
    """A CUDA GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(dtype: str = "auto", device: torch.device | str = "cpu") -> torch.dtype:
    """ "auto" takes bfloat16 where the hardware multiplies it natively, else float32; on a CPU that is measured, and printed."""
    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    if torch.device(device).type != "cpu":
        native = torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported(
            including_emulation=False
        )
        return torch.bfloat16 if native else torch.float32
    plain, half = product_rate(torch.float32), product_rate(torch.bfloat16)
    # Nearly twice as fast or faster where it is native, and slower where it is not: 1.3 is far from either, so that all stages of a run agree.
    chosen = torch.bfloat16 if half > 1.3 * plain else torch.float32
    print(
        f"Matrix products run at {plain / 1e9:.0f} GFLOP/s in float32 and {half / 1e9:.0f} in bfloat16: "
        f"{str(chosen).removeprefix('torch.')} is taken (dtype='float32' or 'bfloat16' overrides this)."
    )
    return chosen


def resolve(name: str) -> str:
    """A directory or hub id that transformers can load; builds the built-in models at their first use."""
    if name == "smollm2-135m":
        return str(_builtin_model())
    if name == "tiny":
        return str(_tiny_model())
    return str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name


def load_tokenizer(name: str):
    """The tokenizer, padding on the left, with a pad token that is not the end-of-sequence token (else the end would be masked in training)."""
    tokenizer = load_from(AutoTokenizer, name)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        if tokenizer.unk_token is None or tokenizer.unk_token_id == tokenizer.eos_token_id:
            raise ModelError(
                f"The tokenizer of {name!r} has no token free for padding: set a pad_token other than "
                f"{tokenizer.eos_token!r} and save it with the model."
            )
        tokenizer.pad_token = tokenizer.unk_token
    return tokenizer


def load_model(
    name: str,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    auto_class=AutoModelForCausalLM,
):
    """The model in evaluation mode, so that dropout is off in every role. Raises ModelError.

    With bfloat16 weights, float32 products may from now on round their inputs to bfloat16 (sums stay float32): the head then runs twice as
    fast, and loses nothing where its inputs are bfloat16 already, as they are but above whole blocks that learn. With float32 weights everything
    is float32.
    """
    keep_freed_memory()
    release_freed_memory()  # of whatever was done before
    set_products(dtype)
    model = load_from(auto_class, name, dtype=dtype).to(device)
    if model.get_output_embeddings() is not None and (
        scaled := [
            key for key in AFTER_THE_HEAD if getattr(model.config, key, None) not in (None, 1)
        ]
    ):
        raise ModelError(
            f"{name!r} changes its logits after the head ({scaled[0]}={getattr(model.config, scaled[0])}), which the log-probabilities "
            "here would leave out: take a model without that."
        )
    if torch.device(device).type == "cpu":
        # Torch's fused attention has a backward pass there that is several times slower than the plain formula at these lengths.
        model.set_attn_implementation("grouped" if model.config.model_type in GROUPED else "eager")
    elif model.config._attn_implementation == "sdpa":
        torch.backends.cuda.enable_cudnn_sdp(
            False
        )  # with a mask cuDNN would plan anew for each shape, which while sampling is each token
        model.set_attn_implementation("fused")
    model.config.use_cache = False
    return use_fast_products(model).eval()


def load_from(auto_class, name: str, **options):
    """auto_class.from_pretrained on a built-in model's name, a folder or a hub id. Raises ModelError in one sentence."""
    source = resolve(name)
    try:
        return auto_class.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"Could not load {name!r}: it is no built-in model (smollm2-135m, tiny), no model directory, and no hub id "
            f"that could be reached. {str(error).splitlines()[0]}"
        ) from error


def chat_prompt(tokenizer, prompt: str) -> str:
    """The prompt as the model sees it, up to where its answer begins; plain text for a tokenizer without a chat template."""
    if tokenizer.chat_template is None:
        return prompt.rstrip() + "\n"
    messages = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
