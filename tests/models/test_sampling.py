"""Sampling and scoring against whole unpadded models, on the built-in `tiny` model, in float32."""

import copy
from types import SimpleNamespace

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from rlhf_utils.fast import logprobs
from rlhf_utils.fast.logprobs import compared_logprobs, token_logprobs
from rlhf_utils.fast.trunk import Trunk
from rlhf_utils.models import adapters, sampling
from rlhf_utils.models.load import chat_prompt, load_model, load_tokenizer
from rlhf_utils.models.sampling import Samples, sample, sample_many, score_tokens
from rlhf_utils.models.sft import as_dataset

SHORT, LONG = "Hi.", "Explain in a few plain words why the sky is blue and the sunset is red."
PROMPTS = [SHORT, LONG, "What is a tree?", "Name two rivers."]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)  # models this small are slower on two


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("tiny")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def lively(tokenizer, eos=4.0, pad=-100.0):
    """The tiny model with a bias on its head: likely tokens, answers that end (its own end-of-sequence token has odds of 1 in 1,000)."""
    model = load_model("tiny")
    bias = torch.randn(len(tokenizer), generator=seeded(5))
    bias[tokenizer.eos_token_id], bias[tokenizer.pad_token_id] = eos, pad
    model.lm_head.bias = torch.nn.Parameter(bias)
    return model


def adapted(model, layers=1):
    """LoRA adapters that do something: lora_B starts at zero."""
    peft_model = adapters.add_lora(model, r=4, num_trainable_layers=layers).eval()
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.1, generator=seeded(len(name)))
    return peft_model


@torch.no_grad()
def slow_logprobs(model, samples, row, temperature):
    """(n, V) log-probabilities before each real response token of one row, from one plain pass without any padding."""
    query = samples.query_ids[row][samples.query_mask[row]]
    response = samples.response_ids[row][samples.response_mask[row]]
    logits = model(torch.cat([query, response])[None]).logits[0].double()
    return (logits / temperature).log_softmax(-1)[len(query) - 1 : -1]


def close(a, b, tolerance):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=0, check_dtype=False)


# --- Sampling ---


def test_sampled_logprobs_are_those_of_scoring_and_of_the_plain_model(tokenizer):
    model = lively(tokenizer)
    samples = sample(model, tokenizer, PROMPTS * 4, 24, 0.7, seeded())
    assert samples.response_mask.sum(1).unique().numel() > 3, (
        "answers of several lengths, so that finished rows are dropped on the way"
    )
    close(samples.logprobs, score_tokens(model, samples, 0.7)["logprobs"], 1e-4)
    for row in range(16):
        labels = samples.response_ids[row][samples.response_mask[row]]
        expected = slow_logprobs(model, samples, row, 0.7).gather(1, labels[:, None])[:, 0]
        close(samples.logprobs[row][samples.response_mask[row]], expected, 1e-4)


def test_left_padding_changes_nothing(tokenizer):
    model = adapted(lively(tokenizer))
    batch = sample(model, tokenizer, [SHORT, LONG], 16, 1.0, seeded(1))
    padding = int((~batch.query_mask[0]).sum())
    assert padding > 5
    alone = Samples(
        [SHORT],
        batch.query_ids[:1, padding:],
        batch.query_mask[:1, padding:],
        batch.response_ids[:1],
        batch.response_mask[:1],
        batch.logprobs[:1],
        batch.ended[:1],
        batch.responses[:1],
        batch.trunk[:1, padding:],
        batch.cut,
    )
    other = copy.deepcopy(batch)
    other.trunk[~other.predicting] = 77.0  # what stands on padding must not matter
    expected = score_tokens(model, alone, 1.0, model.disable_adapter)
    for found in (
        score_tokens(model, batch, 1.0, model.disable_adapter),
        score_tokens(model, other, 1.0, model.disable_adapter),
    ):
        for name in ("logprobs", "ref_logprobs", "kl", "entropy"):
            close(found[name][:1], expected[name], 1e-4)


def test_the_response_mask_ends_with_the_eos_token(tokenizer):
    samples = sample(lively(tokenizer), tokenizer, PROMPTS * 8, 24, 1.0, seeded(2))
    assert 0 < samples.ended.sum() < 32
    columns = (samples.response_ids, samples.response_mask, samples.logprobs, samples.ended)
    for ids, mask, logprobs, ended in zip(*(column.tolist() for column in columns)):
        length = ids.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in ids else 24
        assert mask == [True] * length + [False] * (len(ids) - length)
        assert ended == (tokenizer.eos_token_id in ids)
        assert ids[length:] == [tokenizer.pad_token_id] * (len(ids) - length)
        assert all(p < 0 for p in logprobs[:length]) and not any(logprobs[length:])


def test_rows_that_have_ended_are_sampled_no_further(tokenizer, monkeypatch):
    """One row after another ends; the loop stops with the last of them and drops ended rows on the way."""
    sizes, draws = [], sampling._draw

    def one_ends(logits, generator):
        choice, logprobs = draws(logits, generator)
        choice[:] = 100
        choice[min(len(sizes), len(choice) - 1)] = tokenizer.eos_token_id
        sizes.append(len(logits))
        return choice, logprobs

    monkeypatch.setattr(sampling, "_draw", one_ends)
    samples = sample(load_model("tiny"), tokenizer, PROMPTS * 2, 24, 1.0, seeded())
    assert (
        samples.ended.all()
        and len(sizes) < 24
        and sizes == sorted(sizes, reverse=True)
        and sizes[-1] < 8
    )


def test_an_answer_kept_apart_begins_as_no_other_to_its_prompt_does(tokenizer):
    model = load_model("tiny")
    model.lm_head.bias = torch.nn.Parameter(torch.full((len(tokenizer),), -100.0))
    with torch.no_grad():
        model.lm_head.bias[[100, 101, 102]] = torch.tensor(
            [6.0, 3.0, 0.0]
        )  # one beginning is usual, two are rarer
    asked, apart = [SHORT] * 40 + [LONG] * 40, ([False] * 3 + [True]) * 20
    samples = sample(model, tokenizer, asked, 4, 1.0, seeded(3), apart=apart)
    first = samples.response_ids[:, 0]
    assert (first[~torch.tensor(apart)] == 100).float().mean() > 0.8, (
        "the others are sampled as ever"
    )
    for rows in (slice(0, 40), slice(40, 80)):
        others = first[rows][~torch.tensor(apart[rows])]
        assert not set(others.tolist()) & set(first[rows][torch.tensor(apart[rows])].tolist())
    assert (
        samples.logprobs.isfinite().all()
        and (samples.response_ids[:, 1] == 100).float().mean() > 0.8
    ), "later tokens are free"
    assert torch.equal(
        sample(model, tokenizer, asked, 4, 1.0, seeded(3), apart=[False] * 80).response_ids,
        sample(model, tokenizer, asked, 4, 1.0, seeded(3)).response_ids,
    )


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("lean", [("llama",), ()])
def test_states_captured_while_sampling_are_those_of_a_pass_of_their_own(
    tokenizer, monkeypatch, layers, lean
):
    monkeypatch.setattr(decoding, "LEAN", lean)
    model = adapted(lively(tokenizer), layers)
    samples = sample(model, tokenizer, PROMPTS + PROMPTS[:2], 24, 0.7, seeded(13))
    assert samples.response_mask.sum(1).unique().numel() > 2
    states = Trunk(model).lower(samples.input_ids[:, :-1], samples.attention_mask[:, :-1])
    close(samples.trunk[samples.predicting], states[samples.predicting], 1e-5)


def test_a_prompt_asked_several_times_is_read_once(tokenizer):
    """Both ways of asking give the same answers, for the same random numbers."""
    model, read = lively(tokenizer), []
    model.model.embed_tokens.register_forward_pre_hook(
        lambda module, args: read.append(len(args[0]))
    )
    together = sample(model, tokenizer, [LONG, SHORT, LONG], 12, 1.0, seeded(14))
    assert read[0] == 2 and max(read[1:]) == 3
    apart = [
        sample(model, tokenizer, [LONG, f"{n}", LONG + " "], 12, 1.0, seeded(14)) for n in (1, 2)
    ]
    assert all(
        torch.equal(together.response_ids[0, :3], other.response_ids[0, :3]) for other in apart
    )


def test_the_heads_float32_product_follows_its_weights_and_is_no_part_of_the_model(tokenizer):
    model, hidden = (
        load_model("tiny", torch.bfloat16),
        torch.randn(3, 64, generator=seeded()).bfloat16(),
    )
    before = logprobs.head_logits(model, hidden, 1.0)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_output_embeddings().weight.mul_(-2)
    close(logprobs.head_logits(other, hidden, 1.0), -2 * before, 1e-5)
    close(logprobs.head_logits(model, hidden, 0.5), 2 * before, 1e-5)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(2)
    close(logprobs.head_logits(model, hidden, 1.0), 2 * before, 1e-5)


@pytest.mark.parametrize("words", [5, 256, 1000])
def test_draws_and_their_logprobs_follow_the_logits(words):
    logits = 3 * torch.randn(1, words, generator=seeded(15))
    logits[0, :2] = -torch.inf  # never drawn
    choice, logprobs = sampling._draw(logits.expand(20000, -1), seeded(16))
    close(logprobs, logits[0].log_softmax(0)[choice], 1e-5)
    counts = torch.bincount(choice, minlength=words).double()
    assert not counts[:2].any() and len(counts) == words
    close(counts / 20000, logits[0].double().softmax(0), 0.012)  # over three standard errors


def test_logits_that_are_nan_give_a_word_all_the_same():
    """So that the run is stopped by `update`, in a sentence, and not by an index out of range."""
    choice, logprobs = sampling._draw(torch.full((2, 300), torch.nan), seeded())
    assert ((choice >= 0) & (choice < 300)).all() and logprobs.isnan().all()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_token_logprobs_and_their_gradient_are_those_of_log_softmax(monkeypatch, temperature):
    """In float64, sixteen states at a time, against whole tables."""
    monkeypatch.setattr(sampling, "TABLES", 0)
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)
    head = torch.nn.Linear(8, 50).double()
    model = SimpleNamespace(get_output_embeddings=lambda: head)
    hidden, other = torch.randn(2, 37, 8, generator=seeded(17), dtype=torch.float64)
    labels, weights = (
        torch.randint(0, 50, (37,), generator=seeded(18)),
        torch.randn(37, generator=seeded(19), dtype=torch.float64),
    )

    def plain(states):
        logp, ref = (head(x).div(temperature).log_softmax(1) for x in (states, other))
        chosen, ref_chosen = (x.gather(1, labels[:, None])[:, 0] for x in (logp, ref))
        return chosen, -(logp.exp() * logp).sum(1), ref_chosen, (logp.exp() * (logp - ref)).sum(1)

    results = []
    for function in (lambda x: token_logprobs(model, x, labels, temperature), plain):
        leaf = hidden.clone().requires_grad_()
        logp, entropy, *_ = function(leaf)
        (logp * weights).sum().backward()
        results.append((logp.detach(), entropy.detach(), leaf.grad))
    for found, expected in zip(
        (*results[0], *compared_logprobs(model, hidden, labels, temperature, other)),
        (*results[1], *plain(hidden)),
    ):
        close(found, expected.detach(), 1e-12)


def test_sft_learns_on_the_tokens_that_sampling_uses():
    """A tokenizer that adds a token of its own to every text, as Llama's does."""
    tokenizer = load_tokenizer("tiny")
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
    )
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    row = as_dataset(tokenizer, [{"prompt": "Hi?", "completion": "Hello."}])[0]
    asked = tokenizer(chat_prompt(tokenizer, "Hi?"), add_special_tokens=False)["input_ids"]
    assert (
        row["input_ids"][: len(asked)] == asked and tokenizer.bos_token_id not in row["input_ids"]
    )
    assert (
        row["completion_mask"] == [0] * len(asked) + [1] * (len(row["input_ids"]) - len(asked))
        and row["input_ids"][-1] == tokenizer.eos_token_id
    )


def test_a_sampled_pad_token_is_a_token_like_any_other(tokenizer):
    model = lively(tokenizer, eos=-100.0, pad=4.0)
    samples = sample(model, tokenizer, PROMPTS, 24, 1.0, seeded(3))
    assert (samples.response_ids == tokenizer.pad_token_id).any()
    assert samples.response_mask.all()
    close(samples.logprobs, score_tokens(model, samples, 1.0)["logprobs"], 1e-4)


def test_the_same_seed_gives_the_same_samples(tokenizer):
    model = lively(tokenizer)
    first, again, other = (
        sample(model, tokenizer, PROMPTS, 16, 1.0, seeded(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.response_ids, again.response_ids) and torch.equal(
        first.logprobs, again.logprobs
    )
    assert first.responses == again.responses != other.responses


def test_each_row_has_its_own_temperature(tokenizer):
    model = lively(tokenizer)
    temperatures = [0.3, 0.7, 1.0, 2.0]
    samples = sample(model, tokenizer, PROMPTS, 24, temperatures, seeded(4))
    for row, temperature in enumerate(temperatures):
        close(
            samples.logprobs[row], score_tokens(model, samples, temperature)["logprobs"][row], 1e-4
        )


@pytest.mark.parametrize("temperature", [0, -1.0, [0.7, 0.0]])
def test_temperatures_must_be_above_0(tokenizer, temperature):
    with pytest.raises(ValueError, match="temperature"):
        sample(load_model("tiny"), tokenizer, [SHORT, LONG], 4, temperature)


def chi_square(counts, probabilities):
    """Pearson's statistic over its degrees of freedom, about 1 if the counts come from the probabilities; rare tokens share a cell."""
    expected = probabilities * counts.sum()
    common = expected >= 5
    observed = torch.cat([counts[common], counts[~common].sum()[None]])
    wanted = torch.cat([expected[common], expected[~common].sum()[None]])
    return float(((observed - wanted) ** 2 / wanted).sum() / (len(wanted) - 1))


@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_first_tokens_follow_the_softmax(tokenizer, temperature):
    model, generator = lively(tokenizer), seeded(6)
    drawn = torch.cat(
        [
            sample(model, tokenizer, [SHORT] * 2000, 1, temperature, generator).response_ids[:, 0]
            for _ in range(8)
        ]
    )
    counts = torch.bincount(drawn, minlength=len(tokenizer)).double()
    samples = sample(model, tokenizer, [SHORT], 1, temperature, generator)
    right, wrong = (slow_logprobs(model, samples, 0, t)[0].exp() for t in (temperature, 1.0))
    assert (
        chi_square(counts, right) < 1.3
    )  # some 400 cells: chance stays within 1 ± 0.07 two times in three
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
    assert torch.equal(
        sample(model, tokenizer, PROMPTS, 12, 1.0, seeded(7)).response_ids, expected.response_ids
    )


def test_sample_many_keeps_prompts_and_temperatures_together(tokenizer):
    model, temperatures = (
        lively(tokenizer),
        {SHORT: 0.4, LONG: 0.8, PROMPTS[2]: 1.2, PROMPTS[3]: 1.6},
    )
    batches = sample_many(
        model, tokenizer, PROMPTS, 12, [temperatures[p] for p in PROMPTS], 3, seeded(8), states=True
    )
    assert [len(batch.prompts) for batch in batches] == [3, 1]
    assert sorted(p for batch in batches for p in batch.prompts) == sorted(PROMPTS)
    for batch in batches:
        for row, prompt in enumerate(batch.prompts):
            assert prompt in tokenizer.decode(batch.query_ids[row])
            close(
                batch.logprobs[row],
                score_tokens(model, batch, temperatures[prompt])["logprobs"][row],
                1e-4,
            )


@pytest.mark.parametrize("attention", ["grouped", "fused"])  # the latter on a GPU
def test_looking_less_often_at_what_has_ended_changes_no_more_than_the_time(
    tokenizer, monkeypatch, attention
):
    """As on a GPU, where a look makes it wait for the host: between looks, nothing turns a tensor into a Python number."""
    looks = []
    for name in ("__bool__", "__int__", "item", "tolist", "nonzero"):
        plain = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor,
            name,
            lambda self, *rest, name=name, plain=plain: (looks.append(name), plain(self, *rest))[1],
        )
    model = lively(tokenizer)
    model.set_attn_implementation(attention)
    monkeypatch.setattr(decoding, "LEAN", ())  # a GPU has the model's own forward
    monkeypatch.setitem(sampling.CHECK_EVERY, "cpu", 8)
    samples = sample(model, tokenizer, PROMPTS * 4, 24, 0.7, seeded())
    assert looks.count("nonzero") <= 3 and len(looks) <= 10, looks
    assert samples.response_mask.sum(1).unique().numel() > 3 and samples.ended.any()
    close(samples.logprobs, score_tokens(model, samples, 0.7)["logprobs"], 1e-4)
    for ids, mask, ended in zip(
        samples.response_ids.tolist(), samples.response_mask.tolist(), samples.ended.tolist()
    ):
        length = ids.index(tokenizer.eos_token_id) + 1 if ended else 24
        assert sum(mask) == length and mask[:length] == [True] * length
