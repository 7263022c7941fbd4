"""A small reward model, texts for it, and a slow way to read them."""

import torch
from torch import nn
from transformers import AutoModel, LlamaConfig, LlamaForSequenceClassification

from rlhf_utils.data.rows import Prompt
from rlhf_utils.models.load import chat_prompt, load_model, load_tokenizer
from rlhf_utils.preferences.pairs import Pair
from rlhf_utils.reward.model import RewardModel

SHORT, LONG = "Hi?", "How do plants drink, and why do they need to do so at all?"
PROMPTS = [SHORT, SHORT, SHORT, LONG, LONG]
ANSWERS = [
    "Hello.",
    "No.",
    "Good day to you, and what can I do?",
    "By their roots.",
    "They do not.",
]
TEXTS = list(zip(PROMPTS, ANSWERS))


def make_pair(prompt: str = "Hi?", chosen: str = "Hello.", rejected: str = "No.", **columns):
    """A Pair; `category` and `key_points` go to its prompt."""
    of_prompt = {name: columns.pop(name) for name in ("category", "key_points") if name in columns}
    return Pair(Prompt(prompt, **of_prompt), chosen, rejected, **columns)


PAIRS = [
    make_pair(SHORT, ANSWERS[0], ANSWERS[1]),
    make_pair(SHORT, ANSWERS[0], ANSWERS[2]),
    make_pair(LONG, ANSWERS[3], ANSWERS[4]),
    make_pair(SHORT, ANSWERS[2], ANSWERS[1]),
    make_pair(SHORT, ANSWERS[0], ANSWERS[1]),  # judged twice
]


def separable() -> list[Pair]:
    """Pairs that a few words tell apart."""
    prompts = ["Hi?", "How are you?", "What is this?", "Why?", "Who is there?", "Is it late?"]
    ends = ("sure.", "of course.", "it is so.")
    return [make_pair(p, f"Yes, {end}", f"No no {end}") for p in prompts for end in ends]


def make_model(backbone=None, **options) -> RewardModel:
    """The tiny model in float32 with heads whose weights are all other than zero."""
    torch.manual_seed(1)
    backbone = backbone or load_model("tiny", auto_class=AutoModel)
    model = RewardModel(backbone, load_tokenizer("tiny"), **options)
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.normal_(0, 0.1)
    return model


def ids_of(tokenizer, prompt: str, answer: str) -> tuple[list[int], int]:
    """(the ids of the whole text, how many of them are the prompt's)."""
    opening = chat_prompt(tokenizer, prompt)
    before = tokenizer(opening, add_special_tokens=False)["input_ids"]
    whole = tokenizer(opening + answer + tokenizer.eos_token, add_special_tokens=False)
    return whole["input_ids"], len(before)


@torch.no_grad()
def slow_states(model: RewardModel, prompt: str, answer: str) -> torch.Tensor:
    """(3·H,) what the heads see of one text, by one plain pass over all of it.

    The middle layer is what the block in the middle hands to the next one.
    """
    backbone, most = model.backbone, model.reader.max_length
    ids, asked = ids_of(model.tokenizer, prompt, answer)
    asked = max(asked - max(len(ids) - most, 0), 1)
    ids = ids[-most:]
    count = backbone.config.num_hidden_layers
    (blocks,) = (
        layers
        for layers in backbone.modules()
        if isinstance(layers, nn.ModuleList) and len(layers) == count
    )
    outputs = []
    hook = blocks[round(0.6 * count) - 1].register_forward_hook(
        lambda module, inputs, output: outputs.append(output)
    )
    last_layer = backbone(torch.tensor([ids]), use_cache=False).last_hidden_state[0]
    hook.remove()
    middle_layer = outputs[0] if torch.is_tensor(outputs[0]) else outputs[0][0]
    middle_layer = middle_layer[0]
    states = [last_layer[asked:].mean(0), middle_layer[asked - 1], middle_layer[asked:].mean(0)]
    if len(ids) == asked:  # no answer is left
        states = [0 * states[1], states[1], 0 * states[1]]
    return torch.cat(states)


@torch.no_grad()
def slow_members(model: RewardModel, prompts: list[str], answers: list[str]) -> torch.Tensor:
    """(B, m) rewards of the heads, each text by a pass of its own."""
    rows = []
    for prompt, answer in zip(prompts, answers):
        states = slow_states(model, prompt, answer)
        rows.append(torch.stack([head(states)[0] for head in model.heads]))
    return torch.stack(rows)


def classifier(folder, labels, template: bool = True, **options) -> str:
    """A random classifier on disk, with the built-in tokenizer under its own chat template.

    labels: how many, or their names.
    """
    torch.manual_seed(0)
    tokenizer = load_tokenizer("tiny")
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
        if template
        else None
    )
    named = {"num_labels": labels}
    if not isinstance(labels, int):
        named = {"id2label": dict(enumerate(labels)), "label2id": {}}
    size = {"hidden_size": 16, "intermediate_size": 32, "vocab_size": len(tokenizer)}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.5}
    padding = {"pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(**named | size | layers | padding | options)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
