"""Scoring of sampled answers: log-probabilities, entropies and exact KL.

They are compared with sums over the vocabulary, on the `tiny` model.
"""

import math
from contextlib import nullcontext

import pytest
import torch
from helpers_models import PROMPTS, SHORT, adapted, close, lively, seeded, slow_logprobs
from peft import PeftModel

from rlhf_utils.errors import ModelError
from rlhf_utils.models import adapters
from rlhf_utils.models.load import load_model
from rlhf_utils.models.sampling import Sampling, sample, sample_many
from rlhf_utils.models.scoring import answer_logprobs, score_tokens


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
            kl = sum(math.exp(p) * (p - q) for p, q in zip(new, old))
            entropy = -sum(math.exp(p) * p for p in new)
            token = samples.answer_ids[row, t]
            assert found["kl"][row, t].item() == pytest.approx(kl, abs=1e-5)
            assert found["entropy"][row, t].item() == pytest.approx(entropy, abs=1e-4)
            assert found["logprobs"][row, t].item() == pytest.approx(new[token], abs=1e-4)
            assert found["ref_logprobs"][row, t].item() == pytest.approx(old[token], abs=1e-4)
    for name in ("logprobs", "ref_logprobs", "kl", "entropy"):
        assert found[name].dtype == torch.float32
        assert not found[name][~samples.answer_mask].any()


def test_what_training_reads_is_what_scoring_read(tokenizer):
    """`answer_logprobs` is flat, row after row, in the order of the rows given, with gradients."""
    model = adapted(lively(tokenizer))
    samples = sample(model, tokenizer, PROMPTS * 2, 12, 0.7, seeded(10))
    assert samples.answer_mask.sum(1).unique().numel() > 1
    scored = score_tokens(model, samples, 0.7, nullcontext)
    rows = torch.tensor([6, 1, 3])
    mask = samples.answer_mask[rows]
    logprobs, entropy, hidden = answer_logprobs(model, samples, rows, 0.7)
    close(logprobs, scored["logprobs"][rows][mask], 1e-5)
    close(entropy, scored["entropy"][rows][mask], 1e-4)
    close(hidden, scored["hidden"][rows][mask], 1e-5)
    assert logprobs.requires_grad and hidden.requires_grad and not entropy.requires_grad
    (logprobs.sum() + hidden.sum()).backward()
    assert all(p.grad.any() for p in model.parameters() if p.requires_grad)


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
    samples = sample(trained, tokenizer, PROMPTS, 8, 1.0, seeded(12))
    expected = score_tokens(trained, samples, 1.0, trained.disable_adapter)["kl"]
    assert expected.max() > 0.01
    for load in (PeftModel.from_pretrained, adapters.load_lora):
        loaded = load(load_model("tiny"), tmp_path).eval()
        found = score_tokens(loaded, samples, 1.0, adapters.reference_of(loaded))
        close(found["kl"], expected, 1e-5)


def test_samples_are_read_by_a_model_of_their_cut_only(tokenizer):
    samples = sample(adapted(load_model("tiny")), tokenizer, PROMPTS, 4, 1.0, seeded(20))
    told = "hold states for blocks 1 and up, but this model goes on from block 0"
    with pytest.raises(ModelError, match=told):
        score_tokens(adapted(load_model("tiny"), layers=2), samples, 1.0, nullcontext)
    settings = Sampling(4, 1.0, batch_size=4)
    ((_, dropped),) = sample_many(load_model("tiny"), tokenizer, PROMPTS, settings, seeded(20))
    with pytest.raises(ModelError, match="hold no states.*keep_states=True"):
        score_tokens(load_model("tiny"), dropped, 1.0, nullcontext)
