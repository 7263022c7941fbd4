"""Matrix products on a CPU: how fast they are, and float32 ones by way of oneDNN where torch's own are much slower.

torch hands float32 products to MKL, which on AMD processors with AVX-512 reaches less than half of the rate of oneDNN, also a part of torch
and as exact. Left out: products of activations with activations, as in attention.
"""

import contextlib
import functools
import time
from collections.abc import Callable

import torch
from torch import nn


def set_products(dtype: torch.dtype) -> None:
    """As `products_in`, from now on."""
    torch.set_float32_matmul_precision("medium" if dtype == torch.bfloat16 else "highest")


@contextlib.contextmanager
def products_in(dtype: torch.dtype):
    """Within, float32 products are exact for float32, and may round their inputs to bfloat16 for bfloat16."""
    before = torch.get_float32_matmul_precision()
    set_products(dtype)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@functools.cache
def product_rate(dtype: torch.dtype, size: int = 512) -> float:
    """FLOP/s of square matrix products on the CPU, as `linear` makes them.

    The best of 24, that take some 20 ms in all; of 2 where they are very slow.
    """
    product, seconds = _onednn if dtype == torch.float32 and prefers_onednn() else torch.mm, []
    with products_in(torch.float32):
        a, b = torch.randn(2, size, size).to(dtype)
        while len(seconds) < 24 and (len(seconds) < 2 or sum(seconds) < 0.2):
            start = time.perf_counter()
            product(a, b)
            seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


@functools.cache
def prefers_onednn() -> bool:
    """Whether float32 products go by way of oneDNN: on AMD processors with AVX-512, which MKL leaves unused.

    Known, not measured: two processes that chose otherwise would differ in their last digits. There oneDNN was 1.2 to 2 times as fast with many
    rows and 1.9 to 4 times with a sampling step's; on an AMD processor with AVX2 alone 0.8 times with many.
    """
    processor = torch.cpu.get_capabilities()
    return (
        _has("_linear_pointwise")
        and "AMD" in processor.get("cpu_name", "")
        and processor.get("avx512_f", False)
    )


def _has(operation: str) -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, operation)


def _onednn(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
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
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            _onednn(gradient, weight) if for_x else None,
            _onednn(gradient.T, x) if for_weight else None,
            gradient.sum(0) if for_bias else None,
        )


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """torch.nn.functional.linear, (…, I) → (…, O), with its gradients."""
    plain = (
        x.device.type != "cpu"
        or not x.dtype == weight.dtype == torch.float32
        or torch.is_autocast_enabled("cpu")
        or torch.get_float32_matmul_precision() != "highest"
        or not x.numel()
        or not prefers_onednn()
    )
    if plain:
        return nn.functional.linear(x, weight, bias)
    flat = x.flatten(0, -2)
    return (
        _Linear.apply(flat, weight, bias)
        if torch.is_grad_enabled()
        else _onednn(flat, weight.T, bias)
    ).view(*x.shape[:-1], -1)


def can_order(weight: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether `ordered` works for such weights in `dtype`, and pays: in float32 few rows take 0.6 to 0.7 of the time on an AMD processor with AVX2."""
    there = weight.device.type == "cpu" and _has("_reorder_linear_weight")
    pays = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float32: lambda: torch.backends.cpu.get_cpu_capability().startswith("AVX"),
    }
    return there and dtype in pays and pays[dtype]()


def ordered(
    weight: torch.Tensor, bias: torch.Tensor | None = None, rows: int = 16
) -> Callable[[torch.Tensor], torch.Tensor]:
    """x ↦ x Wᵀ + b of (…, I) inputs, without gradients, for many products of about `rows` rows (fewer than 16 want an order of their own).

    A copy of W is kept in the order that oneDNN would otherwise bring it into in each product.
    """
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


class Linear(nn.Linear):
    """`nn.Linear` by way of `linear`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)


def use_fast_products(model: nn.Module) -> nn.Module:
    """The model, its `nn.Linear` layers exchanged for `Linear`, float32 weights laid out input by input where oneDNN is preferred.

    So laid out, they are used as they lie; else oneDNN reorders them for each product, which with few rows takes as long as the product.
    """
    layers = [module for module in model.modules() if type(module) is nn.Linear]
    for layer in layers:
        layer.__class__ = Linear
    on_cpu = all(p.device.type == "cpu" and p.dtype == torch.float32 for p in model.parameters())
    if on_cpu and prefers_onednn():
        turned = {id(layer.weight) for layer in layers} - {id(model.get_input_embeddings().weight)}
        for p in model.parameters():  # all of them, as the file that they are mapped from stays in memory until the last is copied
            p.data = p.data.T.contiguous().T if id(p) in turned else p.data.clone()
    return model
