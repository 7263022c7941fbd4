"""What is kept of watched answers: each token with its numbers, and how likely an answer declines.

Numbers are compared with plain passes and sums over the whole vocabulary, on the `tiny` model.
"""

import math

import pytest
import torch
from helpers_models import slow_logprobs
from helpers_ppo import CONFIG, PROMPTS, changed, collect, fresh_run, letter_e, train, update

from rlhf_utils.data.rows import load_demonstrations
from rlhf_utils.models import chat, sampling
from rlhf_utils.ppo import record
from rlhf_utils.preferences.rubric import refuses

PER_TOKEN = ("logratio", "value", "reward", "advantage")


@pytest.fixture(scope="module")
def trained():
    """A run after one update, so that π is not π_SFT and values are not 0."""
    run = fresh_run()
    update(run, collect(run))
    return run


def watch(run, config=CONFIG, kl_coef=0.1):
    return record.sample_watched(
        run.policy, run.tokenizer, PROMPTS[:4], letter_e, config, seed=7, kl_coef=kl_coef
    )


def test_watching_changes_no_training():
    plain, watching = fresh_run(), fresh_run()
    rows = watch(watching)
    texts = [prompt.text for prompt in PROMPTS[:2]]
    record.begin_to_decline(watching.policy, watching.tokenizer, texts, [(5,), (6, 7)], 0.9)
    assert [row["prompt"] for row in rows] == [prompt.text for prompt in PROMPTS[:4]]
    assert [row["category"] for row in rows] == [prompt.category for prompt in PROMPTS[:4]]
    assert train(plain, stop=2) == train(watching, stop=2)


def test_the_tokens_joined_are_the_answer_and_its_end(trained):
    ended = 0
    for row in watch(trained, changed(response_length=40)):
        *tokens, last = row["tokens"]
        if last == trained.tokenizer.eos_token:
            ended += 1
        else:
            tokens.append(last)
        assert "".join(tokens).strip() == row["answer"]
        assert {len(row[name]) for name in PER_TOKEN} == {len(row["tokens"])}
    assert ended


@pytest.mark.parametrize("text", ["Größe: 5 €", "naïve 日本 🙂 ok", "  two  spaces\n"])
def test_a_letter_of_several_tokens_stands_whole(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    texts = chat.token_texts(tokenizer, ids + [tokenizer.eos_token_id], [tokenizer.eos_token_id])
    assert len(texts) == len(ids) + 1 and texts[-1] == tokenizer.eos_token
    assert "".join(texts[:-1]) == text
    assert "\ufffd" not in "".join(texts)


def test_each_tokens_numbers_are_those_of_a_plain_pass(trained):
    rows, run = watch(trained), trained
    generator = torch.Generator().manual_seed(7)
    samples = sampling.sample(
        run.policy.model, run.tokenizer, [p.text for p in PROMPTS[:4]], 10, 0.9, generator
    )
    for number, row in enumerate(rows):
        ids = samples.answer_ids[number, samples.answer_mask[number]]
        ratios = [new - old for new, old in zip(*both_logprobs(run, samples, number, ids))]
        assert row["logratio"] == pytest.approx(ratios, abs=1e-3)

        paid = [-0.1 * ratio for ratio in ratios]
        paid[-1] += row["score"]
        assert row["reward"] == pytest.approx(paid, abs=1e-3)
        # λ = 1: what is still to come, less what the critic expected
        to_come = [sum(paid[t:]) for t in range(len(paid))]
        surprise = [later - value for later, value in zip(to_come, row["value"])]
        assert row["advantage"] == pytest.approx(surprise, abs=3e-3)
    assert any(value for row in rows for value in row["value"])


def both_logprobs(run, samples, number, ids):
    picked = slow_logprobs(run.policy.model, samples, number, 0.9).gather(1, ids[:, None])
    with run.policy.reference():
        before = slow_logprobs(run.policy.model, samples, number, 0.9).gather(1, ids[:, None])
    return picked[:, 0].tolist(), before[:, 0].tolist()


# --- declining


def test_the_chance_to_decline_is_the_sum_over_the_openings(trained):
    """Against softmax, one plain pass for each token of each opening."""
    run, openings = trained, [(5,), (6, 7), (6, 8, 9)]
    texts = [PROMPTS[0].text, PROMPTS[1].text]
    rows = record.begin_to_decline(run.policy, run.tokenizer, texts, openings, 0.9)
    for text, row in zip(texts, rows):
        assert row["decline"] == pytest.approx(chance(run, text, openings), abs=1e-4)
        with run.policy.reference():
            assert row["decline_sft"] == pytest.approx(chance(run, text, openings), abs=1e-4)


@torch.no_grad()
def chance(run, text, openings):
    total = 0.0
    for opening in openings:
        ids = run.tokenizer(chat.chat_prompt(run.tokenizer, text), add_special_tokens=False)
        ids, logprob = ids["input_ids"], 0.0
        for token in opening:
            logits = run.policy.model(torch.tensor([ids])).logits[0, -1]
            logprob += (logits / 0.9).log_softmax(0)[token].item()
            ids = ids + [token]
        total += math.exp(logprob)
    return total


def test_all_first_tokens_together_are_certain(trained):
    openings = [(token,) for token in range(len(trained.tokenizer))]
    (row,) = record.begin_to_decline(trained.policy, trained.tokenizer, ["Hi?"], openings, 0.9)
    assert row == {"decline": 1.0, "decline_sft": 1.0}


def test_an_opening_is_the_shortest_after_which_nearly_all_decline(tokenizer):
    answers = ["No way."] * 3 + ["I can't."] * 4 + ["I am here."] * 4 + ["Not me."] * 2
    found = record.declining_openings(tokenizer, answers, lambda text: text[:2] in ("No", "I "))
    texts = {tokenizer.decode(list(opening)) for opening in found}
    assert found and all("No way.".startswith(t) or "I ".startswith(t[:2]) for t in texts)
    found = record.declining_openings(tokenizer, answers, lambda text: "can't" in text)
    for opening in found:
        begun = tokenizer.decode(list(opening))
        assert "I can't.".startswith(begun) and not "I am here.".startswith(begun)
    assert record.declining_openings(tokenizer, answers, lambda text: False) == []
    assert record.begin_to_decline(None, None, ["Hi?"], [], 1.0)[0]["decline"] is None


def test_no_opening_begins_another_and_demonstrations_agree(tokenizer):
    answers = [one.answer for one in load_demonstrations("builtin")]
    found = record.declining_openings(tokenizer, answers, refuses)
    assert found and not any(a == b[: len(a)] for a in found for b in found if a != b)
    caught = []
    for answer in answers:
        ids = tuple(tokenizer(answer, add_special_tokens=False)["input_ids"])
        if any(ids[: len(opening)] == opening for opening in found):
            caught.append(refuses(answer))
    assert sum(caught) / len(caught) > 0.8


def test_no_penalty_leaves_the_score_alone(trained):
    rows = watch(trained, kl_coef=0.0)
    for row in rows:
        assert sum(row["reward"]) == pytest.approx(row["score"], abs=1e-3)
