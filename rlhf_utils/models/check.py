"""What is known of a model before its weights are read, and whether it can work in all stages."""

from dataclasses import dataclass
from typing import Any

from .chat import check_room
from .kinds import context_of
from .load import load_tokenizer, read_model


@dataclass
class ModelFacts:
    """A model that can go through all stages."""

    parameters: int
    context: int | None  # the most tokens of prompt and answer; None: no bound
    tokenizer: Any


def check_model(name: str) -> ModelFacts:
    """The facts of a model, in seconds: its weights are neither loaded nor fetched from the hub.

    Raises ModelError in one sentence if the model cannot work in all stages.
    """
    # On "meta" transformers matches names and shapes, and reads no numbers.
    model = read_model(name, device_map="meta")
    return ModelFacts(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        context=context_of(model.config),
        tokenizer=load_tokenizer(name),
    )


def check_lengths(facts: ModelFacts, texts: list[str], response_length: int) -> None:
    """Raises ModelError for a prompt that is too long for the model with an answer after it."""
    check_room(facts.context, facts.tokenizer, texts, response_length)
