"""The shared trunk against whole unpadded models, for every family that it splits and some that it does not, in float32."""

import copy
import warnings

import pytest
import torch
from test_sampling import adapted, close, seeded
from transformers import (
    AutoModel,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rlhf_utils.errors import ModelError
from rlhf_utils.fast.trunk import Trunk, _say_whole, backbone, position_ids
from rlhf_utils.models.load import load_model

SIZES = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    initializer_range=0.2,
)
SLIDING = dict(
    SIZES, use_sliding_window=True, sliding_window=4, max_window_layers=2
)  # two full blocks below two sliding ones: runs whole
FAMILIES = [
    pytest.param(LlamaForCausalLM, LlamaConfig(**SIZES), 3, id="llama"),
    pytest.param(MistralForCausalLM, MistralConfig(**SIZES), 3, id="mistral"),
    pytest.param(
        MistralForCausalLM, MistralConfig(**SIZES, sliding_window=4), 3, id="mistral-sliding"
    ),
    pytest.param(Qwen2ForCausalLM, Qwen2Config(**SIZES), 3, id="qwen2"),
    pytest.param(Qwen2ForCausalLM, Qwen2Config(**SLIDING), None, id="qwen2-mixed"),
    pytest.param(Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=8), 3, id="qwen3"),
    pytest.param(Qwen3ForCausalLM, Qwen3Config(**SLIDING, head_dim=8), None, id="qwen3-mixed"),
    pytest.param(GemmaForCausalLM, GemmaConfig(**SIZES, head_dim=8), 3, id="gemma"),
    pytest.param(
        GPTNeoXForCausalLM,
        GPTNeoXConfig(
            **{name: size for name, size in SIZES.items() if name != "num_key_value_heads"}
        ),
        3,
        id="gpt_neox",
    ),
    pytest.param(
        GPT2LMHeadModel,
        GPT2Config(
            vocab_size=64, n_embd=32, n_layer=4, n_head=4, n_positions=64, initializer_range=0.2
        ),
        3,
        id="gpt2",
    ),
    pytest.param(
        OPTForCausalLM,
        OPTConfig(
            vocab_size=64,
            hidden_size=32,
            ffn_dim=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=64,
            word_embed_proj_dim=32,
            init_std=0.2,
        ),
        None,
        id="opt",
    ),
]


@torch.no_grad()
def whole(model, ids, mask):
    """(n, H) last hidden states of the real tokens, row after row, each row alone and without padding."""
    return torch.cat(
        [
            backbone(model)(row[real][None], use_cache=False).last_hidden_state[0]
            for row, real in zip(ids, mask)
        ]
    )


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("family, config, cut", FAMILIES)
def test_upper_of_lower_is_the_whole_model(family, config, cut, layers):
    torch.manual_seed(0)
    plain = family(config).eval()
    model = adapted(copy.deepcopy(plain), layers)
    ids = torch.randint(0, 64, (3, 12), generator=seeded())
    mask = torch.ones(3, 12).bool()
    mask[0, :5], mask[1, 10:] = False, False  # padding on the left and on the right
    before, order = whole(model, ids, mask), list(backbone(model).modules())
    trunk = Trunk(model)
    with torch.no_grad():
        states = trunk.lower(ids, mask)
        close(trunk.upper(states, mask)[mask], before, 1e-5)
        with model.disable_adapter():  # the same states serve the reference
            close(trunk.upper(states, mask)[mask], whole(plain, ids, mask), 1e-5)
    assert (before - whole(plain, ids, mask)).abs().max() > 1e-2, (
        "the adapters must make a difference"
    )
    assert trunk.splits == (cut is not None)
    if trunk.splits:
        assert trunk.cut == cut + 1 - layers and states.shape == (3, 12, 32)
    else:
        assert torch.equal(states, ids)  # runs whole
    assert all(a is b for a, b in zip(order, backbone(model).modules(), strict=True))
    assert torch.equal(whole(model, ids, mask), before)  # the model is as it was


@pytest.mark.parametrize(
    "family, config, cut", [f for f in FAMILIES if f.values[1].model_type in models.GROUPED]
)
def test_grouped_attention_is_plain_attention(family, config, cut):
    torch.manual_seed(0)
    ids, mask = torch.randint(0, 64, (3, 12), generator=seeded()), torch.ones(3, 12).bool()
    mask[0, :5] = False
    results = []
    plain = family(config).eval()
    for kind in ("eager", "grouped"):
        model = copy.deepcopy(plain)
        model.set_attn_implementation(kind)
        hidden = backbone(model)(
            ids, attention_mask=mask.long(), position_ids=position_ids(mask)
        ).last_hidden_state[mask]
        hidden.pow(2).sum().backward()
        results.append((hidden.detach(), next(backbone(model).layers[0].parameters()).grad))
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_family_that_runs_whole_is_told_once():
    _say_whole.cache_clear()
    model = next(f.values for f in FAMILIES if f.id == "opt")
    model = model[0](model[1])
    with pytest.warns(UserWarning, match="This opt model .* runs the whole model"):
        Trunk(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trunk(model)


def test_a_failing_pass_leaves_the_model_as_it_was():
    model = adapted(LlamaForCausalLM(LlamaConfig(**SIZES)).eval())
    order, trunk = list(backbone(model).modules()), Trunk(model)
    with pytest.raises(Exception):
        trunk.upper(torch.zeros(1, 4, 33), torch.ones(1, 4).bool())  # a wrong width
    assert all(a is b for a, b in zip(order, backbone(model).modules(), strict=True))


@pytest.mark.parametrize("changed", [{}, {"logit_scale": 1.0}, {"final_logit_softcapping": 30.0}])
def test_a_model_that_changes_its_logits_after_the_head_is_refused(tmp_path, changed):
    GemmaForCausalLM(GemmaConfig(**SIZES, head_dim=8, **changed)).save_pretrained(tmp_path)
    if changed.get("final_logit_softcapping"):
        with pytest.raises(ModelError, match="final_logit_softcapping=30.0"):
            load_model(str(tmp_path))
        assert load_model(str(tmp_path), auto_class=AutoModel)  # a reward model has no such head
    else:
        assert load_model(str(tmp_path))
