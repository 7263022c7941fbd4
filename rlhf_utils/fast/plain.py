"""The plain twin of everything in fast/: short, slow and obviously right.

`RLHF_PLAIN=1` switches to these. The tests compare them with the fast ones.
"""

import contextlib
import time

import torch
from torch import Tensor, nn
from transformers import DynamicCache


def backbone(model) -> nn.Module:
    """The transformer without its head, and without peft's wrapper if there is one."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner.base_model if inner.base_model is not None else inner


def position_ids(attention_mask: Tensor) -> Tensor:
    """(B, L) positions. They count real tokens only, so that left padding moves nothing."""
    return (attention_mask.long().cumsum(1) - 1).clamp(min=0)


class Trunk:
    """A model that runs whole in every pass, so its states at the cut are the token ids.

    `model` is the transformer without its head, `head` is the head (None if there is none), and
    `cut` is the number of the first block that `upper` runs.
    """

    def __init__(self, model):
        self.model = backbone(model)
        self.head = model.get_output_embeddings()
        self.cut = 0

    def mixed(self):
        """The precision of a pass. Enter it around several passes to cast weights only once."""
        return contextlib.nullcontext()

    def lower(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L, …) states at the cut, here the (B, L) ids."""
        return input_ids

    def upper(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L, H) last hidden states from what `lower` gave."""
        return self.forward(attention_mask, input_ids=states)

    def new_cache(self) -> DynamicCache:
        """An empty cache of keys and values for `extend`."""
        return DynamicCache(config=self.model.config)

    @torch.no_grad()
    def extend(
        self, input_ids: Tensor, attention_mask: Tensor, cache: DynamicCache
    ) -> tuple[Tensor, Tensor]:
        """(last hidden states, states at the cut) of (B, L) ids that follow what `cache` holds.

        The mask covers the cached tokens and the new ones. The new ones join the cache.
        """
        hidden = self.forward(
            attention_mask, input_ids=input_ids, past_key_values=cache, use_cache=True
        )
        return hidden, input_ids

    def logits(self, hidden: Tensor, temperature: float | Tensor) -> Tensor:
        """(…, V) float32 logits over `temperature` from (…, H) hidden states."""
        return head_logits(self.head, hidden, temperature)

    def free_memory(self) -> None:
        """Hands freed memory back to the system. Nothing to do here."""

    def forward(self, attention_mask: Tensor, **inputs) -> Tensor:
        """One pass of the model. `inputs` are the ids or the states, and the cache if any."""
        length = next(iter(inputs.values())).shape[1]
        inputs = {"use_cache": False} | inputs
        with self.mixed():
            return self.model(
                attention_mask=attention_mask.long(),
                position_ids=position_ids(attention_mask)[:, -length:],
                **inputs,
            ).last_hidden_state


class Decoder:
    """Generates token by token with the model's own forward.

    `cache` holds the (B, P) prompt tokens; `mask` is False on their padding.
    """

    def __init__(self, trunk: Trunk, cache: DynamicCache, mask: Tensor):
        self.trunk = trunk
        self.cache = cache
        self.mask = mask

    def step(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H) last hidden states and (B, …) states at the cut of one more token for each row."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        hidden, states = self.trunk.extend(tokens[:, None], self.mask, self.cache)
        return hidden[:, -1], states[:, 0]

    def keep(self, rows: Tensor) -> None:
        """Goes on with these rows only."""
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]


def decoder(trunk: Trunk, cache: DynamicCache, mask: Tensor) -> Decoder:
    return Decoder(trunk, cache, mask)


def head_logits(head: nn.Linear, hidden: Tensor, temperature) -> Tensor:
    bias = None if head.bias is None else head.bias.detach().float()
    with torch.autocast(hidden.device.type, enabled=False):
        logits = nn.functional.linear(hidden.float(), head.weight.detach().float(), bias)
    return logits / temperature


def token_logprobs(
    head: nn.Linear, hidden: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """(log-probabilities, entropies), each (n,) float32, of (n,) labels after (n, H) states."""
    logprobs = head_logits(head, hidden, temperature).log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    return _chosen(logprobs, labels), entropy.detach()


@torch.no_grad()
def compared_logprobs(
    head: nn.Linear, hidden: Tensor, labels: Tensor, temperature: float, reference: Tensor
) -> tuple[Tensor, ...]:
    """(log-probabilities, entropies, the reference's log-probabilities, exact KL), each (n,).

    `reference` holds the (n, H) states of π_ref. KL(π‖π_ref) = Σ_v π(v)(log π(v) − log π_ref(v)).
    """
    logprobs = head_logits(head, hidden, temperature).log_softmax(-1)
    ref_logprobs = head_logits(head, reference, temperature).log_softmax(-1)
    p = logprobs.exp()
    entropy = -(p * logprobs).sum(-1)
    kl = (p * (logprobs - ref_logprobs)).sum(-1)
    return _chosen(logprobs, labels), entropy, _chosen(ref_logprobs, labels), kl


def _chosen(logprobs: Tensor, labels: Tensor) -> Tensor:
    return logprobs.gather(-1, labels[:, None])[:, 0]


def speed_up(model: nn.Module) -> nn.Module:
    """The model with transformers' plain attention."""
    if not hasattr(model, "peft_config"):
        model.set_attn_implementation("eager")
    return model


def product_rate(dtype: torch.dtype, size: int = 512) -> float:
    """FLOP/s of square matrix products on the CPU."""
    return measured_rate(torch.mm, dtype, size)


def measured_rate(product, dtype: torch.dtype, size: int) -> float:
    """FLOP/s of product(a, b) of square matrices: the best of 24 tries, of 2 if they are slow."""
    a, b = torch.randn(2, size, size).to(dtype)
    seconds = []
    while len(seconds) < 24 and (len(seconds) < 2 or sum(seconds) < 0.2):
        start = time.perf_counter()
        product(a, b)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)
