"""Float32 products by way of oneDNN.

Values and gradients against float64, where they are not taken, and models whose layers use them.
"""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from rlhf_utils.fast import matmul, plain
from rlhf_utils.models import adapters
from rlhf_utils.models.builtin import resolve
from rlhf_utils.models.load import load_model

PREFERS_ONEDNN = matmul.prefers_onednn.__wrapped__


@pytest.fixture(autouse=True)
def preferred(monkeypatch):
    """As on a machine where oneDNN is the faster one, and with exact float32 products."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("torch is built without oneDNN here")
    monkeypatch.setattr(matmul, "prefers_onednn", lambda: True)
    with matmul.products_in(torch.float32):  # whatever another test's model has set
        yield


@pytest.fixture
def counted(monkeypatch):
    """The shapes of the products that oneDNN made."""
    shapes, onednn = [], matmul._onednn

    def counting(a, b, bias=None):
        shapes.append((*a.shape, b.shape[1]))
        return onednn(a, b, bias)

    monkeypatch.setattr(matmul, "_onednn", counting)
    return shapes


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_values_and_gradients_are_those_of_float64(counted, turned, biased):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 5, 7), torch.randn(11, 7), torch.randn(11)
    slope = torch.randn(2, 5, 11)
    weight = weight.T.contiguous().T if turned else weight
    results = []
    for dtype, function in (
        (torch.float32, matmul.linear),
        (torch.float64, nn.functional.linear),
    ):
        given = [t.detach().to(dtype, copy=True).requires_grad_() for t in (x, weight, bias)]
        given = given[: 3 if biased else 2]
        out = function(*given)
        (out * slope.to(dtype)).sum().backward()
        results.append([out.detach(), *(t.grad for t in given)])
    for found, expected in zip(*results):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert sorted(counted) == [(10, 7, 11), (10, 11, 7), (11, 10, 7)]


def test_a_frozen_weight_gets_no_product_of_its_own(counted):
    x = torch.randn(3, 4, requires_grad=True)
    matmul.linear(x, torch.randn(5, 4)).sum().backward()
    assert counted == [(3, 4, 5), (3, 5, 4)]
    with torch.no_grad():
        matmul.linear(x, torch.randn(5, 4, requires_grad=True))
    assert len(counted) == 3


def test_other_products_are_left_to_torch(counted, monkeypatch):
    x, weight = torch.randn(3, 4), torch.randn(5, 4)
    for dtype in (torch.bfloat16, torch.float64):
        found = matmul.linear(x.to(dtype), weight.to(dtype))
        assert torch.equal(found, nn.functional.linear(x.to(dtype), weight.to(dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        assert matmul.linear(x, weight).dtype == torch.bfloat16
    with matmul.products_in(torch.bfloat16):
        matmul.linear(x, weight)
    assert matmul.linear(x[:0], weight).shape == (0, 5)
    monkeypatch.setattr(matmul, "prefers_onednn", lambda: False)
    assert torch.equal(matmul.linear(x, weight), nn.functional.linear(x, weight))
    assert not counted


def test_a_loaded_model_uses_them_and_saves_what_it_loaded(counted, tmp_path):
    model = load_model("tiny")
    untouched = AutoModelForCausalLM.from_pretrained(resolve("tiny")).eval()
    ids = torch.randint(1024, (2, 9), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(ids).logits, untouched(ids).logits, rtol=1e-4, atol=1e-5)
    assert len(counted) == 2 * 7 + 1  # all linear layers of two blocks, and the head
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight

    turned = {
        name for name, p in model.named_parameters() if p.dim() == 2 and not p.is_contiguous()
    }
    assert len(turned) == 2 * 7
    copied = copy.deepcopy(model)
    assert copied.model.layers[0].mlp.up_proj.weight.stride(0) == 1
    below, learning = adapters.unfreeze_top(copied, 1).model.layers
    assert learning.mlp.up_proj.weight.is_contiguous()
    assert not below.mlp.up_proj.weight.is_contiguous()

    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    for name, value in untouched.state_dict().items():
        assert torch.equal(value, again[name])


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_weights_in_onednns_order_make_the_same_products(dtype, tolerance):
    if not matmul.can_order(torch.zeros(1, dtype=dtype)):
        pytest.skip("not with oneDNN here")
    torch.manual_seed(0)
    weight, bias = torch.randn(70, 40).to(dtype), torch.randn(70).to(dtype)
    for rows in (1, 16, 33):
        x = torch.randn(2, rows, 40).to(dtype)
        found = matmul.ordered(weight, bias, rows=16)(x)
        assert found.dtype == dtype
        expected = nn.functional.linear(x.double(), weight.double(), bias.double())
        torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=20 * tolerance)


def test_other_weights_have_no_order_of_their_own(monkeypatch):
    assert not matmul.can_order(torch.zeros(1, device="meta", dtype=torch.bfloat16))
    assert not matmul.can_order(torch.zeros(1, dtype=torch.float64))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert not matmul.can_order(torch.zeros(1))


@pytest.mark.parametrize(
    "name, avx512, expected",
    [
        ("AMD EPYC", True, True),
        ("AMD Ryzen", False, False),
        ("Intel Xeon", True, False),
        ("", False, False),
    ],
)
def test_which_processors_prefer_onednn_is_known_not_measured(name, avx512, expected, monkeypatch):
    capabilities = {"cpu_name": name, "avx512_f": avx512} if name else {}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(plain.time, "perf_counter", lambda: pytest.fail("measured"))
    assert PREFERS_ONEDNN() is expected


def test_measuring_leaves_the_precision_of_products_as_it_was():
    matmul.product_rate.cache_clear()
    with matmul.products_in(torch.bfloat16):
        assert matmul.product_rate(torch.float32, size=64) > 1e6
        assert torch.get_float32_matmul_precision() == "medium"
