"""One token after another by the lean decoder against the model's own forward, without a cache, on unpadded rows."""

import copy

import pytest
import torch
from test_sampling import adapted, seeded
from test_trunk import FAMILIES, SIZES, whole
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from rlhf_utils.fast import decoding, matmul
from rlhf_utils.fast.decoding import Decoder, LeanDecoder, decoder
from rlhf_utils.fast.lora import make_lean
from rlhf_utils.fast.trunk import Trunk
from rlhf_utils.models import adapters

ROWS, WIDTH = 3, 7


@pytest.fixture(autouse=True)
def few_columns(monkeypatch):
    monkeypatch.setattr(decoding, "COLUMNS", 3)  # room grows several times
    with matmul.products_in(torch.float32):
        yield


def prompts():
    ids, mask = (
        torch.randint(0, 64, (ROWS, WIDTH), generator=seeded()),
        torch.ones(ROWS, WIDTH).bool(),
    )
    mask[0, :4], mask[2, :1] = False, False
    return ids, mask


@torch.no_grad()
def begin(model):
    """(trunk, ids, mask, the decoder that is taken after a pass over the prompts)."""
    trunk, (ids, mask) = Trunk(model), prompts()
    cache = trunk.new_cache()
    trunk.both(ids, mask, cache)
    return trunk, ids, mask, decoder(trunk, cache, mask)


@torch.no_grad()
def follow(model, kind):
    """Steps of `kind`, the last ones of the trunk alone, with a row left out on the way: states as from passes of their own."""
    trunk, ids, mask, decoding = begin(model)
    assert type(decoding) is kind
    for step in range(10):
        if step == 5:
            rest = torch.tensor([0, 2])
            decoding.keep(rest)
            ids, mask = ids[rest], mask[rest]
        token = torch.randint(0, 64, (len(ids),), generator=seeded(step))
        ids, mask = (
            torch.cat([ids, token[:, None]], 1),
            torch.cat([mask, mask.new_ones(len(ids), 1)], 1),
        )
        hidden, read = decoding.step(token) if step < 8 else (None, decoding.lower(token))
        torch.testing.assert_close(read, trunk.lower(ids, mask)[:, -1], rtol=1e-5, atol=1e-5)
        if hidden is not None:
            ends = mask.sum(1).cumsum(0) - 1
            torch.testing.assert_close(hidden, whole(model, ids, mask)[ends], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layers", [0, 2, 4])
@pytest.mark.parametrize(
    "family, config, cut", [family for family in FAMILIES if family.values[2] is not None]
)
def test_states_are_those_of_whole_passes(family, config, cut, layers):
    torch.manual_seed(0)
    model = family(config).eval().requires_grad_(False)
    with torch.no_grad():
        [
            p.add_(0.2 * torch.randn_like(p))
            for name, p in model.named_parameters()
            if "norm" in name and "weight" in name
        ]
        [p.normal_(0.0, 0.2) for name, p in model.named_parameters() if name.endswith("proj.bias")]
    lean = config.model_type in decoding.LEAN and not getattr(config, "sliding_window", None)
    follow(adapted(model, layers) if layers else model, LeanDecoder if lean else Decoder)


@pytest.mark.parametrize("preferred", [False, True])
def test_weights_of_any_layout(preferred, monkeypatch):
    monkeypatch.setattr(
        products, "prefers_onednn", lambda: preferred and torch.backends.mkldnn.is_available()
    )
    torch.manual_seed(0)
    follow(matmul.use_fast_products(Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval()), LeanDecoder)


def test_float32_biases_of_blocks_that_learn_where_nothing_is_ordered(monkeypatch):
    monkeypatch.setattr(decoding, "can_order", lambda *_: False)
    model = adapters.unfreeze_top(Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval().bfloat16(), 2)
    *_, lean = begin(model)
    assert type(lean) is LeanDecoder and lean.step(torch.arange(ROWS))[0].isfinite().all()


def test_adapters_switched_off_or_merged_are_left_out():
    torch.manual_seed(0)
    model = adapted(LlamaForCausalLM(LlamaConfig(**SIZES)).eval(), 2)
    with model.disable_adapter():
        follow(model, LeanDecoder)
    model.merge_adapter()
    follow(model, LeanDecoder)


def test_adapters_out_of_the_ordinary_go_through_the_models_own_forward():
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    plain = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    settings = dict(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    follow(
        get_peft_model(copy.deepcopy(plain), LoraConfig(**settings, use_dora=True)).eval(), Decoder
    )
    dropping = make_lean(get_peft_model(plain, LoraConfig(**settings, lora_dropout=0.5))).train()
    assert type(begin(dropping)[3]) is Decoder
    follow(dropping.eval(), LeanDecoder)


@pytest.mark.parametrize("whole_blocks", [False, True])
def test_bfloat16_is_as_near_to_float32_as_the_models_own_forward(whole_blocks):
    torch.manual_seed(0)
    exact = LlamaForCausalLM(LlamaConfig(**SIZES)).eval().bfloat16()
    model, exact = copy.deepcopy(exact), exact.float()
    model = adapters.unfreeze_top(model, 2) if whole_blocks else adapted(model, 2)
    exact = exact if whole_blocks else adapted(exact, 2)
    errors = {}
    for kind in (Decoder, LeanDecoder):
        trunk, (ids, mask) = Trunk(model), prompts()
        cache = trunk.new_cache()
        with torch.no_grad():
            trunk.both(ids, mask, cache)
            hidden, read = kind(trunk, cache, mask).step(token := torch.arange(ROWS))
            expected = whole(
                exact,
                torch.cat([ids, token[:, None]], 1),
                torch.cat([mask, mask.new_ones(ROWS, 1)], 1),
            )
        assert read.dtype == torch.bfloat16 and hidden.dtype == trunk.norm.weight.dtype
        errors[kind] = (hidden.float() - expected[(mask.sum(1) + 1).cumsum(0) - 1]).norm()
    assert 0 < errors[LeanDecoder] < 1.5 * errors[Decoder]
