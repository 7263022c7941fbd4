"""Token by token with the lean decoder, against the model's own forward on unpadded rows."""

import copy

import pytest
import torch
from helpers_models import FAMILIES, SIZES, adapted, padded_ids, seeded, small, whole
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config

from rlhf_utils.fast import decoding, matmul
from rlhf_utils.fast.decoding import Decoder, LeanDecoder, decoder
from rlhf_utils.fast.lora import make_lean
from rlhf_utils.fast.trunk import Trunk
from rlhf_utils.models import adapters

PADDING = [4, 0, 1]  # on the left of three rows
ROWS, WIDTH = len(PADDING), 7
SPLIT = [family for family in FAMILIES if family.values[1]]
QWEN2 = Qwen2Config(**SIZES)  # has biases


@pytest.fixture(autouse=True)
def few_columns(monkeypatch):
    monkeypatch.setattr(decoding, "COLUMNS", 3)  # room grows several times
    with matmul.products_in(torch.float32):
        yield


@torch.no_grad()
def begin(model):
    """(trunk, ids, mask, the decoder that is taken after a pass over the prompts)."""
    trunk, (ids, mask) = Trunk(model), padded_ids(PADDING, WIDTH)
    cache = trunk.new_cache()
    trunk.extend(ids, mask, cache)
    return trunk, ids, mask, decoder(trunk, cache, mask)


def extended(ids, mask, tokens):
    ones = mask.new_ones(len(mask), 1)
    return torch.cat([ids, tokens[:, None]], 1), torch.cat([mask, ones], 1)


@torch.no_grad()
def follow(model, kind):
    """Ten steps of `kind`, with a row left out on the way, give the states of whole passes."""
    trunk, ids, mask, decoding = begin(model)
    assert type(decoding) is kind
    for step in range(10):
        if step == 5:
            rest = torch.tensor([0, 2])
            decoding.keep(rest)
            ids, mask = ids[rest], mask[rest]
        tokens = torch.randint(0, 64, (len(ids),), generator=seeded(step))
        ids, mask = extended(ids, mask, tokens)
        hidden, states = decoding.step(tokens)
        expected = trunk.lower(ids, mask)[:, -1]
        torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-5)
        ends = mask.sum(1).cumsum(0) - 1
        torch.testing.assert_close(hidden, whole(model, ids, mask)[ends], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layers", [0, 2, 4])
@pytest.mark.parametrize("config, splits", SPLIT)
def test_states_are_those_of_whole_passes(config, splits, layers):
    model = small(config).requires_grad_(False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and "weight" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
        for name, parameter in model.named_parameters():
            if name.endswith("proj.bias"):
                parameter.normal_(0.0, 0.2)
    lean = config.model_type in decoding.LEAN and not getattr(config, "sliding_window", None)
    follow(adapted(model, layers) if layers else model, LeanDecoder if lean else Decoder)


@pytest.mark.parametrize("preferred", [False, True])
def test_weights_of_any_layout(preferred, monkeypatch):
    available = torch.backends.mkldnn.is_available()
    monkeypatch.setattr(matmul, "prefers_onednn", lambda: preferred and available)
    follow(matmul.use_fast_products(small(QWEN2)), LeanDecoder)


def test_float32_biases_of_blocks_that_learn_where_nothing_is_ordered(monkeypatch):
    monkeypatch.setattr(decoding, "can_order", lambda *_: False)
    model = adapters.unfreeze_top(small(QWEN2).bfloat16(), 2)
    *_, lean = begin(model)
    assert type(lean) is LeanDecoder and lean.step(torch.arange(ROWS))[0].isfinite().all()


def test_adapters_switched_off_or_merged_are_left_out():
    model = adapted(small(), 2)
    with model.disable_adapter():
        follow(model, LeanDecoder)
    model.merge_adapter()
    follow(model, LeanDecoder)


def test_adapters_out_of_the_ordinary_go_through_the_models_own_forward():
    settings = {"r": 4, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}
    dora = get_peft_model(small(), LoraConfig(**settings, use_dora=True))
    follow(dora.eval(), Decoder)
    dropping = make_lean(get_peft_model(small(), LoraConfig(**settings, lora_dropout=0.5)))
    follow(dropping.eval(), Decoder)


@pytest.mark.parametrize("whole_blocks", [False, True])
def test_bfloat16_is_as_near_to_float32_as_the_models_own_forward(whole_blocks):
    model = small().bfloat16()
    exact = copy.deepcopy(model).float()
    if whole_blocks:
        model = adapters.unfreeze_top(model, 2)
    else:
        model, exact = adapted(model, 2), adapted(exact, 2)
    ids, mask = padded_ids(PADDING, WIDTH)
    tokens = torch.arange(ROWS)
    longer_ids, longer_mask = extended(ids, mask, tokens)
    ends = longer_mask.sum(1).cumsum(0) - 1
    expected = whole(exact, longer_ids, longer_mask)[ends]
    errors = {}
    for kind in (Decoder, LeanDecoder):
        trunk = Trunk(model)
        cache = trunk.new_cache()
        trunk.extend(ids, mask, cache)
        hidden, states = kind(trunk, cache, mask).step(tokens)
        assert states.dtype == torch.bfloat16 and hidden.dtype == trunk.norm.weight.dtype
        errors[kind] = (hidden.float() - expected).norm()
    assert 0 < errors[LeanDecoder] < 1.5 * errors[Decoder]
