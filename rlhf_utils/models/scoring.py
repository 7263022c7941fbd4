"""What a model says of tokens that were sampled: log-probabilities, entropies, exact KL.

Only the upper blocks run, on the states that sampling kept.
"""

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..fast import Trunk, compared_logprobs, token_logprobs
from .chat import chat_prompt
from .sampling import Samples


@torch.no_grad()
def score_tokens(
    model, samples: Samples, temperature: float, reference, chunk: int = 8
) -> dict[str, Tensor]:
    """Log-probabilities of sampled answers under the model and under π_ref.

    reference: what `reference_of` returns, for π_ref. chunk: rows of one pass.
    Returns (B, T) float32 tensors, 0 on padding: `logprobs`, `entropy`, `ref_logprobs` and `kl`,
    the exact KL(π‖π_ref) = Σ_v π(v)(log π(v) − log π_ref(v)) of each position's distribution.
    Also `hidden`, (B, T, H), the states that predict the tokens.
    """
    trunk = Trunk(model)
    mask = samples.answer_mask
    tables: dict[str, Tensor] = {}
    for rows in samples.parts(torch.arange(len(mask), device=mask.device), chunk):
        hidden = answer_hidden(trunk, samples, rows)
        with reference():
            ref_hidden = answer_hidden(trunk, samples, rows)
        labels = samples.answer_ids[rows][mask[rows]]
        values = compared_logprobs(trunk.head, hidden, labels, temperature, ref_hidden)
        row, column = mask[rows].nonzero(as_tuple=True)
        names = ("logprobs", "entropy", "ref_logprobs", "kl", "hidden")
        for name, value in zip(names, (*values, hidden)):
            if name not in tables:
                tables[name] = value.new_zeros(*mask.shape, *value.shape[1:])
            tables[name][rows[row], column] = value
    trunk.free_memory()
    return tables


def answer_logprobs(
    model, samples: Samples, rows: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(log-probabilities, entropies, hidden states) of the n real answer tokens of `rows`.

    (n,), (n,) and (n, H), row after row, in float32. The first and the last have gradients.
    """
    trunk = Trunk(model)
    hidden = answer_hidden(trunk, samples, rows)
    labels = samples.answer_ids[rows][samples.answer_mask[rows]]
    logprobs, entropy = token_logprobs(trunk.head, hidden, labels, temperature)
    return logprobs, entropy, hidden


def given_logprobs(
    model, tokenizer, prompts: list[str], answers: list[list[int]], temperature: float, reference
) -> tuple[Tensor, Tensor]:
    """(B,) log-probabilities of answers that nobody sampled, under the model and under π_ref.

    answers: the token ids of each, at least one; an answer may be the beginning of a longer one.
    """
    asked = [chat_prompt(tokenizer, prompt) for prompt in prompts]
    encoded = tokenizer(asked, return_tensors="pt", padding=True, add_special_tokens=False)
    encoded = encoded.to(model.device)
    given = [torch.tensor(ids, device=model.device) for ids in answers]
    answer_ids = nn.utils.rnn.pad_sequence(given, batch_first=True)
    answer_mask = nn.utils.rnn.pad_sequence([ids >= 0 for ids in given], batch_first=True)
    prompt_ids, prompt_mask = encoded["input_ids"], encoded["attention_mask"].bool()
    ids, mask = torch.cat([prompt_ids, answer_ids], 1), torch.cat([prompt_mask, answer_mask], 1)
    trunk = Trunk(model)
    samples = Samples(
        prompts=prompts,
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        answer_ids=answer_ids,
        answer_mask=answer_mask,
        logprobs=torch.zeros(answer_ids.shape),  # nobody sampled
        ended=torch.zeros(len(prompts), dtype=torch.bool),
        answers=[],
        trunk=trunk.lower(ids[:, :-1], mask[:, :-1]),
        cut=trunk.cut,
    )
    found = score_tokens(model, samples, temperature, reference)
    return found["logprobs"].sum(1), found["ref_logprobs"].sum(1)


def answer_hidden(trunk: Trunk, samples: Samples, rows: Tensor) -> Tensor:
    """(n, H) float32 states that predict the n real answer tokens of `rows`, row after row.

    The real tokens of each row are moved to the left first, so that less is padded. Raises
    ModelError for a model with another cut.
    """
    if samples.trunk is None or samples.cut != trunk.cut:
        held = "no states" if samples.trunk is None else f"states for blocks {samples.cut} and up"
        raise ModelError(
            f"The samples hold {held}, but this model goes on from block {trunk.cut}: sample with "
            "the model that is to read them, and keep_states=True."
        )
    real = samples.predicting[rows]
    states = nn.utils.rnn.pad_sequence(
        [row[mask] for row, mask in zip(samples.trunk[rows], real)], batch_first=True
    )
    count = real.sum(1, keepdim=True)
    length = samples.answer_mask[rows].sum(1, keepdim=True)
    place = torch.arange(states.shape[1], device=states.device)
    predicts_answer = (place >= count - length) & (place < count)
    return trunk.upper(states, place < count)[predicts_answer].float()
