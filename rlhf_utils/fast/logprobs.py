"""Log-probabilities, entropies and exact KL of tokens, without whole tables of logits.

A table of logits has a column for each of 49,152 tokens. Here one slice of rows at a time is
worked on, in place.
"""

import functools
import weakref
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .matmul import Product, can_order, linear, ordered

# numbers in all tables of logits and probabilities that are held at a time: 134 MB
TABLES = 1 << 25

# head → (the state its weights were in, its float32 product)
_float32_heads = weakref.WeakKeyDictionary()


def head_logits(head: nn.Linear, hidden: Tensor, temperature) -> Tensor:
    """What `Trunk.logits` gives.

    bfloat16 logits would be off by up to 0.06. The product of bfloat16 weights and states is exact
    to float32 and still fast, see `speed_up`; so the temperature divides the logits, not them.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        logits = _head_product(head)(hidden.float())
    if head.bias is not None:
        logits = logits + head.bias.detach().float()
    return logits.div_(temperature)


def _head_product(head: nn.Linear) -> Product:
    """x ↦ x Wᵀ in float32, made once for each state of the weights."""
    weight = head.weight.detach()
    state = (weight.device, weight.data_ptr(), weight._version)
    cached = _float32_heads.get(head)
    if cached is None or cached[0] != state:
        whole = weight.float()
        product = ordered(whole) if can_order(whole) else functools.partial(linear, weight=whole)
        cached = _float32_heads[head] = (state, product)
    return cached[1]


class _TokenLogprobs(torch.autograd.Function):
    """log p[label] and the entropy of p = softmax(W hidden + b over temperature), rows apart.

    The forward pass computes the gradient at once, because it has the size of `hidden`, while a
    table of logits would be 85 times as large:

        slope = ∂ log p[label] / ∂ hidden = (W[label] − Σ_v p_v W_v) / temperature.

    The entropy comes with it. logit_v = (W_v · hidden + b_v) / temperature, therefore
    hidden · slope = logit[label] − Σ_v p_v logit_v (biases apart), and

        entropy = Σ_v p_v (log Z − logit_v) = hidden · slope − log p[label] (biases apart).
    """

    @staticmethod
    def forward(ctx, hidden, labels, head, temperature):
        weight = head.weight.detach()
        slope = torch.empty_like(hidden)
        chosen, entropy = hidden.new_zeros(2, len(hidden))
        for rows in _slices(hidden, weight, tables=2):
            label = labels[rows, None]
            logits = head_logits(head, hidden[rows], temperature)
            p = torch.softmax(logits, 1, out=logits)
            smallest = torch.finfo(p.dtype).tiny
            chosen[rows] = p.gather(1, label)[:, 0].clamp(min=smallest).log()

            difference = p.scatter_add_(1, label, p.new_full(label.shape, -1.0))  # p − 1[label]
            slope[rows] = linear(difference.to(weight.dtype), weight.T) / -temperature

            spread = torch.linalg.vecdot(hidden[rows], slope[rows])
            entropy[rows] = spread - chosen[rows]
            if head.bias is not None:
                entropy[rows] -= difference @ head.bias.detach().float() / temperature
        ctx.save_for_backward(slope)
        ctx.mark_non_differentiable(entropy)
        return chosen, entropy

    @staticmethod
    def backward(ctx, gradient, _):
        (slope,) = ctx.saved_tensors
        return slope * gradient[:, None], None, None, None


def token_logprobs(
    head: nn.Linear, hidden: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """The twin in plain.py says what this gives. `hidden` gets gradients, the head gets none.

    A probability below float32's range counts as the smallest one, e^−87. With a bfloat16 head the
    entropy is off by about 0.03 for a token and by 0.001 in the mean.
    """
    return _TokenLogprobs.apply(hidden.float(), labels, head, temperature)


@torch.no_grad()
def compared_logprobs(
    head: nn.Linear, hidden: Tensor, labels: Tensor, temperature: float, reference: Tensor
) -> tuple[Tensor, ...]:
    """The twin in plain.py says what this gives. With p = softmax(logits), log Z their log-sum-exp:

    entropy = log Z − Σ_v p_v logit_v
    KL = Σ_v p_v (logit_v − ref_logit_v) − log Z + log Z_ref.
    """
    hidden = hidden.float()
    chosen, entropy, ref_chosen, kl = hidden.new_zeros(4, len(hidden))
    for rows in _slices(hidden, head.weight, tables=4):
        label = labels[rows, None]
        logits = head_logits(head, hidden[rows], temperature)
        p, log_z = _softmax(logits)
        chosen[rows] = logits.gather(1, label)[:, 0] - log_z
        entropy[rows] = log_z - torch.linalg.vecdot(p, logits)

        ref_logits = head_logits(head, reference[rows], temperature)
        _, ref_log_z = _softmax(ref_logits)
        ref_chosen[rows] = ref_logits.gather(1, label)[:, 0] - ref_log_z
        difference = logits.sub_(ref_logits)
        kl[rows] = torch.linalg.vecdot(p, difference) - log_z + ref_log_z
    return chosen, entropy, ref_chosen, kl


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(n, V) probabilities and (n,) log-sum-exps, from one pass of exponentials."""
    p = logits.softmax(1)
    return p, logits.amax(1) - p.amax(1).log()


def _slices(hidden: Tensor, weight: Tensor, tables: int) -> Iterator[slice]:
    """Slices of the rows, so small that `tables` tables of logits fit into TABLES."""
    size = max(TABLES // tables // len(weight), 16)
    for start in range(0, len(hidden), size):
        yield slice(start, start + size)
