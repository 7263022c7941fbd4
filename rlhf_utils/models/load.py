"""Name → model and tokenizer, on which device and in which dtype.

A name is that of a built-in model, a local directory or a hub id; an adapter is merged into the
model that it was made for. Left out: quantised training, several GPUs.
"""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ..errors import ModelError
from ..fast import product_rate, speed_up
from .chat import answer_end, chat_prompt, end_ids
from .kinds import check_kind
from .source import load_from

__all__ = [
    "answer_end",
    "chat_prompt",
    "end_ids",
    "load_from",
    "load_model",
    "load_tokenizer",
    "pick_device",
    "pick_dtype",
]

# of texts, in tokenizers that name none; a new token if there is none of them
ENDS = ("<|endoftext|>", "</s>", "<eos>", "<|im_end|>")


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype of weights. "auto": bfloat16 if the hardware multiplies it natively, else float32.

    On a CPU the speed of both is measured and printed.
    """
    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    if device.type != "cpu":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float32
    plain, half = product_rate(torch.float32), product_rate(torch.bfloat16)
    # Native bfloat16 is nearly twice as fast or faster, emulated bfloat16 slower. 1.3 is far from
    # both, so that all stages of a run agree.
    chosen = torch.bfloat16 if half > 1.3 * plain else torch.float32
    print(
        f"Matrix products run at {plain / 1e9:.0f} GFLOP/s in float32 and {half / 1e9:.0f} in "
        f"bfloat16: {str(chosen).removeprefix('torch.')} is taken "
        "(dtype='float32' or 'bfloat16' overrides this)."
    )
    return chosen


def load_tokenizer(name: str):
    """The tokenizer, padding on the left, with an end-of-sequence and a padding token.

    Masks are explicit everywhere, so the end may pad, too.
    """
    tokenizer = load_from(AutoTokenizer, name)
    tokenizer.padding_side = "left"
    if tokenizer.eos_token_id is None:
        known = [end for end in ENDS if end in tokenizer.get_vocab()]
        tokenizer.add_special_tokens({"eos_token": (known or ENDS)[0]})
        print(
            f"The tokenizer of {name!r} names no end-of-sequence token: {tokenizer.eos_token} is "
            "taken."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def load_model(
    name: str,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    auto_class=AutoModelForCausalLM,
):
    """The model in evaluation mode, so that dropout is off in every role.

    Raises ModelError for a model that cannot be used, or that lacks weights.
    """
    model = _with_room(read_model(name, auto_class, dtype=dtype), name).to(device)
    model.config.use_cache = False
    return speed_up(model).eval()


def read_model(name: str, auto_class=AutoModelForCausalLM, **options):
    """The model as transformers loads it.

    Raises ModelError for a kind that cannot be used, and for weights that are missing, which
    transformers would fill with random numbers.
    """
    check_kind(name, load_from(AutoConfig, name), auto_class is AutoModelForCausalLM)
    model, loaded = load_from(auto_class, name, output_loading_info=True, **options)
    if missing := sorted(loaded["missing_keys"]):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ModelError(
            f"The model {name!r} lacks weights: {', '.join(missing[:3])}{more}; copy or download "
            "it again, or save it as a whole causal language model."
        )
    return model


def _with_room(model, name: str):
    """The model with an embedding for every token; new ones are the mean of the others."""
    try:
        size = len(load_tokenizer(name))
    except ModelError:  # has none of its own
        return model
    old = model.get_input_embeddings().weight.shape[0]
    if size > old:
        print(
            f"The model {name!r} has {old:,} embeddings for the {size:,} tokens of its tokenizer: "
            "it gets the others."
        )
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            model.resize_token_embeddings(size, mean_resizing=False)
            for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
                if layer is not None:
                    layer.weight[old:] = layer.weight[:old].mean(0)
    return model
