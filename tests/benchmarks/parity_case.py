"""What both sides of the parity test share: its cases, their weights and their answers."""

from dataclasses import dataclass

import torch
from common import BATCH, LENGTH

PENALTY = 0.5  # for a missing end, in reward points


@dataclass
class Case:
    """One comparison: whether answers end early, and the settings of both sides."""

    name: str
    ends_early: bool
    kl_estimator: str = "k1"
    whiten_rewards: bool = False
    epochs: int = 1  # one optimizer step each
    learning_rate: float = 1e-3


def shake(model, seed: int, scale: float) -> None:
    """Adds normal noise to the blocks and the last norm: the same noise for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in (*model.model.layers, model.model.norm):
            for parameter in module.parameters():
                parameter += scale * torch.randn(parameter.shape, generator=generator)


def value_weight(size: int) -> torch.Tensor:
    """(1, size) weights of both value heads."""
    return 0.1 * torch.randn(1, size, generator=torch.Generator().manual_seed(3))


def fixed_answers(tokenizer, ends_early: bool) -> torch.Tensor:
    """(BATCH, LENGTH) ids of ordinary tokens.

    If `ends_early`, of 1 to LENGTH tokens, all but two with an end, padded on the right.
    """
    generator = torch.Generator().manual_seed(4)
    ordinary = torch.tensor(sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids)))
    ids = ordinary[torch.randint(len(ordinary), (BATCH, LENGTH), generator=generator)]
    if ends_early:
        for row, length in enumerate(torch.linspace(1, LENGTH, BATCH - 2).long().tolist()):
            ids[row, length - 1] = tokenizer.eos_token_id
            ids[row, length:] = tokenizer.pad_token_id
    return ids
