"""One token a row after another, from what a pass over the prompts left in its cache.

On a CPU a Llama-like model spends more than half of such a pass on calls, on copies of keys and values, and on bringing
each weight into the order that oneDNN wants it in. `LeanDecoder` makes fewer calls and keeps room for what comes; weights that are
read together are one product, ordered once a batch. Left out: GPUs, and the families and adapters that are not in `decoder`'s condition, which
go through the model's own forward.
"""

import torch
from torch import nn
from transformers import DynamicCache

from .lora import LeanLinear
from .matmul import Linear, can_order, linear, ordered
from .trunk import Trunk

LEAN = ("llama", "mistral", "qwen2")  # families whose blocks are those of `LeanDecoder`
COLUMNS = 32  # by which the room for keys and values grows; each new shape of a bfloat16 product costs a kernel


class Decoder:
    """By the model's own forward."""

    def __init__(self, trunk: Trunk, cache: DynamicCache, mask: torch.Tensor):
        """cache: of the (B, P) tokens that `mask` tells from padding."""
        self.trunk, self.cache, self.mask = trunk, cache, mask

    def step(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, H) last hidden states of one more token a row, and the (B, …) states at the trunk's cut."""
        self._extend()
        hidden, read = self.trunk.both(tokens[:, None], self.mask, self.cache)
        return hidden[:, -1], read[:, 0]

    def lower(self, tokens: torch.Tensor) -> torch.Tensor:
        """The states at the cut alone; after it, only `lower` may follow."""
        self._extend()
        return self.trunk.lower(tokens[:, None], self.mask, self.cache)[:, 0]

    def keep(self, rows: torch.Tensor) -> None:
        """Goes on with these rows only."""
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]

    def _extend(self) -> None:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)


class LeanDecoder(Decoder):
    """The same numbers from a few calls a block."""

    def __init__(self, trunk: Trunk, cache: DynamicCache, mask: torch.Tensor):
        self.trunk, self.positions = trunk, mask.sum(1)  # of the next tokens
        self.dtype, self.shared = (
            trunk.model.get_input_embeddings().weight.dtype,
            trunk.model.config.num_key_value_heads,
        )
        self.blocks = [_Block(block, self.dtype, len(mask)) for block in trunk.blocks]
        self.keys, self.values = (
            [_heads_first(getattr(layer, name)) for layer in cache.layers]
            for name in ("keys", "values")
        )
        self.bias = torch.zeros(mask.shape, dtype=self.dtype).masked_fill_(
            ~mask, -torch.inf
        )  # added to attention scores
        self.used = mask.shape[1]

    def step(self, tokens):
        return self._run(tokens, len(self.blocks))

    def lower(self, tokens):
        return self._run(tokens, self.trunk.cut)[1]

    def keep(self, rows):
        self.positions, self.bias = self.positions[rows], self.bias[rows]
        for kept in (self.keys, self.values):
            for number, part in enumerate(kept):
                kept[number] = _heads_first(part.view(-1, self.shared, *part.shape[1:])[rows])

    @torch.no_grad()
    def _run(self, tokens: torch.Tensor, upto: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.used == self.bias.shape[1]:
            self._grow()
        self.bias[:, self.used] = 0
        model = self.trunk.model
        x = model.get_input_embeddings()(tokens)
        cos, sin = (part.to(self.dtype) for part in model.rotary_emb(x, self.positions[:, None]))
        half = sin.shape[-1] // 2
        sin = torch.cat(
            [-sin[..., :half], sin[..., half:]], dim=-1
        )  # so that halves need only change places
        bias = self.bias[:, None].repeat_interleave(self.shared, 0)  # (B · shared, 1, columns)
        with torch.autocast(x.device.type, enabled=False):
            for number, block in enumerate(self.blocks[:upto]):
                if number == self.trunk.cut:
                    read = x
                x = block(x, cos, sin, bias, self.keys[number], self.values[number], self.used)
            read = read if upto > self.trunk.cut else x
            x = self.trunk.norm(x) if upto == len(self.blocks) else x
        self.positions, self.used = self.positions + 1, self.used + 1
        return x, read

    def _grow(self) -> None:
        self.bias = nn.functional.pad(self.bias, (0, COLUMNS), value=-torch.inf)
        for kept in (self.keys, self.values):
            for number, part in enumerate(kept):  # one by one, so that only one is there twice
                kept[number] = nn.functional.pad(part, (0, 0, 0, COLUMNS))


class _Block:
    """One block's weights, and its forward for one token a row."""

    def __init__(self, block: nn.Module, dtype: torch.dtype, rows: int):
        attention, mlp = block.self_attn, block.mlp
        self.norms, self.dtype, self.act = (
            (block.input_layernorm, block.post_attention_layernorm),
            dtype,
            mlp.act_fn,
        )
        self.size, self.scaling = attention.head_dim, attention.scaling
        self.qkv, self.out = (
            _product([attention.q_proj, attention.k_proj, attention.v_proj], dtype, rows),
            _product([attention.o_proj], dtype, rows),
        )
        self.gate_up, self.down = (
            _product([mlp.gate_proj, mlp.up_proj], dtype, rows),
            _product([mlp.down_proj], dtype, rows),
        )

    def __call__(self, x, cos, sin, bias, keys, values, column: int) -> torch.Tensor:
        """(B, H) → (B, H); writes the token's key and value into `column` of the (B · shared, columns, D) tensors."""
        x = x.to(self.norms[0].weight.dtype)  # blocks that learn are float32 above a bfloat16 trunk
        rows, shared = len(x), len(keys) // len(x)
        heads = self.qkv(self._normed(0, x)).view(rows, -1, self.size)
        turned = heads[:, :-shared]  # all but the values
        turned = torch.addcmul(turned * cos, turned.roll(self.size // 2, -1), sin)
        keys[:, column], values[:, column] = (
            turned[:, -shared:].reshape(-1, self.size),
            heads[:, -shared:].reshape(-1, self.size),
        )
        query = turned[:, :-shared].reshape(len(keys), -1, self.size)
        scores = torch.add(bias, query @ keys.transpose(1, 2), alpha=self.scaling)
        seen = scores.softmax(-1, dtype=torch.float32).to(self.dtype) @ values
        x = x + self.out(seen.view(rows, -1))
        gate, up = self.gate_up(self._normed(1, x)).chunk(2, -1)
        return x + self.down(self.act(gate) * up)

    def _normed(self, which: int, x: torch.Tensor) -> torch.Tensor:
        norm = self.norms[which]
        return nn.functional.rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon).to(
            self.dtype
        )


def decoder(trunk: Trunk, cache: DynamicCache, mask: torch.Tensor) -> Decoder:
    """The leanest that gives the model's own numbers."""
    config = trunk.model.config
    lean = (
        trunk.splits
        and config.model_type in LEAN
        and getattr(config, "sliding_window", None) is None
        and mask.device.type == "cpu"
    )
    return (LeanDecoder if lean and all(map(_known, trunk.blocks)) else Decoder)(trunk, cache, mask)


def _known(block: nn.Module) -> bool:
    layers = [
        layer
        for part in (block.self_attn, block.mlp)
        for name, layer in part.named_children()
        if name.endswith("_proj")
    ]
    return all(
        layer.plain or layer.ordinary
        if isinstance(layer, LeanLinear)
        else type(layer) in (nn.Linear, Linear)
        for layer in layers
    )


def _heads_first(states: torch.Tensor) -> torch.Tensor:
    """(B, shared, columns, D) as (B · shared, columns, D), in one piece."""
    return states.flatten(0, 1).contiguous()


def _product(layers: list[nn.Module], dtype: torch.dtype, rows: int):
    """x ↦ what these layers make of the same (rows, I) x, side by side, adapters included."""
    bases = [layer.base_layer if isinstance(layer, LeanLinear) else layer for layer in layers]
    whole = _base_product(
        [base.weight.detach() for base in bases], [base.bias for base in bases], dtype, rows
    )
    adapters = [
        layer.adapter() if isinstance(layer, LeanLinear) and not layer.plain else _no_adapter(layer)
        for layer in layers
    ]
    low, high = (
        torch.cat([a for a, *_ in adapters]).to(dtype).T,
        torch.block_diag(*[scaling * b for _, b, scaling in adapters]).to(dtype).T,
    )
    return (lambda x: whole(x).addmm_(x @ low, high)) if len(high) else whole


def _no_adapter(layer: nn.Module) -> tuple[torch.Tensor, torch.Tensor, float]:
    """One of rank 0."""
    return (
        layer.weight.new_zeros(0, layer.weight.shape[1]),
        layer.weight.new_zeros(layer.weight.shape[0], 0),
        0.0,
    )


def _base_product(
    weights: list[torch.Tensor], biases: list[torch.Tensor | None], dtype: torch.dtype, rows: int
):
    weights, biases = (
        [weight.to(dtype) for weight in weights],
        [None if bias is None else bias.to(dtype) for bias in biases],
    )
    if weights[0].is_contiguous() and can_order(weights[0], dtype):
        return ordered(torch.cat(weights), None if biases[0] is None else torch.cat(biases), rows)
    pairs = list(zip(weights, biases))  # laid out by `use_fast_products`, they lie as they should
    return lambda x: (
        torch.cat([linear(x, *pair) for pair in pairs], dim=-1)
        if len(pairs) > 1
        else linear(x, *pairs[0])
    )
