"""The shared trunk against whole unpadded models, for every family that it splits and some not."""

import copy
import warnings

import pytest
import torch
from helpers_models import FAMILIES, SIZES, adapted, close, padded_ids, whole
from transformers import AutoModel, GemmaConfig, GemmaForCausalLM, LlamaConfig, LlamaForCausalLM

from rlhf_utils.errors import ModelError
from rlhf_utils.fast import trunk as trunk_module
from rlhf_utils.fast.attention import GROUPED
from rlhf_utils.fast.plain import backbone, position_ids
from rlhf_utils.fast.trunk import Trunk
from rlhf_utils.models.load import load_model

PADDING = [5, -2, 0]  # of three rows: on the left, on the right, none


@pytest.mark.filterwarnings("ignore:This .* runs the whole model")
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("family, config, splits", FAMILIES)
def test_upper_of_lower_is_the_whole_model(family, config, splits, layers):
    torch.manual_seed(0)
    plain = family(config).eval()
    model = adapted(copy.deepcopy(plain), layers)
    ids, mask = padded_ids(PADDING)
    before, order = whole(model, ids, mask), list(backbone(model).modules())
    trunk = Trunk(model)
    with torch.no_grad():
        states = trunk.lower(ids, mask)
        close(trunk.upper(states, mask)[mask], before, 1e-5)
        with model.disable_adapter():  # the same states serve the reference
            close(trunk.upper(states, mask)[mask], whole(plain, ids, mask), 1e-5)
    difference = (before - whole(plain, ids, mask)).abs().max()
    assert difference > 1e-2, "the adapters must make a difference"
    assert trunk.splits == splits
    if splits:
        assert trunk.cut == 4 - layers and states.shape == (3, 12, 32)
    else:
        assert torch.equal(states, ids)  # runs whole
    assert all(a is b for a, b in zip(order, backbone(model).modules(), strict=True))
    assert torch.equal(whole(model, ids, mask), before)  # the model is as it was


@pytest.mark.parametrize(
    "family, config, splits", [f for f in FAMILIES if f.values[1].model_type in GROUPED]
)
def test_grouped_attention_is_plain_attention(family, config, splits):
    torch.manual_seed(0)
    ids, mask = padded_ids([5, 0, 0])
    results = []
    plain = family(config).eval()
    for kind in ("eager", "grouped"):
        model = copy.deepcopy(plain)
        model.set_attn_implementation(kind)
        output = backbone(model)(ids, attention_mask=mask.long(), position_ids=position_ids(mask))
        hidden = output.last_hidden_state[mask]
        hidden.pow(2).sum().backward()
        results.append((hidden.detach(), next(backbone(model).layers[0].parameters()).grad))
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_family_that_runs_whole_is_told_once():
    trunk_module._warn_whole.cache_clear()
    family, config, _ = next(f.values for f in FAMILIES if f.id == "opt")
    model = family(config)
    with pytest.warns(UserWarning, match="This opt model .* runs the whole model"):
        Trunk(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trunk(model)


def test_a_failing_pass_leaves_the_model_as_it_was():
    model = adapted(LlamaForCausalLM(LlamaConfig(**SIZES)).eval())
    order, trunk = list(backbone(model).modules()), Trunk(model)
    with pytest.raises(RuntimeError):
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
