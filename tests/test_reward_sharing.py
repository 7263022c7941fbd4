"""One trunk for policy and reward model: what was just sampled is scored without running the lower blocks again."""

import numpy as np
import pytest
import torch
from test_reward import ANSWERS, KINDS, PROMPTS, trained

from rlhf_utils import data, models, sampling
from rlhf_utils.reward import load_reward_model
from rlhf_utils.rewards import WeightedRewards, load_reward, score_samples
from rlhf_utils.trunk import Trunk


def policy_for(trained_layers: int):
    """The tiny policy with adapters, whose blocks below are those that the reward models of this file were made on."""
    torch.manual_seed(3)
    policy = models.add_lora(models.load_model("tiny"), 4, trained_layers)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return policy.eval()


def sampled(policy, tokenizer, length: int = 12):
    prompts = [
        "Hi?",
        "How do plants drink, and why do they need to do so at all?",
        "Why?",
        "Hi?",
    ] * 3
    return sampling.sample(
        policy, tokenizer, prompts, length, 1.0, torch.Generator().manual_seed(5)
    )


def answered(
    policy, tokenizer, prompts: list[str], answers: list[list[int]], ended: list[bool]
) -> sampling.Samples:
    """Samples as `sample` gives them, had it drawn these tokens (an end among them where `ended`)."""
    query = tokenizer(
        [data.chat_prompt(tokenizer, p) for p in prompts],
        return_tensors="pt",
        padding=True,
        add_special_tokens=False,
    )
    response_ids = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(ids) for ids in answers],
        batch_first=True,
        padding_value=tokenizer.pad_token_id,
    )
    response_mask = torch.arange(response_ids.shape[1]) < torch.tensor(
        [[len(ids)] for ids in answers]
    )
    samples = sampling.Samples(
        prompts,
        query["input_ids"],
        query["attention_mask"].bool(),
        response_ids,
        response_mask,
        torch.zeros(response_ids.shape),
        torch.tensor(ended),
        [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in answers],
        None,
        Trunk(policy).cut,
    )
    samples.trunk = Trunk(policy).lower(samples.input_ids[:, :-1], samples.attention_mask[:, :-1])
    samples.ends = torch.zeros(len(prompts), 2, samples.trunk.shape[2])
    for i, ids in enumerate(answers):
        row = torch.tensor(
            [samples.query_ids[i][samples.query_mask[i]].tolist() + ids + [tokenizer.eos_token_id]]
        )
        samples.ends[i] = Trunk(policy).lower(row, torch.ones_like(row))[0, -2:]
    return samples


@pytest.mark.parametrize("cut", [1, 0], ids=["the same cut", "a policy cut lower"])
@pytest.mark.parametrize("kind", ["and the prompt's", "and the middle", "middle only"])
def test_samples_are_scored_from_the_policys_trunk(tmp_path, monkeypatch, kind, cut):
    trained(**KINDS[kind]).save(tmp_path)
    policy = policy_for(2 - cut)
    alone, together = load_reward_model(tmp_path), load_reward_model(tmp_path, trunk_of=policy)
    assert together.lent_cut == cut
    for own, theirs in zip(together.trunk.blocks[:cut], Trunk(policy).blocks[:cut]):
        assert own is theirs
    assert together.backbone.get_input_embeddings() is Trunk(policy).model.get_input_embeddings()
    tokenizer = alone.tokenizer
    ids = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in ANSWERS]
    split = [
        t for letter in "Hello." for t in tokenizer(letter, add_special_tokens=False)["input_ids"]
    ]  # other tokens than the text gives
    rows = [row + [tokenizer.eos_token_id] for row in ids[:3]] + ids[3:] + [split]
    samples = answered(policy, tokenizer, [*PROMPTS, "Why?"], rows, [True] * 3 + [False] * 3)
    expected = alone.score(samples.prompts, samples.responses)
    anew, read = [], together.read_texts
    monkeypatch.setattr(
        together, "read_texts", lambda texts, *more: anew.extend(texts) or read(texts, *more)
    )
    monkeypatch.setattr(Trunk, "lower", None)  # whoever calls it fails
    assert (
        together.score_samples(samples) == pytest.approx(expected, abs=1e-5)
        and np.std(expected) > 0.01
    )
    assert anew == [("Why?", samples.responses[-1])]  # the one that is split otherwise


def test_samples_that_the_trunk_cannot_serve_are_read_anew(tmp_path):
    model = trained(read_prompt=True)
    model.save(tmp_path)
    policy = policy_for(1)
    samples = sampled(policy, model.tokenizer)
    expected = load_reward_model(tmp_path).score(samples.prompts, samples.responses)
    with torch.no_grad():  # another π_SFT: its blocks must not be taken for ours
        Trunk(policy).blocks[0].mlp.up_proj.weight += 1e-3
    other = load_reward_model(tmp_path, trunk_of=policy)
    assert other.lent_cut is None and other.trunk.blocks[0] is not Trunk(policy).blocks[0]
    assert other.score_samples(samples) == pytest.approx(expected, abs=1e-5)
    shared = load_reward_model(tmp_path, trunk_of=policy_for(1))
    shared.max_length = 8
    assert shared.score_samples(samples) == pytest.approx(
        shared.score(samples.prompts, samples.responses), abs=1e-5
    )


def test_closed_rows_hold_the_states_of_a_pass_of_their_own(monkeypatch):
    """Prompt, answer and one end, for answers that ended, at any step, and for those that did not."""
    policy, tokenizer = policy_for(1), models.load_tokenizer("tiny")
    logits, likely = (
        sampling.head_logits,
        torch.nn.functional.one_hot(torch.tensor(tokenizer.eos_token_id), len(tokenizer)) * 5.0,
    )
    monkeypatch.setattr(
        sampling, "head_logits", lambda *args: logits(*args) + likely
    )  # so that some rows end early
    samples = sampled(policy, tokenizer)
    assert (
        samples.ended.any()
        and not samples.ended.all()
        and len(set(samples.response_mask.sum(1).tolist())) > 2
    )
    for (ids, states), prompt in zip(samples.closed(tokenizer.eos_token_id), samples.prompts):
        assert (
            ids[-1] == tokenizer.eos_token_id
            and ids.count(tokenizer.eos_token_id)
            - tokenizer(data.chat_prompt(tokenizer, prompt))["input_ids"].count(
                tokenizer.eos_token_id
            )
            == 1
        )
        alone = Trunk(policy).lower(torch.tensor([ids]), torch.ones(1, len(ids)))[0]
        assert torch.allclose(states, alone, atol=1e-5)


def test_a_reward_in_a_sum_is_still_scored_from_the_trunk(tmp_path, monkeypatch):
    trained(read_prompt=True).save(tmp_path)
    policy = policy_for(1)
    reward = load_reward("0.5*reward_model", lambda: tmp_path, trunk_of=policy)
    both = WeightedRewards(
        [
            *reward.parts,
            (
                2.0,
                "length",
                lambda prompts, completions, **columns: [float(len(c)) for c in completions],
            ),
        ]
    )
    tokenizer = models.load_tokenizer("tiny")
    samples = answered(
        policy,
        tokenizer,
        PROMPTS,
        [tokenizer(a, add_special_tokens=False)["input_ids"] for a in ANSWERS],
        [False] * 5,
    )
    expected = both(prompts=samples.prompts, completions=samples.responses)
    monkeypatch.setattr(Trunk, "lower", None)  # whoever calls these fails
    monkeypatch.setattr(Trunk, "both", None)
    assert score_samples(both, samples, category=["x"] * 5) == pytest.approx(expected, abs=1e-5)
