"""The shared trunk against whole unpadded models, for every family that it splits and some not."""

import warnings

import pytest
import torch
from helpers_models import (
    FAMILIES,
    OPT,
    adapted,
    close,
    each_family,
    padded_ids,
    small,
    whole,
)

from rlhf_utils.fast import trunk as trunk_module
from rlhf_utils.fast.attention import GROUPED
from rlhf_utils.fast.plain import backbone, position_ids
from rlhf_utils.fast.trunk import Trunk

PADDING = [5, -2, 0]  # of three rows: on the left, on the right, none


@pytest.mark.filterwarnings("ignore:This .* runs the whole model")
@pytest.mark.parametrize("layers", [1, 2])
@each_family
def test_upper_of_lower_is_the_whole_model(config, splits, layers):
    plain, model = small(config), adapted(small(config), layers)
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
    "config, splits", [f for f in FAMILIES if f.values[0].model_type in GROUPED]
)
def test_grouped_attention_is_plain_attention(config, splits):
    ids, mask = padded_ids([5, 0, 0])
    results = []
    for kind in ("eager", "grouped"):
        model = small(config)
        model.set_attn_implementation(kind)
        output = backbone(model)(ids, attention_mask=mask.long(), position_ids=position_ids(mask))
        hidden = output.last_hidden_state[mask]
        hidden.pow(2).sum().backward()
        results.append((hidden.detach(), next(backbone(model).layers[0].parameters()).grad))
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_family_that_runs_whole_is_told_once():
    trunk_module._warn_whole.cache_clear()
    model = small(OPT)
    with pytest.warns(UserWarning, match="This opt model .* runs the whole model"):
        Trunk(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trunk(model)


def test_a_failing_pass_leaves_the_model_as_it_was():
    model = adapted(small())
    order, trunk = list(backbone(model).modules()), Trunk(model)
    with pytest.raises(RuntimeError):
        trunk.upper(torch.zeros(1, 4, 33), torch.ones(1, 4).bool())  # a wrong width
    assert all(a is b for a, b in zip(order, backbone(model).modules(), strict=True))
