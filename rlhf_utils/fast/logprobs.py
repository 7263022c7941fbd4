"""TODO: purpose."""

import weakref
from collections.abc import Iterator

import torch

from .matmul import can_order, linear, ordered

TABLES = (
    1 << 25
)  # numbers in all the tables of logits and probabilities that live at a time: 134 MB


_float32_heads = (
    weakref.WeakKeyDictionary()
)  # head → (the state its weights were in, its float32 product)


def head_logits(model, hidden: torch.Tensor, temperature: float | torch.Tensor) -> torch.Tensor:
    """(…, V) float32 logits over `temperature` from (…, H) hidden states; bfloat16 logits would be off by up to 0.06.

    Of bfloat16 weights and states the product is exact to float32 and still fast, see `models.load_model`.
    """
    head = model.get_output_embeddings()
    with torch.autocast(hidden.device.type, enabled=False):
        logits = _head_product(head)(
            hidden.float()
        )  # divided afterwards, so that bfloat16 states go in as they are
    return (logits if head.bias is None else logits + head.bias.detach().float()).div_(temperature)


def _head_product(head):
    """x ↦ x Wᵀ in float32."""
    weight = head.weight.detach()
    state, cached = (weight.device, weight.data_ptr(), weight._version), _float32_heads.get(head)
    if cached is None or cached[0] != state:
        whole = weight.float()
        cached = _float32_heads[head] = (
            state,
            ordered(whole) if can_order(whole, whole.dtype) else lambda x: linear(x, whole),
        )
    return cached[1]


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(head(hidden)/temperature)[label] with a gradient for hidden, and its entropy.

    A table of logits is worked on at a time, in place, and what the backward pass needs is computed at once:
    slope = ∂ log p[label] / ∂ hidden = (W[label] − Σ_v p_v W_v) / temperature, of the size of `hidden`, where a table would be 85 times as large.
    As logits are linear in hidden, Σ_v p_v logit_v is the label's less hidden · slope, which gives the entropy for next to nothing.
    """

    @staticmethod
    def forward(ctx, hidden, labels, model, temperature):
        head, slope, (chosen, entropy) = (
            model.get_output_embeddings(),
            torch.empty_like(hidden),
            hidden.new_zeros(2, len(hidden)),
        )
        weight = head.weight.detach()
        for rows in _tables(hidden, weight, 2):
            label, logits = labels[rows, None], head_logits(model, hidden[rows], temperature)
            p = torch.softmax(logits, 1, out=logits)
            chosen[rows] = p.gather(1, label)[:, 0].clamp(min=torch.finfo(p.dtype).tiny).log()
            p.scatter_add_(1, label, p.new_full(label.shape, -1.0))
            slope[rows] = linear(p.to(weight.dtype), weight.T) / -temperature
            entropy[rows] = (
                torch.linalg.vecdot(hidden[rows], slope[rows])
                - chosen[rows]
                - (0 if head.bias is None else p @ head.bias.detach().float() / temperature)
            )
        ctx.save_for_backward(slope)
        ctx.mark_non_differentiable(entropy)
        return chosen, entropy

    @staticmethod
    def backward(ctx, gradient, _):
        return ctx.saved_tensors[0] * gradient[:, None], None, None, None


def _tables(hidden: torch.Tensor, weight: torch.Tensor, live: int) -> Iterator[slice]:
    """The rows of hidden whose logits make one table, where so many tables live at a time."""
    size = max(TABLES // live // len(weight), 16)
    return (slice(start, start + size) for start in range(0, len(hidden), size))


def token_logprobs(
    model, hidden: torch.Tensor, labels: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probabilities, entropies), each (n,) float32, of (n,) labels after (n, H) states; the first has gradients for `hidden`.

    A probability below float32's range counts as the smallest one, e^−87. Of a bfloat16 head the entropy is off by about 0.03 a token, by 0.001 in the mean.
    """
    return _TokenLogprobs.apply(hidden.float(), labels, model, temperature)


@torch.no_grad()
def compared_logprobs(
    model, hidden: torch.Tensor, labels: torch.Tensor, temperature: float, reference: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """(log-probabilities, entropies, reference's log-probabilities, exact KL), each (n,) float32, of (n,) labels after (n, H) states.

    `reference` are the (n, H) states of π_ref.
    """
    hidden, weight = hidden.float(), model.get_output_embeddings().weight
    chosen, entropy, ref_chosen, kl = hidden.new_zeros(4, len(hidden))
    for rows in _tables(hidden, weight, 4):
        label, logits = labels[rows, None], head_logits(model, hidden[rows], temperature)
        p, total = _softmax(logits)
        chosen[rows], entropy[rows] = (
            logits.gather(1, label)[:, 0] - total,
            total - torch.linalg.vecdot(p, logits),
        )
        ref_logits = head_logits(model, reference[rows], temperature)
        _, ref_total = _softmax(ref_logits)
        ref_chosen[rows] = ref_logits.gather(1, label)[:, 0] - ref_total
        kl[rows] = torch.linalg.vecdot(p, logits.sub_(ref_logits)) - total + ref_total
    return chosen, entropy, ref_chosen, kl


def _softmax(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, V) probabilities and (n,) log-sum-exps, from one pass of exponentials."""
    p = logits.softmax(1)
    return p, logits.amax(1) - p.amax(1).log()
