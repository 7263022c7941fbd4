"""Log-probabilities, entropies and KL in slices, against whole tables of logits."""

import copy

import pytest
import torch
from helpers_models import close, seeded

from rlhf_utils.fast import logprobs
from rlhf_utils.fast.logprobs import compared_logprobs, head_logits, token_logprobs
from rlhf_utils.models.load import load_model


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_token_logprobs_and_their_gradient_are_those_of_log_softmax(
    monkeypatch, temperature, biased
):
    """In float64, sixteen states at a time, against whole tables."""
    monkeypatch.setattr(logprobs, "TABLES", 0)
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 50, bias=biased).double()
    hidden, other = torch.randn(2, 37, 8, generator=seeded(17), dtype=torch.float64)
    labels = torch.randint(0, 50, (37,), generator=seeded(18))
    weights = torch.randn(37, generator=seeded(19), dtype=torch.float64)

    def plain(states):
        logp, ref = (head(x).div(temperature).log_softmax(1) for x in (states, other))
        chosen, ref_chosen = (x.gather(1, labels[:, None])[:, 0] for x in (logp, ref))
        p = logp.exp()
        return chosen, -(p * logp).sum(1), ref_chosen, (p * (logp - ref)).sum(1)

    results = []
    for function in (lambda x: token_logprobs(head, x, labels, temperature), plain):
        leaf = hidden.clone().requires_grad_()
        logp, entropy, *_ = function(leaf)
        (logp * weights).sum().backward()
        results.append((logp.detach(), entropy.detach(), leaf.grad))
    for found, expected in zip(*results):
        close(found, expected, 1e-12)
    compared = compared_logprobs(head, hidden, labels, temperature, other)
    for found, expected in zip(compared, plain(hidden), strict=True):
        close(found, expected.detach(), 1e-12)


def test_what_training_reads_of_a_bfloat16_head_is_near_to_what_scoring_reads():
    """Probabilities are rounded for the gradient, and the entropy comes from that.

    Log-probabilities are exact.
    """
    head = load_model("tiny", torch.bfloat16).get_output_embeddings()
    hidden = 3 * torch.randn(600, head.in_features, generator=seeded(3))
    labels = torch.randint(0, head.out_features, (600,), generator=seeded(4))
    logp, entropy = token_logprobs(head, hidden, labels, 0.7)
    exact, exact_entropy, *_ = compared_logprobs(head, hidden, labels, 0.7, hidden)
    close(logp, exact, 1e-5)
    close(entropy, exact_entropy, 0.02)
    assert abs(float((entropy - exact_entropy).mean())) < 0.001


def test_a_probability_below_float32_counts_as_the_smallest():
    head = torch.nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[500.0, 0.0], [0.0, 0.0], [0.0, 500.0]]))
    logp, entropy = token_logprobs(head, torch.tensor([[1.0, 0.0]]), torch.tensor([1]), 1.0)
    assert -88 < logp.item() < -87 and entropy.isfinite()


def test_the_heads_float32_product_follows_its_weights_and_is_no_part_of_the_model():
    head = load_model("tiny", torch.bfloat16).get_output_embeddings()
    hidden = torch.randn(3, 64, generator=seeded()).bfloat16()
    before = head_logits(head, hidden, 1.0)
    other = copy.deepcopy(head)
    with torch.no_grad():
        other.weight.mul_(-2)
    close(head_logits(other, hidden, 1.0), -2 * before, 1e-5)
    close(head_logits(head, hidden, 0.5), 2 * before, 1e-5)
    with torch.no_grad():
        head.weight.mul_(2)
    close(head_logits(head, hidden, 1.0), 2 * before, 1e-5)
