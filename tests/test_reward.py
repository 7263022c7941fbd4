"""The reward model against slow, independent computations: how it reads, caches, keeps and reloads. Training: test_reward_training.py."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, GPT2Config, GPT2Model

from rlhf_utils import data, models, sampling
from rlhf_utils.errors import SettingError
from rlhf_utils.heads import combine, make_head
from rlhf_utils.reward import RewardModel, last_token_index, load_reward_model, margins
from rlhf_utils.reward_training import Group, fit_heads, group_loss
from rlhf_utils.trunk import Trunk

GROUPS = [
    Group("Hi?", ["Hello.", "No.", "Good day to you, and what can I do?"], [(0, 1), (0, 2), (2, 1), (0, 1)]),
    Group("How do plants drink, and why do they need to do so at all?", ["By their roots.", "They do not."], [(0, 1)]),
]
PROMPTS = [g.prompt for g in GROUPS for _ in g.responses]
ANSWERS = [r for g in GROUPS for r in g.responses]


KINDS = {
    "last token": {}, "and the prompt's": {"read_prompt": True}, "and the middle": {"read_prompt": True, "read_middle": True},
    "with a question": {"read_prompt": True, "question": "Was that good?"}, "middle only": {"read_middle": True, "ensemble": 3, "combine": "min"},
}


def trained(**options) -> RewardModel:
    """The tiny model in float32 with adapters on its upper block, as after some training: none of them is zero."""
    backbone = models.add_lora(models.load_model("tiny", auto_class=AutoModel), 4, 8, num_trainable_layers=1)
    model = RewardModel(backbone, models.load_tokenizer("tiny"), num_trainable_layers=1, **options)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "heads" in name:
                parameter.normal_(0, 0.1)
    return model.eval()


@pytest.fixture(params=list(KINDS))
def model(request) -> RewardModel:
    return trained(**KINDS[request.param])


def one_by_one(model: RewardModel, prompts: list[str], answers: list[str]) -> list[torch.Tensor]:
    """Each text alone, so that nothing is padded."""
    return [model(**model.encode([prompt], [answer]))[0] for prompt, answer in zip(prompts, answers)]


def pad(batch: dict, left: int, right: int, token: int) -> dict:
    ids = torch.nn.functional.pad(batch["input_ids"], (left, right), value=token)
    return batch | {"input_ids": ids, "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (left, right), value=0)}


# --- where and how a reward is read


@pytest.mark.parametrize(("mask", "index"), [
    ([0, 0, 1, 1], 3), ([1, 1, 1, 1], 3), ([1, 1, 0, 0], 1), ([1, 0, 0, 0], 0), ([0, 1, 1, 0], 2), ([0, 0, 0, 0], 0), ([0, 0, 0, 1], 3),
])
@pytest.mark.parametrize("dtype", [torch.long, torch.bool])
def test_last_token_index(mask, index, dtype):
    rows = torch.tensor([mask, [1, 1, 1, 1]], dtype=dtype)
    assert last_token_index(rows).tolist() == [index, 3]


def test_shape_and_padding(model):
    """(B,) rewards; how much a row is padded, on which side and with what token, changes nothing."""
    with torch.no_grad():
        alone = torch.stack(one_by_one(model, PROMPTS, ANSWERS))
        batch = model.encode(PROMPTS, ANSWERS)
        assert batch["attention_mask"].min() == 0 and batch["attention_mask"][:, -1].all()  # padded on the left
        together = model(**batch)
        assert together.shape == (5,) and together.dtype == torch.float32
        assert torch.allclose(together, alone, atol=1e-5) and together.std() > 0.01
        for left, right, token in ((7, 0, 5), (0, 7, 5), (3, 4, model.tokenizer.eos_token_id)):
            assert torch.allclose(model(**pad(batch, left, right, token)), alone, atol=1e-5)


def test_reward_is_read_at_the_end_of_sequence(model):
    model.question = ""
    ids = model.encode(["Hi?"], ["Hello."])["input_ids"][0].tolist()
    assert ids[-1] == model.tokenizer.eos_token_id and "Hello." in model.tokenizer.decode(ids)


def seen_by_hand(model: RewardModel, ids: list[int], places: list[int]) -> torch.Tensor:
    """The mean of the heads on the states at these places of one unpadded row, by a plain pass of the whole model."""
    inner = model.backbone.get_base_model()
    layers = inner(torch.tensor([ids]), output_hidden_states=True)
    read = [layers.last_hidden_state[0]] + ([layers.hidden_states[1][0]] if model.read_middle else [])
    states = torch.cat([layer[place] for layer in read for place in (places if model.read_prompt else places[:1])])
    rewards = torch.stack([head(states) for head in model.heads])
    return rewards.min() if model.combine == "min" else rewards.mean()


def test_head_sees_the_token_before_the_answer(model):
    prompt, answer = PROMPTS[0], ANSWERS[0]
    text = data.chat_prompt(model.tokenizer, prompt, answer, model.question) if model.question else \
        data.chat_prompt(model.tokenizer, prompt) + answer + model.tokenizer.eos_token
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    before = len(model.tokenizer(data.chat_prompt(model.tokenizer, prompt), add_special_tokens=False)["input_ids"]) - 1
    assert before < len(ids) - 2
    assert model.raw([prompt], [answer]).item() == pytest.approx(seen_by_hand(model, ids, [-1, before, before + 3]).item(), abs=1e-5)


def test_too_long_text_loses_its_beginning(model):
    whole = model.encode(["Hi? " * 50], ["Hello."])["input_ids"][0]
    model.max_length = 16
    cut = model.encode(["Hi? " * 50, "Hi?"], ["Hello.", "Hello."])["input_ids"]
    assert cut.shape[1] <= 16 and cut[0].tolist() == whole[-16:].tolist()
    ids = model.encode(["Hi?"], ["Hello " * 50])["input_ids"][0].tolist()  # the prompt is gone: its place is taken by the first token left
    assert model.raw(["Hi?"], ["Hello " * 50]).item() == pytest.approx(seen_by_hand(model, ids, [-1, 0, 3]).item(), abs=1e-5)


def test_dropout_of_the_backbone_stays_off_in_training():
    """Else the trunk's cached states would be one noisy draw, used for every epoch; GPT-2 has dropout 0.1."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=1024, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    model = RewardModel(models.add_lora(GPT2Model(config), 4, 8, num_trainable_layers=1), models.load_tokenizer("tiny"), dropout=0.0).train()
    assert model.heads.training and torch.equal(model.cached(["Hi?"], ["Hello."]), model.cached(["Hi?"], ["Hello."]))
    assert torch.allclose(model.cached(["Hi?"], ["Hello."])[:, 0], model.raw(["Hi?"], ["Hello."]), atol=1e-6)


def test_cached_equals_forward(model):
    """Also at the second visit, for texts of other lengths in the batch, for repeated ones, and after the adapters have changed."""
    def check(rows):
        prompts, answers = [PROMPTS[i] for i in rows], [ANSWERS[i] for i in rows]
        assert torch.allclose(model.combined(model.cached(prompts, answers)), torch.stack(one_by_one(model, prompts, answers)), atol=1e-5)

    for rows in ([0, 1], [1, 2, 1], [4, 0, 3, 2]):
        check(rows)
    assert len(model.cache) == 5
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.5)
    check([0, 1, 2, 3, 4])


def test_raw_is_in_the_order_asked_and_without_dropout(model):
    expected = torch.stack(one_by_one(model, PROMPTS, ANSWERS)).detach()
    model.train()
    for visit in range(2):
        got = model.raw(PROMPTS, ANSWERS, batch_size=2)
        assert torch.allclose(got, expected, atol=1e-5) and not got.requires_grad and model.training
        model.cached(PROMPTS[:3], ANSWERS[:3])  # from now on some texts come from the cache
    repeated = model.raw(PROMPTS + PROMPTS[::-1], ANSWERS + ANSWERS[::-1], batch_size=2)
    assert torch.allclose(repeated, torch.cat([expected, expected.flip(0)]), atol=1e-5)


def test_raw_makes_the_same_batches_in_every_process(model, monkeypatch):
    """The order of a set of strings changes from process to process, and with it the padding and the last bits of a reward."""
    asked, seen, encode = [f"No. {n}" for n in range(100, 160)], [], model.encode
    monkeypatch.setattr(model, "encode", lambda prompts, completions: seen.extend(completions) or encode(prompts, completions))
    model.raw(["Hi?"] * 60, asked[::-1], batch_size=8)
    assert seen in (asked, asked[::-1])


# --- the head


def test_head_layers_and_start():
    """Stiennon 2020 start the last layer with std 1/√(d + 1); an untrained reward then has a spread of about 1."""
    torch.manual_seed(0)
    linear, mlp = make_head(1024, "linear"), make_head(1024, "mlp", dropout=0.3)
    assert [type(layer).__name__ for layer in mlp] == ["Standardise", "Dropout", "Linear", "ReLU", "Dropout", "Linear"] and mlp[4].p == 0.3
    assert mlp[2].weight.shape == (1024, 1024)
    assert linear.bias is None and mlp[-1].bias.tolist() == [0.0]
    for last in (linear, mlp[-1]):
        assert last.weight.shape == (1, 1024)
        assert last.weight.std().item() == pytest.approx(1025**-0.5, rel=0.1)


def test_unknown_head():
    with pytest.raises(ValueError, match="head='deep'.*'mlp' or 'linear'"):
        make_head(8, "deep")
    with pytest.raises(ValueError, match="give read_prompt=False"):
        make_head(8, "linear", states=2)


# --- normalising, keeping, loading


def test_normalise(model):
    model.normalise(PROMPTS, ANSWERS)
    scores = torch.tensor(model.score(PROMPTS, ANSWERS))
    assert scores.mean().item() == pytest.approx(0, abs=1e-5) and scores.std().item() == pytest.approx(1, abs=1e-5)
    assert scores.argsort().tolist() == model.raw(PROMPTS, ANSWERS).argsort().tolist()
    model.normalise(PROMPTS[:1] * 2, ANSWERS[:1] * 2)  # no spread at all: still finite
    assert np.isfinite(model.score(PROMPTS, ANSWERS)).all()


SAVED = [{"head": "mlp"}, {"head": "mlp", "read_prompt": True}, {"head": "linear"}, {"head": "linear", "ensemble": 2, "combine": "uncertainty"},
         {"head": "mlp", "read_prompt": True, "read_middle": True, "ensemble": 3, "combine": "min"}]


@pytest.mark.parametrize("options", SAVED, ids=str)
def test_saved_model_scores_the_same(tmp_path, options):
    """To 1e-6 what the model itself gives once its adapters are folded in, and to 1e-5 what it gave before."""
    model = trained(max_length=20, **options)
    before_fit = [p.clone() for p in model.heads.parameters()]
    fit_heads(model.heads, {(g.prompt, r): torch.randn(model.heads[0][2].in_features if options["head"] == "mlp" else 64) for g in GROUPS for r in g.responses},
              GROUPS, 1, seed=0)
    assert not all(torch.equal(a, b) for a, b in zip(before_fit, model.heads.parameters()))
    model.normalise(PROMPTS, ANSWERS)
    before = model.score(PROMPTS, ANSWERS)
    model.save(tmp_path)
    again = load_reward_model(tmp_path)
    assert model.score(PROMPTS, ANSWERS) == pytest.approx(before, abs=1e-5) and np.std(before) > 0.5
    assert again.score(PROMPTS, ANSWERS) == pytest.approx(model.score(PROMPTS, ANSWERS), abs=1e-6)
    assert again.score(PROMPTS[:1], ANSWERS[:1]) == pytest.approx(model.score(PROMPTS[:1], ANSWERS[:1]), abs=1e-6)
    assert (again.kind, again.max_length, again.num_trainable_layers, again.training) == (options["head"], 20, 1, False)
    assert (again.read_prompt, again.read_middle, again.combine) == (model.read_prompt, model.read_middle, model.combine)
    assert json.loads((tmp_path / "reward_config.json").read_text())["std"] == model.std
    assert not list(tmp_path.glob("adapter*")) and AutoModel.from_pretrained(tmp_path).config.num_hidden_layers == 2  # plain transformers


def test_linear_head_is_saved_as_a_sequence_classifier(tmp_path):
    """Whoever reads such models (transformers, TRL, vLLM) gets our raw reward as the one logit, padded or not."""
    model = trained(head="linear")
    model.save(tmp_path)
    classifier, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and classifier.config.num_labels == 1
    assert classifier.config.architectures == ["LlamaForSequenceClassification"]
    batch = model.encode(PROMPTS, ANSWERS)
    with torch.no_grad():
        logits = classifier(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    assert torch.allclose(logits, model.raw(PROMPTS, ANSWERS), atol=1e-5) and logits.std() > 0.1


def test_margins_stay_right_after_saving(model, tmp_path):
    """Saving folds the adapters in; states cached below them must not be taken for states above them."""
    rows = [{"prompt": g.prompt, "chosen": g.responses[0], "rejected": g.responses[1]} for g in GROUPS]
    group_loss(model, GROUPS)  # fills the cache
    before = margins(model, rows)
    model.save(tmp_path)
    assert torch.allclose(margins(model, rows), before, atol=1e-5)


# --- several heads, the middle, the bound of the cache


def test_combine_by_hand():
    members = torch.tensor([[1.0, 3.0], [-2.0, 0.0]])
    assert combine(members, "mean").tolist() == [2.0, -1.0] and combine(members, "min").tolist() == [1.0, -2.0]
    assert combine(members, "uncertainty").tolist() == [1.0, -2.0]  # the mean less a standard deviation of 1


def test_heads_that_differ_by_a_constant_count_alike(tmp_path):
    """A pairwise loss leaves each head's level free, so the minimum must not simply be the lowest head."""
    model = trained(ensemble=2, combine="min")
    model.heads[1].load_state_dict(model.heads[0].state_dict())
    with torch.no_grad():
        model.heads[1][-1].bias += 50.0
    model.normalise(PROMPTS, ANSWERS)
    level = model.members(PROMPTS, ANSWERS)[:, 0]
    assert torch.allclose(model.raw(PROMPTS, ANSWERS), level + 25.0, atol=1e-4)
    model.save(tmp_path)
    assert torch.allclose(load_reward_model(tmp_path).raw(PROMPTS, ANSWERS), level + 25.0, atol=1e-4)


def test_what_does_not_fit_is_refused():
    backbone, tokenizer = models.load_model("tiny", auto_class=AutoModel).requires_grad_(False), models.load_tokenizer("tiny")
    for options, told in (({"read_middle": True}, "num_trainable_layers=0"), ({"read_middle": True, "num_trainable_layers": 2}, "read_middle=False"),
                          ({"ensemble": 0}, "ensemble=0"), ({"combine": "median"}, "combine='median'")):
        with pytest.raises(SettingError, match=told):
            RewardModel(backbone, tokenizer, **options)
    with pytest.raises(SettingError, match="blocks below"):
        RewardModel(models.add_lora(backbone, 4, 8), tokenizer, num_trainable_layers=1)


def test_cache_keeps_to_its_bound(model):
    whole = trained()
    whole.cached(PROMPTS, ANSWERS)
    sizes = [states.nbytes for states, _ in whole.cache.values()]
    model.cache_bytes = bound = sum(sizes[:3]) if not model.question else 0
    for _ in range(2):
        assert torch.allclose(model.combined(model.cached(PROMPTS, ANSWERS)), torch.stack(one_by_one(model, PROMPTS, ANSWERS)), atol=1e-5)
        assert sum(states.nbytes for states, _ in model.cache.values()) <= bound and len(model.cache) == (3 if bound else 0)
    model.forget()
    assert model.cache_bytes == bound and not model.cache


# --- one trunk for policy and reward model


def policy_for(trained_layers: int):
    """The tiny policy with adapters, whose blocks below are those that the reward models of this file were made on."""
    torch.manual_seed(3)
    policy = models.add_lora(models.load_model("tiny"), 4, 8, trained_layers)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return policy.eval()


def sampled(policy, tokenizer, length: int = 12):
    prompts = ["Hi?", "How do plants drink, and why do they need to do so at all?", "Why?", "Hi?"] * 3
    return sampling.sample(policy, tokenizer, prompts, length, 1.0, torch.Generator().manual_seed(5))


def answered(policy, tokenizer, prompts: list[str], answers: list[list[int]], ended: list[bool]) -> sampling.Samples:
    """Samples as `sample` gives them, had it drawn these tokens (an end among them where `ended`)."""
    query = tokenizer([data.chat_prompt(tokenizer, p) for p in prompts], return_tensors="pt", padding=True, add_special_tokens=False)
    response_ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in answers], batch_first=True, padding_value=tokenizer.pad_token_id)
    response_mask = torch.arange(response_ids.shape[1]) < torch.tensor([[len(ids)] for ids in answers])
    samples = sampling.Samples(prompts, query["input_ids"], query["attention_mask"].bool(), response_ids, response_mask, torch.zeros(response_ids.shape),
                               torch.tensor(ended), [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in answers], None, Trunk(policy).cut)
    samples.trunk = Trunk(policy).lower(samples.input_ids[:, :-1], samples.attention_mask[:, :-1])
    samples.ends = torch.zeros(len(prompts), 2, samples.trunk.shape[2])
    for i, ids in enumerate(answers):
        row = torch.tensor([samples.query_ids[i][samples.query_mask[i]].tolist() + ids + [tokenizer.eos_token_id]])
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
    split = [t for letter in "Hello." for t in tokenizer(letter, add_special_tokens=False)["input_ids"]]  # other tokens than the text gives
    rows = [row + [tokenizer.eos_token_id] for row in ids[:3]] + ids[3:] + [split]
    samples = answered(policy, tokenizer, [*PROMPTS, "Why?"], rows, [True] * 3 + [False] * 3)
    expected = alone.score(samples.prompts, samples.responses)
    lower, read = [], Trunk.lower
    monkeypatch.setattr(Trunk, "lower", lambda self, ids, mask: lower.append(len(ids)) or read(self, ids, mask))
    assert together.score_samples(samples) == pytest.approx(expected, abs=1e-5) and np.std(expected) > 0.01
    assert lower == [1]  # the one that is split otherwise


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
    assert shared.score_samples(samples) == pytest.approx(shared.score(samples.prompts, samples.responses), abs=1e-5)
    shared.question = "Was that good?"
    assert shared.score_samples(samples) == pytest.approx(shared.score(samples.prompts, samples.responses), abs=1e-5)


def test_closed_rows_hold_the_states_of_a_pass_of_their_own(monkeypatch):
    """Prompt, answer and one end, for answers that ended, at any step, and for those that did not."""
    policy, tokenizer = policy_for(1), models.load_tokenizer("tiny")
    logits, likely = sampling.head_logits, torch.nn.functional.one_hot(torch.tensor(tokenizer.eos_token_id), len(tokenizer)) * 5.0
    monkeypatch.setattr(sampling, "head_logits", lambda *args: logits(*args) + likely)  # so that some rows end early
    samples = sampled(policy, tokenizer)
    assert samples.ended.any() and not samples.ended.all() and len(set(samples.response_mask.sum(1).tolist())) > 2
    for (ids, states), prompt in zip(samples.closed(tokenizer.eos_token_id), samples.prompts):
        assert ids[-1] == tokenizer.eos_token_id and ids.count(tokenizer.eos_token_id) - tokenizer(data.chat_prompt(tokenizer, prompt))["input_ids"].count(tokenizer.eos_token_id) == 1
        alone = Trunk(policy).lower(torch.tensor([ids]), torch.ones(1, len(ids)))[0]
        assert torch.allclose(states, alone, atol=1e-5)
