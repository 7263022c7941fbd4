"""Which kinds of model go through all stages, and how long a text they take: from the config alone.

Left out: recurrent models, encoders, and models that change their logits after the head.
"""

import re

from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from ..errors import ModelError

# settings of Gemma 2, Cohere, Granite, Falcon H1 … that change logits after the head
AFTER_THE_HEAD = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
)

NO_TEXT = "Classification|RewardModel|QuestionAnswering"  # in names of architectures

# names of the number of positions, where it is not max_position_embeddings
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")


def text_config(config):
    """The part of a config that is about text: another one in models that read pictures, too."""
    return config.get_text_config(decoder=True)


def context_of(config) -> int | None:
    """The most tokens that a model takes; None if there is no bound."""
    config = text_config(config)
    if getattr(config, "alibi", False) or config.model_type == "bloom":
        return None
    for name in POSITIONS:
        positions = getattr(config, name, None)
        if isinstance(positions, int) and positions > 0:
            return positions
    return None


def check_kind(name: str, config, with_head: bool = True) -> None:
    """Raises ModelError in one sentence for a model that cannot work in all stages."""
    if why := _reason_against(config, with_head):
        raise ModelError(f"The model {name!r} {why}: take a decoder such as Llama, Qwen or GPT-2.")


def _reason_against(config, with_head: bool) -> str:
    kind = config.model_type
    if config.is_encoder_decoder:
        return f"is an encoder-decoder ({kind})"
    masked = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if masked and not getattr(config, "is_decoder", False):
        return f"is an encoder ({kind}) and cannot continue a text"
    mapping = AutoModelForCausalLM._model_mapping
    if type(config) not in mapping:
        return f"is no causal language model ({kind})"
    if getattr(mapping[type(config)], "_is_stateful", False):
        return f"is recurrent ({kind}): it keeps a state where others keep keys and values"
    if quantised := getattr(config, "quantization_config", None):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        return f"is quantised ({method}), and such weights cannot learn here"
    made_for = config.architectures or []
    if with_head and made_for and all(re.search(NO_TEXT, known) for known in made_for):
        return f"gives scores, not texts ({made_for[0]})"
    for setting in AFTER_THE_HEAD if with_head else ():
        value = getattr(text_config(config), setting, None)
        if value not in (None, 1):
            return (
                f"changes its logits after the head ({setting}={value}), which our "
                "log-probabilities would leave out"
            )
    return ""
