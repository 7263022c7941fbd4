"""Matrix products on a CPU: float32 ones by way of oneDNN where torch's own are much slower.

torch gives float32 products to MKL. On AMD processors with AVX-512 that reaches less than half the
rate of oneDNN, which is also part of torch and as exact.
Left out: products of activations with activations, as in attention.
"""

import contextlib
import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .plain import measured_rate

Product = Callable[[Tensor], Tensor]


def set_products(dtype: torch.dtype) -> None:
    """From now on float32 products are exact, or with bfloat16 may round their inputs to it."""
    torch.set_float32_matmul_precision("medium" if dtype == torch.bfloat16 else "highest")


@contextlib.contextmanager
def products_in(dtype: torch.dtype):
    """`set_products` within a block."""
    before = torch.get_float32_matmul_precision()
    set_products(dtype)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@functools.cache
def product_rate(dtype: torch.dtype, size: int = 512) -> float:
    product = _onednn if dtype == torch.float32 and prefers_onednn() else torch.mm
    with products_in(torch.float32):
        return measured_rate(product, dtype, size)


@functools.cache
def prefers_onednn() -> bool:
    """Whether float32 products go by way of oneDNN: on AMD processors with AVX-512.

    This is known and not measured, because two processes that choose differently would differ in
    their last digits. On such processors oneDNN was 1.2 to 2 times as fast with many rows and 1.9
    to 4 times with a sampling step's few; on an AMD processor with AVX2 only 0.8 times with many.
    """
    processor = torch.cpu.get_capabilities()
    amd = "AMD" in processor.get("cpu_name", "")
    return torch.backends.mkldnn.is_available() and amd and processor.get("avx512_f", False)


def _onednn(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """(m, k) @ (k, n), plus (n,)."""
    return torch.ops.mkldnn._linear_pointwise(a, b.T, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    """x Wᵀ + b of (n, I) inputs and (O, I) weights."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight.T, bias)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        for_x = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            for_x = _onednn(gradient, weight)
        if ctx.needs_input_grad[1]:
            for_weight = _onednn(gradient.T, x)
        if ctx.needs_input_grad[2]:
            for_bias = gradient.sum(0)
        return for_x, for_weight, for_bias


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """torch.nn.functional.linear, (…, I) → (…, O), with its gradients."""
    onednn = (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and torch.get_float32_matmul_precision() == "highest"
        and x.numel() > 0
        and prefers_onednn()
    )
    if not onednn:
        return nn.functional.linear(x, weight, bias)
    flat = x.flatten(0, -2)
    if torch.is_grad_enabled():
        out = _Linear.apply(flat, weight, bias)
    else:
        out = _onednn(flat, weight.T, bias)
    if x.dim() == 2:
        return out  # no view, so that a model may change it in place
    return out.view(*x.shape[:-1], -1)


def can_order(weight: Tensor) -> bool:
    """Whether `ordered` works for this weight, and pays.

    In float32 a product with few rows then takes 0.6 to 0.7 of the time on an AMD processor with
    AVX2.
    """
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    avx = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    return weight.dtype == torch.float32 and avx


def ordered(weight: Tensor, bias: Tensor | None = None, rows: int = 16) -> Product:
    """x ↦ x Wᵀ + b of (…, I) inputs, without gradients, for many products with one weight.

    Keeps a copy of W in the order that oneDNN would otherwise bring it into at each product. It
    suits inputs of about `rows` rows; fewer than 16 want an order of their own.
    """
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


class Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def use_fast_products(model: nn.Module) -> nn.Module:
    """The model with `Linear` in place of `nn.Linear`, its float32 weights laid out for oneDNN.

    oneDNN uses a weight that lies input by input as it is. Any other it reorders for each product,
    which with few rows takes as long as the product.
    """
    layers = [module for module in model.modules() if type(module) is nn.Linear]
    for layer in layers:
        layer.__class__ = Linear
    float32_on_cpu = all(
        p.device.type == "cpu" and p.dtype == torch.float32 for p in model.parameters()
    )
    if float32_on_cpu and prefers_onednn():
        embeddings = model.get_input_embeddings().weight  # may be the head's weight, too
        turned = {id(layer.weight) for layer in layers} - {id(embeddings)}
        # All are copied: the file that they are mapped from stays in memory until the last is.
        for p in model.parameters():
            p.data = p.data.T.contiguous().T if id(p) in turned else p.data.clone()
    return model
