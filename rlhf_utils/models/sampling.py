"""Batched sampling and scoring of responses, with float32 log-probabilities at the sampling temperature.

Sampling is plain: no top-k, no top-p, no minimum length, whatever the model's own generation_config says, because PPO's
ratio is only right if the distribution sampled from is the one that is trained. Left out: beam search, speculative decoding,
static caches and CUDA graphs.
"""

from dataclasses import dataclass

import torch
from torch import nn

from ..data.rows import in_parts
from ..errors import ModelError
from ..fast.decoding import decoder
from ..fast.logprobs import compared_logprobs, head_logits, token_logprobs
from ..fast.trunk import Trunk
from .load import chat_prompt

SUBTOTAL = 256  # words of one subtotal of the cumulative distribution


CHECK_EVERY = {
    "cuda": 8
}  # tokens between looks at which rows have ended; looking makes a GPU wait for the host


@dataclass
class Samples:
    """B prompts and their responses; P prompt tokens and T response tokens after trimming."""

    prompts: list[str]
    query_ids: torch.Tensor  # (B, P) int64, padded on the left
    query_mask: torch.Tensor  # (B, P) bool, False on padding
    response_ids: torch.Tensor  # (B, T) int64, padded on the right
    response_mask: torch.Tensor  # (B, T) bool, True up to and including the end-of-sequence token
    logprobs: torch.Tensor  # (B, T) float32, 0 on padding
    ended: torch.Tensor  # (B,) bool, True where the end-of-sequence token was sampled
    responses: list[str]  # decoded without special tokens
    trunk: (
        torch.Tensor | None
    )  # (B, P + T − 1, H) what the frozen lower blocks made of all tokens but the last; ids where the model runs whole
    cut: int  # the first block that has not yet run on `trunk`
    ends: torch.Tensor | None = (
        None  # (B, 2, H) `trunk` of each row's last token, and of an end-of-sequence token after it (anything where `ended`)
    )

    @property
    def input_ids(self) -> torch.Tensor:
        return torch.cat([self.query_ids, self.response_ids], dim=1)

    @property
    def attention_mask(self) -> torch.Tensor:
        return torch.cat([self.query_mask, self.response_mask], dim=1)

    @property
    def predicting(self) -> torch.Tensor:
        """(B, P + T − 1) bool, True for each token that another real one follows: all that a pass over `trunk` has to read."""
        return torch.cat([self.query_mask, self.response_mask[:, 1:]], dim=1)

    def closed(self, eos_token_id: int) -> list[tuple[list[int], torch.Tensor]]:
        """Each row's (n,) real tokens with one end-of-sequence token at the end, sampled or not, and their (n, H) states of the trunk."""
        tails = [
            1 if ended else 2 for ended in self.ended.tolist()
        ]  # the last token, and the end where there is none
        return [
            (
                ids[mask].tolist() + [eos_token_id] * (tail - 1),
                torch.cat([states[real], ends[:tail]]),
            )
            for ids, mask, states, real, ends, tail in zip(
                self.input_ids, self.attention_mask, self.trunk, self.predicting, self.ends, tails
            )
        ]

    def parts(self, rows: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
        """The rows in parts of `size` of like length, so that little is padded."""
        return rows[self.predicting[rows].sum(1).argsort(stable=True)].split(size)


def upper_hidden(trunk: Trunk, samples: Samples, rows: torch.Tensor) -> torch.Tensor:
    """(n, H) float32 states that predict the n real response tokens of `rows`, row after row, from one pass of the upper blocks.

    Padding is squeezed out first: the rows' real tokens move to the left and the rest is cut. Raises ModelError for a model of another cut.
    """
    if samples.trunk is None or samples.cut != trunk.cut:
        held = "no states" if samples.trunk is None else f"states for blocks {samples.cut} and up"
        raise ModelError(
            f"The samples hold {held}, but this model goes on from block {trunk.cut}: sample with the model that is to read them, and states=True."
        )
    real, length = samples.predicting[rows], samples.response_mask[rows].sum(1, keepdim=True)
    count = real.sum(1, keepdim=True)
    states = nn.utils.rnn.pad_sequence(
        [row[mask] for row, mask in zip(samples.trunk[rows], real)], batch_first=True
    )
    place = torch.arange(states.shape[1], device=states.device)
    return trunk.upper(states, place < count)[(place >= count - length) & (place < count)].float()


@torch.no_grad()
def sample(
    model,
    tokenizer,
    prompts: list[str],
    max_new_tokens: int,
    temperature: float | list[float],
    generator: torch.Generator | None = None,
    states: bool = True,
    apart: list[bool] | None = None,
) -> Samples:
    """One response to each prompt, sampled in one batch; `temperature` is one number or one a prompt. Equal prompts are read once.

    states: whether the trunk's states are kept, for `score_tokens` and PPO.
    apart: which responses may not begin with a token that others to the same prompt in the batch begin with; `logprobs` are those after that.
    """
    device = next(model.parameters()).device
    different = list(dict.fromkeys(prompts))
    which = torch.tensor([different.index(prompt) for prompt in prompts], device=device)
    batch = tokenizer(
        [chat_prompt(tokenizer, p) for p in different],
        return_tensors="pt",
        padding=True,
        add_special_tokens=False,
    ).to(device)
    query_ids, query_mask = batch["input_ids"], batch["attention_mask"].bool()
    rows, width = len(prompts), query_ids.shape[1]
    temperatures = torch.as_tensor(temperature, dtype=torch.float32, device=device).expand(rows)
    if bool((temperatures <= 0).any()):
        raise ValueError(
            f"temperature={temperature} must be above 0: sampling at 0 has no log-probabilities to train on."
        )
    response = torch.full((rows, max_new_tokens), tokenizer.pad_token_id, device=device)
    logprobs = torch.zeros(rows, max_new_tokens, device=device)
    active = torch.arange(
        rows, device=device
    )  # rows in the batch; ended ones are dropped now and then
    ended = torch.zeros(rows, dtype=torch.bool, device=device)
    trunk = Trunk(model)
    cache = trunk.new_cache()
    hidden, read = trunk.both(query_ids, query_mask, cache)
    cache.batch_select_indices(which)
    hidden, read, decoding = (
        hidden[which, -1],
        read[which],
        decoder(trunk, cache, query_mask[which]),
    )
    del cache  # a decoder that copies keys and values need not hold them twice
    if states:
        kept = read.new_zeros(rows, width + max_new_tokens + 1, *read.shape[2:])
        kept[:, :width] = read
    for step in range(max_new_tokens):
        logits = head_logits(model, hidden, temperatures[active, None])
        tokens, response_logprobs = _draw(logits, generator)
        if step == 0 and any(apart or ()):
            last, taken = (
                torch.tensor(apart, device=device),
                torch.zeros(len(different), logits.shape[1], dtype=torch.bool, device=device),
            )
            taken[which[~last], tokens[~last]] = True
            tokens[last], response_logprobs[last] = _draw(
                logits[last].masked_fill_(taken[which[last]], -torch.inf), generator
            )
        response[active, step] = tokens
        logprobs[active, step] = response_logprobs
        going = ~ended[active]  # before this step: the pass after a row's end reads that end
        ended[active] |= tokens == tokenizer.eos_token_id
        going = going if states else ~ended[active]
        if (step + 1) % CHECK_EVERY.get(device.type, 1) == 0:
            if bool(ended.all()):
                break
            rest = going.nonzero()[:, 0]
            if len(rest) <= 0.75 * len(
                active
            ):  # copying the cache costs about a step, so not for every row that ends
                decoding.keep(rest)
                active, tokens = active[rest], tokens[rest]
        if step + 1 < max_new_tokens:
            hidden, read = decoding.step(tokens)
            if states:
                kept[active, width + step] = read
    if states:  # of the last token, and of an end where there was none
        for place, ids in enumerate(
            (tokens, torch.full_like(tokens, max(tokenizer.eos_token_id, 0)))
        ):
            kept[active, width + step + place] = decoding.lower(ids)
    return _finish(
        prompts,
        query_ids[which],
        query_mask[which],
        response,
        logprobs,
        kept if states else None,
        trunk.cut,
        tokenizer,
    )


def _draw(
    logits: torch.Tensor, generator: torch.Generator | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B,) tokens drawn by inverting the cumulative distribution of (B, V) logits, and their (B,) log-probabilities.

    One uniform number a row finds first a subtotal of 256 words, then the word in it; running sums are in float64, so that tails survive.
    """
    rows, words = logits.shape
    p = logits.softmax(1)
    parts = (nn.functional.pad(p, (0, -words % SUBTOTAL)) if words % SUBTOTAL else p).view(
        rows, -1, SUBTOTAL
    )
    upto = parts.sum(2).double().cumsum_(1)
    point = (
        torch.rand(rows, 1, generator=generator, dtype=torch.float64, device=logits.device)
        * upto[:, -1:]
    )
    part = torch.searchsorted(upto, point, right=True).clamp(max=upto.shape[1] - 1)
    inside = parts[torch.arange(rows, device=logits.device), part[:, 0]].double().cumsum_(1)
    point = point - torch.where(part > 0, upto.gather(1, (part - 1).clamp(min=0)), 0.0)
    point = torch.minimum(point, inside[:, -1:] * (1 - 1e-12))  # a word of no weight is never taken
    choice = (part * SUBTOTAL + torch.searchsorted(inside, point, right=True)).clamp(
        max=words - 1
    )  # logits that are NaN: told by `update`
    return choice[:, 0], p.gather(1, choice)[:, 0].log()


def _finish(prompts, query_ids, query_mask, response, logprobs, states, cut, tokenizer) -> Samples:
    """Cuts each row after its first end-of-sequence token and trims columns that no row uses."""
    is_eos = response == tokenizer.eos_token_id
    mask = (
        is_eos.cumsum(1) - is_eos.long() == 0
    )  # a pad token drawn before the end counts: what follows attends to it
    length = max(int(mask.sum(1).max()), 1)
    response = response.masked_fill(~mask, tokenizer.pad_token_id)[:, :length]
    texts = tokenizer.batch_decode(response, skip_special_tokens=True)
    trunk = ends = None
    if states is not None:
        trunk, last = (
            states[:, : query_ids.shape[1] + length - 1].clone(),
            query_ids.shape[1] + mask.sum(1) - 1,
        )
        ends = states[
            torch.arange(len(states), device=last.device)[:, None],
            torch.stack([last, last + 1], dim=1),
        ]
    return Samples(
        prompts,
        query_ids,
        query_mask,
        response,
        mask[:, :length],
        (logprobs * mask)[:, :length],
        (is_eos & mask).any(1),
        [t.strip() for t in texts],
        trunk,
        cut,
        ends,
    )


def sample_many(
    model,
    tokenizer,
    prompts: list[str],
    max_new_tokens: int,
    temperature: float | list[float],
    batch_size: int,
    generator: torch.Generator | None = None,
    track=iter,
    states: bool = False,
    apart: list[bool] | None = None,
) -> list[Samples]:
    """`sample` over batches of prompts of like length, so that little is padded; `track` wraps the loop to show progress.

    The batches' rows are in an order of their own; each carries its prompts.
    """
    temperatures = temperature if isinstance(temperature, list) else [temperature] * len(prompts)
    batches = in_parts(sorted(range(len(prompts)), key=lambda i: len(prompts[i])), batch_size)
    return [
        sample(
            model,
            tokenizer,
            [prompts[i] for i in batch],
            max_new_tokens,
            [temperatures[i] for i in batch],
            generator,
            states,
            apart and [apart[i] for i in batch],
        )
        for batch in track(batches)
    ]


@torch.no_grad()
def score_tokens(
    model, samples: Samples, temperature: float, reference=None, chunk: int = 8
) -> dict[str, torch.Tensor]:
    """Log-probabilities of sampled responses under the model, and under `reference`, a context manager that turns it into π_ref.

    Returns (B, T) float32 tensors, 0 on padding: `logprobs`, `entropy`, and with a reference `ref_logprobs` and `kl`, the exact
    KL(π‖π_ref) = Σ_v π(v)(log π(v) − log π_ref(v)) of each position's distribution; and `hidden`, (B, T, H), the states that
    predict the tokens. Only the upper blocks run, on `samples.trunk`, for `chunk` rows at a time.
    """
    trunk, mask, found = Trunk(model), samples.response_mask, {}
    for rows in samples.parts(torch.arange(len(samples.prompts), device=mask.device), chunk):
        real = mask[rows]
        hidden, labels = upper_hidden(trunk, samples, rows), samples.response_ids[rows][real]
        if reference is None:
            values = token_logprobs(model, hidden, labels, temperature)
        else:
            with reference():
                ref_hidden = upper_hidden(trunk, samples, rows)
            values = compared_logprobs(model, hidden, labels, temperature, ref_hidden)
        part = {"hidden": hidden} | dict(zip(("logprobs", "entropy", "ref_logprobs", "kl"), values))
        for name, value in part.items():
            table = found.setdefault(name, value.new_zeros(*mask.shape, *value.shape[1:]))
            table[rows[:, None].expand_as(real)[real], real.nonzero()[:, 1]] = value
    return found
