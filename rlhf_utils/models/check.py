"""What is known of a model before its weights are read, and whether it can work in all stages."""

from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM

from .chat import check_room
from .kinds import check_kind, context_of, text_config
from .load import check_missing, load_from, load_tokenizer


@dataclass
class ModelFacts:
    """A model that can go through all stages."""

    name: str
    parameters: int
    context: int | None  # the most tokens of prompt and answer; None: no bound
    layers: int
    hidden_size: int
    tokenizer: Any


def check_model(name: str) -> ModelFacts:
    """The facts of a model, in a second or two: its weights are looked at, but not loaded.

    Raises ModelError in one sentence if the model cannot work in all stages.
    """
    config = load_from(AutoConfig, name)
    check_kind(name, config)
    tokenizer = load_tokenizer(name)
    # On "meta" transformers matches names and shapes, and reads no numbers.
    model, loaded = load_from(
        AutoModelForCausalLM, name, device_map="meta", output_loading_info=True
    )
    check_missing(name, loaded["missing_keys"])
    text = text_config(config)
    return ModelFacts(
        name=name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        context=context_of(config),
        layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        tokenizer=tokenizer,
    )


def check_lengths(facts: ModelFacts, texts: list[str], response_length: int) -> None:
    """Raises ModelError for a prompt that is too long for the model with an answer after it."""
    check_room(facts.context, facts.tokenizer, texts, response_length)
