"""Scoring of sampled answers: log-probabilities, entropies and exact KL against sums over the vocabulary, on the `tiny` model."""

import math

import pytest
import torch
from peft import PeftModel
from test_sampling import (
    PROMPTS,
    SHORT,
    adapted,
    close,
    lively,
    seeded,
    slow_logprobs,
)  # noqa: F401  two are fixtures

from rlhf_utils.errors import ModelError
from rlhf_utils.fast.logprobs import compared_logprobs, token_logprobs
from rlhf_utils.models import adapters
from rlhf_utils.models.load import load_model
from rlhf_utils.models.sampling import sample, sample_many, score_tokens


def test_kl_and_entropy_are_sums_over_the_vocabulary(tokenizer):
    model = adapted(lively(tokenizer))
    samples = sample(model, tokenizer, PROMPTS[:2], 6, 0.7, seeded(9))
    found = score_tokens(model, samples, 0.7, model.disable_adapter)
    assert found["kl"].max() > 0.01
    for row in range(2):
        policy = slow_logprobs(model, samples, row, 0.7).tolist()
        with model.disable_adapter():
            reference = slow_logprobs(model, samples, row, 0.7).tolist()
        for t, (new, old) in enumerate(zip(policy, reference)):
            assert found["kl"][row, t].item() == pytest.approx(
                sum(math.exp(p) * (p - q) for p, q in zip(new, old)), abs=1e-5
            )
            assert found["entropy"][row, t].item() == pytest.approx(
                -sum(math.exp(p) * p for p in new), abs=1e-4
            )
            assert found["ref_logprobs"][row, t].item() == pytest.approx(
                old[samples.response_ids[row, t]], abs=1e-4
            )
    for name in ("logprobs", "ref_logprobs", "kl", "entropy"):
        assert found[name].dtype == torch.float32 and not found[name][~samples.response_mask].any()


def test_what_training_reads_of_a_bfloat16_head_is_near_to_what_scoring_reads(tokenizer):
    """Probabilities are rounded for the gradient, and the entropy comes from that; log-probabilities are exact."""
    model = load_model("tiny", torch.bfloat16)
    hidden = 3 * torch.randn(600, model.config.hidden_size, generator=seeded(3))
    labels = torch.randint(0, len(tokenizer), (600,), generator=seeded(4))
    (logp, entropy), (exact, exact_entropy, *_) = (
        token_logprobs(model, hidden, labels, 0.7),
        compared_logprobs(model, hidden, labels, 0.7, hidden),
    )
    close(logp, exact, 1e-5)
    close(entropy, exact_entropy, 0.02)
    assert abs(float((entropy - exact_entropy).mean())) < 0.001


def test_fresh_adapters_are_the_reference(tokenizer):
    model = adapters.add_lora(lively(tokenizer), r=4, num_trainable_layers=1).eval()
    samples = sample(model, tokenizer, PROMPTS, 12, 0.7, seeded(10))
    found = score_tokens(model, samples, 0.7, model.disable_adapter)
    assert torch.equal(found["kl"], torch.zeros_like(found["kl"]))
    assert torch.equal(found["logprobs"], found["ref_logprobs"])


def test_the_chunk_of_scoring_does_not_matter(tokenizer):
    model = adapted(lively(tokenizer))
    samples = sample(model, tokenizer, PROMPTS + [SHORT], 12, 1.0, seeded(11))
    whole, parts = (
        score_tokens(model, samples, 1.0, model.disable_adapter, chunk=chunk) for chunk in (16, 2)
    )
    for name in whole:
        assert whole[name].shape == parts[name].shape
        close(whole[name], parts[name], 1e-5)


def test_adapters_that_were_loaded_are_compared_with_the_reference(tokenizer, tmp_path):
    trained = adapted(load_model("tiny"))
    trained.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(load_model("tiny"), tmp_path).eval()
    samples = sample(trained, tokenizer, PROMPTS, 8, 1.0, seeded(12))
    expected = score_tokens(trained, samples, 1.0, trained.disable_adapter)["kl"]
    close(score_tokens(loaded, samples, 1.0, loaded.disable_adapter)["kl"], expected, 1e-5)


def test_samples_are_read_by_a_model_of_their_cut_only(tokenizer):
    samples = sample(adapted(load_model("tiny")), tokenizer, PROMPTS, 4, 1.0, seeded(20))
    with pytest.raises(
        ModelError,
        match="hold states for blocks 1 and up, but this model goes on from block 0",
    ):
        score_tokens(adapted(load_model("tiny"), layers=2), samples, 1.0)
    (dropped,) = sample_many(load_model("tiny"), tokenizer, PROMPTS, 4, 1.0, 4, seeded(20))
    with pytest.raises(ModelError, match="hold no states.*states=True"):
        score_tokens(load_model("tiny"), dropped, 1.0)
