"""Small models for the tests of models/ and fast/, and slow references for what they compute."""

import copy

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from rlhf_utils.fast import Trunk
from rlhf_utils.fast.plain import backbone
from rlhf_utils.models import adapters
from rlhf_utils.models.load import load_model, load_tokenizer

SHORT = "Hi."
LONG = "Explain in a few plain words why the sky is blue and the sunset is red."
PROMPTS = [SHORT, LONG, "What is a tree?", "Name two rivers."]

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
# two full blocks below two sliding ones: runs whole
SLIDING = dict(SIZES, use_sliding_window=True, sliding_window=4, max_window_layers=2)
# for families in which query heads share no keys
UNSHARED = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}
LLAMA = LlamaConfig(**SIZES)
OPT = OPTConfig(**UNSHARED, ffn_dim=64, word_embed_proj_dim=32, init_std=0.2)

# (config, whether the trunk splits the model)
FAMILIES = [
    pytest.param(LLAMA, True, id="llama"),
    pytest.param(MistralConfig(**SIZES), True, id="mistral"),
    pytest.param(MistralConfig(**SIZES, sliding_window=4), True, id="mistral-sliding"),
    pytest.param(Qwen2Config(**SIZES), True, id="qwen2"),
    pytest.param(Qwen2Config(**SLIDING), False, id="qwen2-mixed"),
    pytest.param(Qwen3Config(**SIZES, head_dim=8), True, id="qwen3"),
    pytest.param(Qwen3Config(**SLIDING, head_dim=8), False, id="qwen3-mixed"),
    pytest.param(GemmaConfig(**SIZES, head_dim=8), True, id="gemma"),
    pytest.param(GPTNeoXConfig(**UNSHARED), True, id="gpt_neox"),
    pytest.param(GPT2Config(**UNSHARED), True, id="gpt2"),
    pytest.param(OPT, False, id="opt"),
]
each_family = pytest.mark.parametrize("config, splits", FAMILIES)


def small(config=LLAMA):
    """A model with random weights, always the same ones."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def close(a, b, tolerance):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=0, check_dtype=False)


def lively(tokenizer, eos=4.0, pad=-100.0):
    """The tiny model with a bias on its head: likely tokens, and answers that end.

    Its own end-of-sequence token has odds of 1 in 1,000.
    """
    model = load_model("tiny")
    bias = torch.randn(len(tokenizer), generator=seeded(5))
    bias[tokenizer.eos_token_id] = eos
    bias[tokenizer.pad_token_id] = pad
    model.lm_head.bias = torch.nn.Parameter(bias)
    return model


def adapted(model, layers=1):
    """The model with LoRA adapters that do something: lora_B starts at zero."""
    peft_model = adapters.add_lora(model, r=4, num_trainable_layers=layers).eval()
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.1, generator=seeded(len(name)))
    return peft_model


def padded_ids(padding, width=12):
    """(ids, mask) with so many padding tokens: on the left, or (negative) on the right."""
    ids = torch.randint(0, 64, (len(padding), width), generator=seeded())
    mask = torch.ones(len(padding), width).bool()
    for row, count in enumerate(padding):
        if count > 0:
            mask[row, :count] = False
        if count < 0:
            mask[row, count:] = False
    return ids, mask


@torch.no_grad()
def whole(model, ids, mask):
    """(n, H) last hidden states of the real tokens, each row alone and without padding."""
    rows = []
    for row, real in zip(ids, mask):
        rows.append(backbone(model)(row[real][None], use_cache=False).last_hidden_state[0])
    return torch.cat(rows)


def lower_states(model, samples):
    """(B, P + T − 1, H) what the frozen blocks make of all sampled tokens but the last."""
    ids = torch.cat([samples.prompt_ids, samples.answer_ids], 1)[:, :-1]
    mask = torch.cat([samples.prompt_mask, samples.answer_mask], 1)[:, :-1]
    return Trunk(model).lower(ids, mask)


@torch.no_grad()
def slow_logprobs(model, samples, row, temperature):
    """(n, V) log-probabilities before each real answer token of one row.

    They come from one plain pass without any padding.
    """
    prompt = samples.prompt_ids[row][samples.prompt_mask[row]]
    answer = samples.answer_ids[row][samples.answer_mask[row]]
    logits = model(torch.cat([prompt, answer])[None]).logits[0].double()
    return (logits / temperature).log_softmax(-1)[len(prompt) - 1 : -1]


def saved(folder, config=None, tokenizer=None, model=None):
    """The name of a folder with a model, `small(config)`, and a tokenizer, the tiny one's."""
    tokenizer = tokenizer or load_tokenizer("tiny")
    (model or small(config or resized(LLAMA))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def resized(config, **changed):
    """The config, with a row for each of the tiny tokenizer's 1,024 tokens and 256 positions."""
    made = copy.deepcopy(config)
    for name, value in ({"vocab_size": 1024, "max_position_embeddings": 256} | changed).items():
        setattr(made, name, value)
    return made


def other_tokenizer(begins=False, **special):
    """The tiny tokenizer's words without its chat template, and with these special tokens.

    begins: it puts its BOS token before every text.
    """
    words = copy.deepcopy(load_tokenizer("tiny").backend_tokenizer)
    if begins:
        bos = special["bos_token"]
        words.post_processor = TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, words.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)
