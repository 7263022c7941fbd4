"""Name → model and tokenizer, on which device, in which dtype, and what a prompt looks like.

A name is that of a built-in model, a local directory or a hub id.
Left out: quantised training, several GPUs.
"""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..data.rows import messages_of
from ..errors import ModelError
from ..fast import product_rate, speed_up
from .builtin import resolve

# settings of Gemma 2, Cohere, Granite, Falcon H1 … that change logits after the head
AFTER_THE_HEAD = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
)


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
    """The tokenizer, padding on the left. Raises ModelError if it has no token free for padding.

    The pad token is never the end-of-sequence token, or training would mask the end.
    """
    tokenizer = load_from(AutoTokenizer, name)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        if tokenizer.unk_token is None or tokenizer.unk_token_id == tokenizer.eos_token_id:
            raise ModelError(
                f"The tokenizer of {name!r} has no token free for padding: set a pad_token other "
                f"than {tokenizer.eos_token!r} and save it with the model."
            )
        tokenizer.pad_token = tokenizer.unk_token
    return tokenizer


def load_model(
    name: str,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    auto_class=AutoModelForCausalLM,
):
    """The model in evaluation mode, so that dropout is off in every role."""
    model = load_from(auto_class, name, dtype=dtype).to(device)
    for setting in AFTER_THE_HEAD:
        value = getattr(model.config, setting, None)
        if value not in (None, 1) and model.get_output_embeddings() is not None:
            raise ModelError(
                f"{name!r} changes its logits after the head ({setting}={value}), which our "
                "log-probabilities would leave out: take a model without that."
            )
    model.config.use_cache = False
    return speed_up(model).eval()


def load_from(auto_class, name: str, **options):
    """auto_class.from_pretrained on a name. Raises ModelError in one sentence."""
    source = resolve(name)
    try:
        return auto_class.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"Could not load {name!r}: it is no built-in model (smollm2-135m, tiny), no model "
            f"directory, and no hub id that could be reached. {str(error).splitlines()[0]}"
        ) from error


def chat_prompt(tokenizer, prompt: str) -> str:
    """The prompt as the model sees it, up to where its answer begins."""
    if tokenizer.chat_template is None:
        return prompt.rstrip() + "\n"
    return tokenizer.apply_chat_template(
        messages_of(prompt), tokenize=False, add_generation_prompt=True
    )
