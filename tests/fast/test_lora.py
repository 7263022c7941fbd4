"""LoRA layers with fewer passes over memory, against peft's own."""

import copy

import pytest
import torch
from peft import get_peft_model

from rlhf_utils.fast.lora import LeanLinear, make_lean
from rlhf_utils.fast.plain import backbone
from rlhf_utils.models import adapters
from rlhf_utils.models.load import load_model

IDS = torch.randint(1024, (3, 9), generator=torch.Generator().manual_seed(1))


def peft_model(dtype=torch.float32, dropout=0.0):
    model = load_model("tiny", dtype)
    torch.manual_seed(0)
    lora = adapters.lora_config(model, 4)
    lora.lora_dropout = dropout
    model = get_peft_model(model, lora).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def hidden_and_gradients(model):
    """The last states, and the gradients of a sum of them with different weights."""
    hidden = backbone(model)(IDS).last_hidden_state.float()
    (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert len(gradients) == 28
    assert all(g.dtype == torch.float32 and g.abs().max() > 0 for g in gradients.values())
    return hidden.detach(), gradients


def assert_close(found, expected, tolerance):
    """Within a share of the largest number."""
    atol = tolerance * expected.abs().max().item()
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_lean_adapters_are_pefts(dtype, tolerance):
    plain = peft_model(dtype)
    lean = make_lean(copy.deepcopy(plain))
    assert sum(isinstance(module, LeanLinear) for module in lean.modules()) == 14
    assert not any(isinstance(module, LeanLinear) for module in plain.modules())
    expected, slopes = hidden_and_gradients(plain)
    found, own = hidden_and_gradients(lean)
    assert_close(found, expected, tolerance)
    for name in slopes:
        assert_close(own[name], slopes[name], tolerance)
    original = backbone(load_model("tiny", dtype))(IDS).last_hidden_state
    for model in (plain, lean):
        with model.disable_adapter(), torch.no_grad():
            assert torch.equal(backbone(model)(IDS).last_hidden_state, original)


def test_dropout_in_training_is_left_to_peft():
    lean = make_lean(peft_model(dropout=0.5)).train()
    with torch.no_grad():
        assert not torch.equal(lean(IDS).logits, lean(IDS).logits)
        assert torch.equal(lean.eval()(IDS).logits, lean(IDS).logits)
