"""Generates token by token, after a pass over the prompts has filled the cache.

For one token a Llama-like model on a CPU spends more than half of its time on calls, on copies of
keys and values, and on bringing each weight into the order that oneDNN wants. `LeanDecoder` makes
fewer calls, keeps room for what comes, and orders weights once a batch.
Left out: GPUs, and models that `_is_lean` does not know. They use their own forward.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from .lora import LeanLinear
from .matmul import Linear, Product, can_order, linear, ordered
from .plain import Decoder
from .trunk import Trunk

LEAN = ("llama", "mistral", "qwen2")  # families whose blocks are those of `LeanDecoder`
COLUMNS = 32  # how many tokens' room is added at once; each new shape of a product costs a kernel


def decoder(trunk: Trunk, cache: DynamicCache, mask: Tensor) -> Decoder:
    kind = LeanDecoder if _is_lean(trunk, mask.device) else Decoder
    return kind(trunk, cache, mask)


def _is_lean(trunk: Trunk, device: torch.device) -> bool:
    config = trunk.model.config
    return (
        trunk.splits
        and config.model_type in LEAN
        and getattr(config, "sliding_window", None) is None
        and device.type == "cpu"
        and all(_has_known_layers(block) for block in trunk.blocks)
    )


def _has_known_layers(block: nn.Module) -> bool:
    layers = [*block.self_attn.named_children(), *block.mlp.named_children()]
    known = (nn.Linear, Linear, LeanLinear)
    return all(type(layer) in known for name, layer in layers if name.endswith("_proj"))


class LeanDecoder(Decoder):
    """The same numbers from a few calls a block.

    "shared" is the number of key and value heads. Keys and values of a block are (B · shared,
    columns, D), with a column for each token of a row and room for those that come.
    """

    def __init__(self, trunk: Trunk, cache: DynamicCache, mask: Tensor):
        self.trunk = trunk
        self.dtype = trunk.model.get_input_embeddings().weight.dtype
        self.shared = trunk.model.config.num_key_value_heads
        self.blocks = [_Block(block, self.dtype, len(mask)) for block in trunk.blocks]
        self.keys = [_heads_first(layer.keys) for layer in cache.layers]
        self.values = [_heads_first(layer.values) for layer in cache.layers]
        self.positions = mask.sum(1)  # of the next tokens
        self.used = mask.shape[1]  # columns
        # (B, columns), added to attention scores: −∞ hides a column
        self.bias = torch.zeros(mask.shape, dtype=self.dtype).masked_fill_(~mask, -torch.inf)

    @torch.no_grad()
    def step(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        if self.used == self.bias.shape[1]:
            self._make_room()
        self.bias[:, self.used] = 0
        x = self.trunk.model.get_input_embeddings()(tokens)
        place = self._place(x)
        states = x
        with torch.autocast(x.device.type, enabled=False):
            for number, block in enumerate(self.blocks):
                x = block(x, place, self.keys[number], self.values[number])
                if number + 1 == self.trunk.cut:
                    states = x
            x = self.trunk.norm(x)
        self.positions = self.positions + 1
        self.used += 1
        return x, states

    def keep(self, rows: Tensor) -> None:
        self.positions = self.positions[rows]
        self.bias = self.bias[rows]
        self._replace(lambda part: _heads_first(part.unflatten(0, (-1, self.shared))[rows]))

    def _place(self, x: Tensor) -> "_Place":
        cos, sin = self.trunk.model.rotary_emb(x, self.positions[:, None])
        cos, sin = cos.to(self.dtype), sin.to(self.dtype)
        half = sin.shape[-1] // 2
        return _Place(
            cos=cos,
            sin=torch.cat([-sin[..., :half], sin[..., half:]], dim=-1),
            bias=self.bias[:, None].repeat_interleave(self.shared, 0),
            column=self.used,
        )

    def _make_room(self) -> None:
        self.bias = nn.functional.pad(self.bias, (0, COLUMNS), value=-torch.inf)
        self._replace(lambda part: nn.functional.pad(part, (0, 0, 0, COLUMNS)))

    def _replace(self, change: Callable[[Tensor], Tensor]) -> None:
        for states in (self.keys, self.values):
            for number, part in enumerate(states):  # one by one, so that only one is there twice
                states[number] = change(part)


class _Place(NamedTuple):
    """Where the new tokens stand, for all blocks.

    The first half of the sines is negated, so that the rotation of two halves
    (a, b) → (a cos − b sin, b cos + a sin) needs only their exchange.
    """

    cos: Tensor  # (B, 1, D)
    sin: Tensor  # (B, 1, D)
    bias: Tensor  # (B · shared, 1, columns)
    column: int


class _Block:
    """One block's weights, and its forward for one token a row."""

    def __init__(self, block: nn.Module, dtype: torch.dtype, rows: int):
        attention, mlp = block.self_attn, block.mlp
        self.dtype = dtype
        self.size = attention.head_dim
        self.scaling = attention.scaling
        self.act = mlp.act_fn
        self.attention_norm = block.input_layernorm
        self.mlp_norm = block.post_attention_layernorm
        self.qkv = _product([attention.q_proj, attention.k_proj, attention.v_proj], dtype, rows)
        self.out = _product([attention.o_proj], dtype, rows)
        self.gate_up = _product([mlp.gate_proj, mlp.up_proj], dtype, rows)
        self.down = _product([mlp.down_proj], dtype, rows)

    def __call__(self, x, place: _Place, keys, values) -> Tensor:
        """(B, H) → (B, H). Writes the token's key and value into their column."""
        # Blocks that learn are float32 above a bfloat16 trunk.
        x = x.to(self.attention_norm.weight.dtype)
        x = x + self._attention(self._normed(self.attention_norm, x), place, keys, values)
        gate, up = self.gate_up(self._normed(self.mlp_norm, x)).chunk(2, -1)
        return x + self.down(self.act(gate) * up)

    def _attention(self, x, place: _Place, keys, values) -> Tensor:
        """softmax(q kᵀ · scaling + bias) v, through the output's product."""
        rows, shared = len(x), len(keys) // len(x)
        heads = self.qkv(x).view(rows, -1, self.size)  # queries, then shared keys, then values
        query_key, value = heads[:, :-shared], heads[:, -shared:]
        exchanged = query_key.roll(self.size // 2, -1)
        query_key = torch.addcmul(query_key * place.cos, exchanged, place.sin)
        query, key = query_key[:, :-shared], query_key[:, -shared:]

        keys[:, place.column] = key.reshape(-1, self.size)
        values[:, place.column] = value.reshape(-1, self.size)
        query = query.reshape(len(keys), -1, self.size)  # those that share a key, side by side
        scores = torch.add(place.bias, query @ keys.transpose(1, 2), alpha=self.scaling)
        weights = scores.softmax(-1, dtype=torch.float32).to(self.dtype)
        return self.out((weights @ values).view(rows, -1))

    def _normed(self, norm: nn.Module, x: Tensor) -> Tensor:
        normed = nn.functional.rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)
        return normed.to(self.dtype)


def _heads_first(states: Tensor) -> Tensor:
    """(B, shared, columns, D) as (B · shared, columns, D), in one piece."""
    return states.flatten(0, 1).contiguous()


def _product(layers: list[nn.Module], dtype: torch.dtype, rows: int) -> Product:
    """x ↦ what these layers make of the same (rows, I) x, side by side, adapters included."""
    bases = [layer.base_layer if isinstance(layer, LeanLinear) else layer for layer in layers]
    whole = _base_product(bases, dtype, rows)
    adapters = [_adapter(layer) for layer in layers]
    low = torch.cat([a for a, _, _ in adapters]).to(dtype).T
    high = torch.block_diag(*[scaling * b for _, b, scaling in adapters]).to(dtype).T
    if len(high) == 0:  # no adapters
        return whole
    return lambda x: whole(x).addmm_(x @ low, high)


def _adapter(layer: nn.Module) -> tuple[Tensor, Tensor, float]:
    """A, B and the scaling of a layer's adapter; of rank 0 if there is none."""
    if isinstance(layer, LeanLinear) and not layer.bare:
        return layer.adapter()
    weight = layer.weight
    return weight.new_zeros(0, weight.shape[1]), weight.new_zeros(weight.shape[0], 0), 0.0


def _base_product(layers: list[nn.Module], dtype: torch.dtype, rows: int) -> Product:
    weights = [layer.weight.detach().to(dtype) for layer in layers]
    biases = [None if layer.bias is None else layer.bias.to(dtype) for layer in layers]
    if weights[0].is_contiguous() and can_order(weights[0]):
        bias = None if biases[0] is None else torch.cat(biases)
        return ordered(torch.cat(weights), bias, rows)
    # Weights that `use_fast_products` laid out lie as they should.
    if len(layers) == 1:
        return lambda x: linear(x, weights[0], biases[0])
    return lambda x: torch.cat([linear(x, *pair) for pair in zip(weights, biases)], dim=-1)
