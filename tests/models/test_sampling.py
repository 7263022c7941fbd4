"""Sampling against whole unpadded models, on the built-in `tiny` model, in float32."""

import copy
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from helpers_models import (
    LONG,
    PROMPTS,
    SHORT,
    adapted,
    close,
    lively,
    lower_states,
    seeded,
    slow_logprobs,
)

from rlhf_utils.errors import SettingError
from rlhf_utils.fast import decoding, plain
from rlhf_utils.models import sampling
from rlhf_utils.models.adapters import reference_of
from rlhf_utils.models.load import load_model
from rlhf_utils.models.sampling import (
    Samples,
    Sampling,
    sample,
    sample_answers,
    sample_many,
    sample_several,
)
from rlhf_utils.models.scoring import score_tokens


def test_sampled_logprobs_are_those_of_scoring_and_of_the_plain_model(tokenizer):
    model = lively(tokenizer)
    samples = sample(model, tokenizer, PROMPTS * 4, 24, 0.7, seeded())
    lengths = samples.answer_mask.sum(1)
    assert lengths.unique().numel() > 3, "several lengths, so that ended rows are dropped"
    close(samples.logprobs, score_tokens(model, samples, 0.7, nullcontext)["logprobs"], 1e-4)
    for row in range(16):
        mask = samples.answer_mask[row]
        labels = samples.answer_ids[row][mask]
        expected = slow_logprobs(model, samples, row, 0.7).gather(1, labels[:, None])[:, 0]
        close(samples.logprobs[row][mask], expected, 1e-4)


def test_left_padding_changes_nothing(tokenizer):
    model = adapted(lively(tokenizer))
    batch = sample(model, tokenizer, [SHORT, LONG], 16, 1.0, seeded(1))
    padding = int((~batch.prompt_mask[0]).sum())
    assert padding > 5
    alone = Samples(
        [SHORT],
        batch.prompt_ids[:1, padding:],
        batch.prompt_mask[:1, padding:],
        batch.answer_ids[:1],
        batch.answer_mask[:1],
        batch.logprobs[:1],
        batch.ended[:1],
        batch.answers[:1],
        batch.trunk[:1, padding:],
        batch.cut,
    )
    other = copy.deepcopy(batch)
    other.trunk[~other.predicting] = 77.0  # what stands on padding must not matter
    expected = score_tokens(model, alone, 1.0, model.disable_adapter)
    for samples in (batch, other):
        found = score_tokens(model, samples, 1.0, model.disable_adapter)
        for name in ("logprobs", "ref_logprobs", "kl", "entropy"):
            close(found[name][:1], expected[name], 1e-4)


def test_the_answer_mask_ends_with_the_eos_token(tokenizer):
    samples = sample(lively(tokenizer), tokenizer, PROMPTS * 8, 24, 1.0, seeded(2))
    assert 0 < samples.ended.sum() < 32
    columns = (samples.answer_ids, samples.answer_mask, samples.logprobs, samples.ended)
    for ids, mask, logprobs, ended in zip(*(column.tolist() for column in columns)):
        length = ids.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in ids else 24
        rest = len(ids) - length
        assert mask == [True] * length + [False] * rest
        assert ended == (tokenizer.eos_token_id in ids)
        assert ids[length:] == [tokenizer.pad_token_id] * rest
        assert all(p < 0 for p in logprobs[:length]) and not any(logprobs[length:])


def test_rows_that_have_ended_are_sampled_no_further(tokenizer, monkeypatch):
    """One row after another ends. The loop drops them, and stops with the last."""
    sizes = []
    draw = sampling.draw_tokens

    def one_ends(logits, generator):
        tokens, logprobs = draw(logits, generator)
        tokens[:] = 100
        tokens[min(len(sizes), len(tokens) - 1)] = tokenizer.eos_token_id
        sizes.append(len(logits))
        return tokens, logprobs

    monkeypatch.setattr(sampling, "draw_tokens", one_ends)
    samples = sample(load_model("tiny"), tokenizer, PROMPTS * 2, 24, 1.0, seeded())
    assert samples.ended.all()
    assert len(sizes) < 24
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 8


def apart_model(tokenizer):
    """One beginning is usual, two are rarer, and others never come."""
    model = load_model("tiny")
    bias = torch.full((len(tokenizer),), -100.0)
    bias[[100, 101, 102]] = torch.tensor([6.0, 3.0, 0.0])
    model.lm_head.bias = torch.nn.Parameter(bias)
    return model


def test_an_answer_apart_begins_as_no_other_to_its_prompt_does(tokenizer):
    model = apart_model(tokenizer)
    asked, apart = [SHORT] * 40 + [LONG] * 40, ([False] * 3 + [True]) * 20
    settings = Sampling(4, 1.0, batch_size=80, apart=apart)
    ((_, samples),) = sample_many(model, tokenizer, asked, settings, seeded(3))
    assert samples.prompts == asked
    first, is_apart = samples.answer_ids[:, 0], torch.tensor(apart)
    usual = (first[~is_apart] == 100).float().mean()
    assert usual > 0.8, "the others are sampled as ever"
    for rows in (slice(0, 40), slice(40, 80)):
        others = first[rows][~is_apart[rows]].tolist()
        assert not set(others) & set(first[rows][is_apart[rows]].tolist())
    assert samples.logprobs.isfinite().all()
    assert (samples.answer_ids[:, 1] == 100).float().mean() > 0.8, "later tokens are free"

    nowhere = Sampling(4, 1.0, batch_size=80, apart=[False] * 80)
    same, without = (
        list(sample_many(model, tokenizer, asked, how, seeded(3)))
        for how in (nowhere, replace(nowhere, apart=None))
    )
    assert torch.equal(same[0][1].answer_ids, without[0][1].answer_ids)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("lean", [("llama",), ()])
def test_states_kept_while_sampling_are_those_of_a_pass_of_their_own(
    tokenizer, monkeypatch, layers, lean
):
    monkeypatch.setattr(decoding, "LEAN", lean)
    model = adapted(lively(tokenizer), layers)
    samples = sample(model, tokenizer, PROMPTS + PROMPTS[:2], 24, 0.7, seeded(13))
    assert samples.answer_mask.sum(1).unique().numel() > 2
    assert samples.trunk.shape[:2] == samples.predicting.shape
    states = lower_states(model, samples)
    close(samples.trunk[samples.predicting], states[samples.predicting], 1e-5)


def test_a_prompt_asked_several_times_is_read_once(tokenizer):
    """Both ways of asking give the same answers, for the same random numbers."""
    model, read = lively(tokenizer), []
    model.model.embed_tokens.register_forward_pre_hook(
        lambda module, args: read.append(len(args[0]))
    )
    together = sample(model, tokenizer, [LONG, SHORT, LONG], 12, 1.0, seeded(14))
    assert read[0] == 2 and max(read[1:]) == 3
    for other in ("1", "2"):
        asked = [LONG, other, LONG + " "]
        apart = sample(model, tokenizer, asked, 12, 1.0, seeded(14))
        assert torch.equal(together.answer_ids[0, :3], apart.answer_ids[0, :3])


@pytest.mark.parametrize("words", [5, 256, 1000])
def test_draws_and_their_logprobs_follow_the_logits(words):
    logits = 3 * torch.randn(1, words, generator=seeded(15))
    logits[0, :2] = -torch.inf  # never drawn
    tokens, logprobs = sampling.draw_tokens(logits.expand(20000, -1), seeded(16))
    close(logprobs, logits[0].log_softmax(0)[tokens], 1e-5)
    counts = torch.bincount(tokens, minlength=words).double()
    assert not counts[:2].any() and len(counts) == words
    close(counts / 20000, logits[0].double().softmax(0), 0.012)  # over three standard errors


def test_logits_that_are_nan_give_a_token_all_the_same():
    """So that `update` stops the run with a sentence, and no index out of range does."""
    tokens, logprobs = sampling.draw_tokens(torch.full((2, 300), torch.nan), seeded())
    assert ((tokens >= 0) & (tokens < 300)).all() and logprobs.isnan().all()


def test_a_sampled_pad_token_is_a_token_like_any_other(tokenizer):
    model = lively(tokenizer, eos=-100.0, pad=4.0)
    samples = sample(model, tokenizer, PROMPTS, 24, 1.0, seeded(3))
    assert (samples.answer_ids == tokenizer.pad_token_id).any()
    assert samples.answer_mask.all()
    close(samples.logprobs, score_tokens(model, samples, 1.0, nullcontext)["logprobs"], 1e-4)


def test_the_same_seed_gives_the_same_samples(tokenizer):
    model = lively(tokenizer)
    first, again, other = (
        sample(model, tokenizer, PROMPTS, 16, 1.0, seeded(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.answer_ids, again.answer_ids)
    assert torch.equal(first.logprobs, again.logprobs)
    assert first.answers == again.answers != other.answers


def test_each_row_has_its_own_temperature(tokenizer):
    model = lively(tokenizer)
    temperatures = [0.3, 0.7, 1.0, 2.0]
    samples = sample(model, tokenizer, PROMPTS, 24, temperatures, seeded(4))
    for row, temperature in enumerate(temperatures):
        expected = score_tokens(model, samples, temperature, nullcontext)["logprobs"][row]
        close(samples.logprobs[row], expected, 1e-4)


@pytest.mark.parametrize("temperature", [0, -1.0, [0.7, 0.0]])
def test_temperatures_must_be_above_0(tokenizer, temperature):
    with pytest.raises(SettingError, match="temperature"):
        sample(load_model("tiny"), tokenizer, [SHORT, LONG], 4, temperature, seeded())


def chi_square(counts, probabilities):
    """Pearson's statistic over its degrees of freedom, about 1 if the counts come from these.

    Rare tokens share a cell.
    """
    expected = probabilities * counts.sum()
    common = expected >= 5
    observed = torch.cat([counts[common], counts[~common].sum()[None]])
    wanted = torch.cat([expected[common], expected[~common].sum()[None]])
    return float(((observed - wanted) ** 2 / wanted).sum() / (len(wanted) - 1))


@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_first_tokens_follow_the_softmax(tokenizer, temperature):
    model, generator = lively(tokenizer), seeded(6)
    drawn = []
    for _ in range(8):
        samples = sample(model, tokenizer, [SHORT] * 2000, 1, temperature, generator)
        drawn.append(samples.answer_ids[:, 0])
    counts = torch.bincount(torch.cat(drawn), minlength=len(tokenizer)).double()
    samples = sample(model, tokenizer, [SHORT], 1, temperature, generator)
    right, wrong = (slow_logprobs(model, samples, 0, t)[0].exp() for t in (temperature, 1.0))
    # some 400 cells: chance stays within 1 ± 0.07 two times in three
    assert chi_square(counts, right) < 1.3
    assert chi_square(counts, wrong) > 2, "the check must be able to tell temperatures apart"


def test_the_generation_config_of_the_model_is_ignored(tokenizer):
    model = lively(tokenizer)
    expected = sample(model, tokenizer, PROMPTS, 12, 1.0, seeded(7))
    model.generation_config.update(
        do_sample=False,
        top_k=1,
        top_p=0.01,
        temperature=0.01,
        min_new_tokens=12,
        repetition_penalty=9.0,
    )
    found = sample(model, tokenizer, PROMPTS, 12, 1.0, seeded(7))
    assert torch.equal(found.answer_ids, expected.answer_ids)


def test_sample_many_keeps_prompts_and_temperatures_together(tokenizer):
    model = lively(tokenizer)
    temperatures = dict(zip(PROMPTS, (0.4, 0.8, 1.2, 1.6)))
    settings = Sampling(12, [temperatures[p] for p in PROMPTS], batch_size=3, keep_states=True)
    batches = [found for _, found in sample_many(model, tokenizer, PROMPTS, settings, seeded(8))]
    assert [len(batch.prompts) for batch in batches] == [3, 1]
    assert sorted(p for batch in batches for p in batch.prompts) == sorted(PROMPTS)
    for batch in batches:
        for row, prompt in enumerate(batch.prompts):
            assert prompt in tokenizer.decode(batch.prompt_ids[row])
            found = score_tokens(model, batch, temperatures[prompt], nullcontext)
            close(batch.logprobs[row], found["logprobs"][row], 1e-4)


def test_sample_answers_come_in_the_order_of_the_prompts(tokenizer):
    """The same prompt comes in several batches; each answer must be the one of its place."""
    model, asked = lively(tokenizer), [LONG, SHORT, LONG, PROMPTS[2], SHORT, LONG]
    temperatures = [0.5, 0.7, 0.9, 1.1, 1.3, 1.5]
    apart = [False, False, True, False, True, False]
    settings = Sampling(12, temperatures, batch_size=4, apart=apart)
    answers = sample_answers(model, tokenizer, asked, settings, seeded(9))
    (places, first), (_, second) = sample_many(model, tokenizer, asked, settings, seeded(9))
    assert places == [1, 4, 3, 0]
    assert first.prompts == [SHORT, SHORT, PROMPTS[2], LONG] and second.prompts == [LONG, LONG]
    in_order = [3, 0, 4, 2, 1, 5]  # the place of each prompt among the sampled ones
    assert answers == [(first.answers + second.answers)[place] for place in in_order]
    assert len(set(answers)) == 6, "else an exchange would not show"

    tracked = []

    def track(batches):
        tracked.extend(batches)
        return batches

    assert sample_answers(model, tokenizer, asked, settings, seeded(9), track) == answers
    assert [len(batch) for batch in tracked] == [4, 2]


@pytest.mark.parametrize("contrast", [True, False])
def test_several_answers_are_those_of_as_many_questions(tokenizer, contrast):
    model, temperatures = apart_model(tokenizer), [0.5, 1.0, 1.5]
    how = Sampling(4, temperatures, batch_size=4)
    found = sample_several(model, tokenizer, [LONG, SHORT], how, contrast, seeded(11))
    asked = [LONG] * 3 + [SHORT] * 3
    apart = [False, False, contrast] * 2
    one_by_one = replace(how, temperature=temperatures * 2, apart=apart)
    expected = sample_answers(model, tokenizer, asked, one_by_one, seeded(11))
    assert found == [expected[:3], expected[3:]]
    assert how.temperature == temperatures and how.apart is None, "the settings stay as they are"


def test_sampling_as_the_reference_is_sampling_from_the_model_before(tokenizer):
    """05 samples within `reference()`, where adapters are off."""
    plain_model = lively(tokenizer)
    expected = sample(copy.deepcopy(plain_model), tokenizer, PROMPTS, 12, 1.0, seeded(21))
    model = adapted(plain_model)
    with reference_of(model)():
        found = sample(model, tokenizer, PROMPTS, 12, 1.0, seeded(21))
    assert torch.equal(found.answer_ids, expected.answer_ids)
    assert not torch.equal(
        sample(model, tokenizer, PROMPTS, 12, 1.0, seeded(21)).logprobs, expected.logprobs
    )


@pytest.mark.parametrize("attention", ["grouped", "fused"])  # the latter on a GPU
def test_between_checks_for_ended_rows_nothing_waits_for_the_device(
    tokenizer, monkeypatch, attention
):
    """As on a GPU: between checks, no tensor becomes a Python number or has a size of its own."""
    steps, looks = [0], []
    for name in ("__bool__", "__int__", "__index__", "item", "tolist", "nonzero"):
        original = getattr(torch.Tensor, name)

        def look(self, *rest, name=name, original=original):
            looks.append((steps[0], name))
            return original(self, *rest)

        monkeypatch.setattr(torch.Tensor, name, look)
    decoder_step = plain.Decoder.step

    def step(self, tokens):
        steps[0] += 1
        return decoder_step(self, tokens)

    monkeypatch.setattr(plain.Decoder, "step", step)
    model = lively(tokenizer)
    model.set_attn_implementation(attention)
    monkeypatch.setattr(decoding, "LEAN", ())  # a GPU has the model's own forward
    monkeypatch.setitem(sampling.CHECK_EVERY, "cpu", 8)
    samples = sample(model, tokenizer, PROMPTS * 4, 24, 0.7, seeded())
    # Before the first step, at the checks after tokens 8 and 16, and at the end.
    assert {when for when, _ in looks} == {0, 7, 15, 23}, looks
    monkeypatch.undo()

    assert samples.answer_mask.sum(1).unique().numel() > 3 and samples.ended.any()
    model.set_attn_implementation("grouped")
    close(samples.logprobs, score_tokens(model, samples, 0.7, nullcontext)["logprobs"], 1e-4)
    columns = (samples.answer_ids, samples.answer_mask, samples.ended)
    for ids, mask, ended in zip(*(column.tolist() for column in columns)):
        length = ids.index(tokenizer.eos_token_id) + 1 if ended else 24
        assert sum(mask) == length and mask[:length] == [True] * length


# --- an interrupt


class Interrupted:
    """Interrupts in the middle of one batch, or between two, as a kernel does."""

    def __init__(self, monkeypatch, at):
        self.count, self.at, self.draw = 0, at, sampling.draw_tokens
        monkeypatch.setattr(sampling, "draw_tokens", self)

    def __call__(self, logits, generator):
        self.count += 1
        if self.count == self.at:
            raise KeyboardInterrupt
        return self.draw(logits, generator)


@pytest.mark.parametrize("at", [1, 7, 12, 20])
def test_interrupted_sampling_goes_on_with_the_draws_of_one_that_never_stopped(
    tokenizer, monkeypatch, at
):
    model, prompts = lively(tokenizer), [f"{i} {LONG[: 9 * i]}" for i in range(7)]

    def answers(generator, done, track=iter):
        how = Sampling(6, [0.8, 1.2], batch_size=4, answers=done)
        return sampling.sample_several(model, tokenizer, prompts, how, True, generator, track)

    whole = answers(seeded(9), None)
    generator, done, counted = seeded(9), {}, []
    Interrupted(monkeypatch, at)
    with pytest.raises(KeyboardInterrupt):
        answers(generator, done)
    assert len(done) < 14 and len(done) % 4 == 0
    before = dict(done)
    assert answers(generator, done, lambda batches: counted.extend(batches) or batches) == whole
    assert len(counted) == 4, "a progress bar counts those that were done, too"
    assert len(done) == 14 and before.items() <= done.items()
    assert answers(None, done) == whole, "nothing is left to draw"


def test_an_interrupt_between_two_batches_loses_none(tokenizer):
    model, prompts = lively(tokenizer), [SHORT, LONG, "Why?", "Who is it?"]
    whole = sampling.sample_answers(model, tokenizer, prompts, Sampling(6, 1.0, 1), seeded(4))

    def stops(batches):
        yield from batches[:2]
        raise KeyboardInterrupt

    generator, how = seeded(4), Sampling(6, 1.0, 1, answers={})
    with pytest.raises(KeyboardInterrupt):
        sampling.sample_answers(model, tokenizer, prompts, how, generator, stops)
    assert len(how.answers) == 2
    assert sampling.sample_answers(model, tokenizer, prompts, how, generator) == whole
