"""Batched sampling and scoring of responses, with float32 log-probabilities at the sampling temperature.

Sampling is plain: no top-k, no top-p, no minimum length, whatever the model's own generation_config says, because PPO's
ratio is only right if the distribution sampled from is the one that is trained. Left out: beam search, speculative decoding.
"""

from dataclasses import dataclass

import torch
from transformers import DynamicCache

from .data import chat_prompt
from .trunk import Trunk, backbone, position_ids


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

    @property
    def input_ids(self) -> torch.Tensor:
        return torch.cat([self.query_ids, self.response_ids], dim=1)

    @property
    def attention_mask(self) -> torch.Tensor:
        return torch.cat([self.query_mask, self.response_mask], dim=1)


def head_logits(model, hidden: torch.Tensor, temperature: float | torch.Tensor = 1.0) -> torch.Tensor:
    """(…, V) float32 logits over `temperature` from (…, H) hidden states; bfloat16 logits would be off by up to 0.06.

    From bfloat16 weights the product is exact to float32 and still fast, see `models.load_model`.
    """
    head = model.get_output_embeddings()
    bias = None if head.bias is None else head.bias.float()
    return torch.nn.functional.linear(hidden.float(), _float_weight(head), bias) / temperature


def _float_weight(head: torch.nn.Linear) -> torch.Tensor:
    """The head's weight in float32, cast once: the head is frozen in every stage that samples."""
    if head.weight.dtype == torch.float32:
        return head.weight
    cached = getattr(head, "_float32_weight", None)
    if cached is None or cached.device != head.weight.device:
        cached = head._float32_weight = head.weight.detach().float()
    return cached


@torch.no_grad()
def sample(model, tokenizer, prompts: list[str], max_new_tokens: int, temperature: float | list[float],
           generator: torch.Generator | None = None) -> Samples:
    """One response to each prompt, sampled in one batch; `temperature` is one number or one a prompt."""
    device = next(model.parameters()).device
    batch = tokenizer([chat_prompt(tokenizer, p) for p in prompts], return_tensors="pt", padding=True, add_special_tokens=False).to(device)
    query_ids, query_mask = batch["input_ids"], batch["attention_mask"].bool()
    rows = len(prompts)
    temperatures = torch.as_tensor(temperature, dtype=torch.float32, device=device).expand(rows)
    if bool((temperatures <= 0).any()):
        raise ValueError(f"temperature={temperature} must be above 0: sampling at 0 has no log-probabilities to train on.")
    response = torch.full((rows, max_new_tokens), tokenizer.pad_token_id, device=device)
    logprobs = torch.zeros(rows, max_new_tokens, device=device)
    active = torch.arange(rows, device=device)  # rows in the batch; ended ones are dropped now and then
    ended = torch.zeros(rows, dtype=torch.bool, device=device)
    cache, tokens, mask = DynamicCache(config=model.config), query_ids, query_mask
    for step in range(max_new_tokens):
        hidden = backbone(model)(tokens, attention_mask=mask.long(), position_ids=position_ids(mask)[:, -tokens.shape[1]:],
                                 past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
        logp = head_logits(model, hidden, temperatures[active, None]).log_softmax(-1)
        choice = _draw(logp, generator)
        response[active, step] = choice
        logprobs[active, step] = logp.gather(1, choice[:, None])[:, 0]
        ended[active] |= choice == tokenizer.eos_token_id
        going = ~ended[active]
        if not bool(going.any()):
            break
        tokens, mask = choice[:, None], torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
        if int(going.sum()) <= 0.75 * len(active):  # copying the cache costs about a step, so not for every row that ends
            keep = going.nonzero()[:, 0]
            cache.batch_select_indices(keep)
            active, tokens, mask = active[keep], tokens[keep], mask[keep]
    return _finish(prompts, query_ids, query_mask, response, logprobs, tokenizer)


def _draw(logp: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """(B,) tokens drawn by inverting the cumulative distribution: one uniform number a row, in float64 so that tails survive."""
    cumulative = logp.double().exp_().cumsum_(1)
    uniform = torch.rand(len(logp), 1, generator=generator, dtype=torch.float64, device=logp.device)
    return torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)[:, 0].clamp(max=logp.shape[1] - 1)


def _finish(prompts, query_ids, query_mask, response, logprobs, tokenizer) -> Samples:
    """Cuts each row after its first end-of-sequence token and trims columns that no row uses."""
    is_eos = response == tokenizer.eos_token_id
    mask = is_eos.cumsum(1) - is_eos.long() == 0  # a pad token drawn before the end counts: what follows attends to it
    length = max(int(mask.sum(1).max()), 1)
    response = response.masked_fill(~mask, tokenizer.pad_token_id)[:, :length]
    texts = tokenizer.batch_decode(response, skip_special_tokens=True)
    return Samples(prompts, query_ids, query_mask, response, mask[:, :length], (logprobs * mask)[:, :length],
                   (is_eos & mask).any(1), [t.strip() for t in texts])


def sample_many(model, tokenizer, prompts: list[str], max_new_tokens: int, temperature: float | list[float], batch_size: int,
                generator: torch.Generator | None = None, track=iter) -> list[Samples]:
    """`sample` over batches of prompts of like length, so that little is padded; `track` wraps the loop to show progress.

    The batches' rows are in an order of their own; each carries its prompts.
    """
    temperatures = temperature if isinstance(temperature, list) else [temperature] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [sample(model, tokenizer, [prompts[i] for i in batch], max_new_tokens, [temperatures[i] for i in batch], generator)
            for batch in track(batches)]


@torch.no_grad()
def score_tokens(model, samples: Samples, temperature: float, reference=None, chunk: int = 8) -> dict[str, torch.Tensor]:
    """Log-probabilities of sampled responses under the model, and under `reference`, a context manager that turns it into π_ref.

    Returns (B, T) float32 tensors, 0 on padding: `logprobs`, `entropy`, and with a reference `ref_logprobs` and `kl`, the exact
    KL(π‖π_ref) = Σ_v π(v)(log π(v) − log π_ref(v)) of each position's distribution; `hidden`, (B, T, H) float32, the states that
    predict the tokens; and `trunk`, the frozen lower blocks' states of all tokens. Full-vocabulary rows live for `chunk` rows only.
    """
    trunk, parts = Trunk(model), []
    predict = slice(samples.query_ids.shape[1] - 1, -1)
    for rows in torch.arange(len(samples.prompts)).split(chunk):
        ids, mask = samples.input_ids[rows], samples.attention_mask[rows]
        real, labels = samples.response_mask[rows], samples.response_ids[rows][..., None]
        states = trunk.lower(ids, mask)
        hidden = trunk.upper(states, mask)[:, predict]
        logp = head_logits(model, hidden, temperature).log_softmax(-1)
        part = {"logprobs": logp.gather(-1, labels)[..., 0], "entropy": -(logp.exp() * logp).sum(-1)}
        if reference is not None:
            with reference():
                ref = head_logits(model, trunk.upper(states, mask)[:, predict], temperature).log_softmax(-1)
            part["ref_logprobs"] = ref.gather(-1, labels)[..., 0]
            part["kl"] = (logp.exp() * (logp - ref)).sum(-1)
        part = {name: value.masked_fill(~real, 0.0) for name, value in part.items()}
        parts.append(part | {"hidden": hidden.float(), "trunk": states})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
