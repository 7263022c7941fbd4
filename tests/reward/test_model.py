"""The reward model: heads, their combination, normalising, saving and loading."""

import json

import numpy as np
import pytest
import torch
from helpers_reward import ANSWERS, PROMPTS, TEXTS, make_model, slow_members
from transformers import AutoModel, GPT2Config, GPT2Model

from rlhf_utils.errors import ModelError
from rlhf_utils.models.load import load_model, load_tokenizer
from rlhf_utils.reward.model import (
    COMBINATIONS,
    RewardModel,
    Standardise,
    load_reward_model,
    make_head,
)

KINDS = {
    "one head": {},
    "three heads, the lowest": {"ensemble": 3, "combine": "min"},
    "two heads, cautious": {"ensemble": 2, "combine": "uncertainty"},
}


@pytest.fixture(params=list(KINDS))
def model(request) -> RewardModel:
    return make_model(**KINDS[request.param])


def expected_raw(model: RewardModel, prompts=PROMPTS, answers=ANSWERS) -> torch.Tensor:
    return COMBINATIONS[model.combine](slow_members(model, prompts, answers))


# --- rewards


def test_rewards_are_those_of_texts_read_alone(model):
    found = model.raw(PROMPTS, ANSWERS)
    assert found.shape == (5,) and found.dtype == torch.float32 and found.std() > 0.01
    assert torch.allclose(found, expected_raw(model), atol=1e-5)
    members = model.members(PROMPTS, ANSWERS)
    assert torch.allclose(members, slow_members(model, PROMPTS, ANSWERS), atol=1e-5)


def test_raw_is_in_the_order_asked_and_without_dropout(model):
    expected = expected_raw(model)
    model.heads.train()
    for _ in range(2):
        found = model.raw(PROMPTS, ANSWERS)
        assert torch.allclose(found, expected, atol=1e-5)
        assert not found.requires_grad and model.heads.training
        model.known = model.reader.read(TEXTS[:3])  # from now on some texts need not be read
    repeated = model.raw(PROMPTS + PROMPTS[::-1], ANSWERS + ANSWERS[::-1])
    assert torch.allclose(repeated, torch.cat([expected, expected.flip(0)]), atol=1e-5)


def test_what_was_read_once_is_not_read_again(model, monkeypatch):
    expected = model.raw(PROMPTS, ANSWERS)
    model.known = model.reader.read(TEXTS)
    monkeypatch.setattr(model.reader, "read_answers", None)
    assert torch.equal(model.raw(PROMPTS, ANSWERS), expected)


def test_a_text_that_is_too_long_is_read_without_its_beginning():
    model = make_model(max_length=16)
    long = ["Hi? " * 50, "Ho! " * 50]
    for answers in (["Hello.", "Hello."], ["Hello " * 50] * 2):
        found = model.raw(long, answers)
        assert torch.allclose(found, expected_raw(model, long, answers), atol=1e-5)
        whole = make_model().raw(long, answers)
        assert not torch.allclose(found, whole, atol=1e-3)


def test_the_backbone_has_no_dropout_in_training():
    """Its noise would stay in the states for all epochs; GPT-2 has dropout 0.1."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=1024, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2
    )
    model = make_model(GPT2Model(config).train())
    assert not model.backbone.training and not model.heads.training
    first, second = model.reader.read(TEXTS[:1]), model.reader.read(TEXTS[:1])
    assert torch.equal(first[TEXTS[0]], second[TEXTS[0]])


def test_only_the_heads_learn():
    model = RewardModel(load_model("tiny", auto_class=AutoModel), load_tokenizer("tiny"))
    assert all(parameter.requires_grad for parameter in model.heads.parameters())
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())


# --- heads


def test_head_layers_and_start():
    """The last layer starts with std 1/√65, so that an untrained reward spreads by about 1."""
    torch.manual_seed(0)
    head = make_head(3072, dropout=0.3)
    kinds = ["Standardise", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    assert [type(layer).__name__ for layer in head] == kinds
    assert head[1].p == head[4].p == 0.3
    assert head[2].weight.shape == (64, 3072)
    assert head[5].weight.shape == (1, 64) and head[5].bias.tolist() == [0.0]
    assert head[5].weight.std().item() == pytest.approx(65**-0.5, rel=0.3)


def test_standardise_by_hand():
    layer = Standardise(2)
    assert layer(torch.tensor([[1.0, 2.0]])).tolist() == [[1.0, 2.0]]
    layer.mean, layer.std = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 4.0])
    assert layer(torch.tensor([[5.0, 2.0]])).tolist() == [[2.0, 0.5]]


def test_combine_by_hand():
    members = torch.tensor([[1.0, 3.0], [-2.0, 0.0]])
    found = {name: combine(members).tolist() for name, combine in COMBINATIONS.items()}
    # uncertainty: the mean less a standard deviation of 1
    assert found == {"mean": [2.0, -1.0], "min": [1.0, -2.0], "uncertainty": [1.0, -2.0]}


def test_heads_that_differ_by_a_constant_count_alike(tmp_path):
    """A pairwise loss leaves each head's level free, so "min" must not be the lowest head."""
    model = make_model(ensemble=2, combine="min")
    model.heads[1].load_state_dict(model.heads[0].state_dict())
    with torch.no_grad():
        model.heads[1][-1].bias += 50.0
    model.normalise(PROMPTS, ANSWERS)
    level = model.members(PROMPTS, ANSWERS)[:, 0]
    assert torch.allclose(model.raw(PROMPTS, ANSWERS), level + 25.0, atol=1e-4)
    model.save(tmp_path)
    again = load_reward_model(tmp_path)
    assert torch.allclose(again.raw(PROMPTS, ANSWERS), level + 25.0, atol=1e-4)


# --- normalising, saving, loading


def test_normalise(model):
    model.normalise(PROMPTS, ANSWERS)
    scores = torch.tensor(model.score(PROMPTS, ANSWERS))
    assert scores.mean().item() == pytest.approx(0, abs=1e-5)
    assert scores.std().item() == pytest.approx(1, abs=1e-5)
    assert scores.argsort().tolist() == model.raw(PROMPTS, ANSWERS).argsort().tolist()
    model.normalise(PROMPTS[:1] * 2, ANSWERS[:1] * 2)  # no spread at all: still finite
    assert np.isfinite(model.score(PROMPTS, ANSWERS)).all()


def test_the_model_is_called_like_any_reward(model):
    model.normalise(PROMPTS, ANSWERS)
    found = model(prompts=PROMPTS, completions=ANSWERS, category=["x"] * 5)
    assert found == model.score(PROMPTS, ANSWERS)


def with_known_input(model: RewardModel) -> RewardModel:
    """The model as after training, when its heads standardise what they see."""
    torch.manual_seed(2)
    for head in model.heads:
        head[0].mean, head[0].std = torch.randn(192) / 10, 0.5 + torch.rand(192)
    return model


def test_saved_model_scores_the_same(model, tmp_path):
    with_known_input(model).normalise(PROMPTS, ANSWERS)
    before = model.score(PROMPTS, ANSWERS)
    model.save(tmp_path)
    again = load_reward_model(tmp_path)
    assert np.std(before) > 0.5
    assert model.score(PROMPTS, ANSWERS) == pytest.approx(before, abs=1e-6)
    assert again.score(PROMPTS, ANSWERS) == pytest.approx(before, abs=1e-6)
    assert again.score(PROMPTS[:1], ANSWERS[:1]) == pytest.approx(before[:1], abs=1e-5)
    assert not again.heads.training
    assert (again.ensemble, again.combine) == (model.ensemble, model.combine)
    assert not any(p.requires_grad for p in again.backbone.parameters())


def test_the_saved_folder_is_plain_transformers(tmp_path):
    model = make_model(max_length=20)
    model.save(tmp_path)
    plain = AutoModel.from_pretrained(tmp_path)
    assert plain.config.num_hidden_layers == 2
    for name, weight in model.backbone.state_dict().items():
        assert torch.equal(plain.state_dict()[name], weight), name
    settings = json.loads((tmp_path / "reward_config.json").read_text())
    assert settings["std"] == model.std and settings["max_length"] == 20
    assert load_reward_model(tmp_path).reader.max_length == 20


def test_a_model_of_an_earlier_version_is_refused(tmp_path):
    """Its heads saw ten states instead of three."""
    make_model().save(tmp_path / "judge")
    file = tmp_path / "judge" / "reward_config.json"
    settings = json.loads(file.read_text())
    del settings["states"]
    file.write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="judge/ was made by an earlier version.*run 03_"):
        load_reward_model(tmp_path / "judge")


@pytest.mark.parametrize("damage", ["cut", "emptied", "gone"])
@pytest.mark.parametrize("file", ["reward_config.json", "head.safetensors"])
def test_a_damaged_file_of_a_reward_model_is_named(tmp_path, file, damage):
    make_model().save(tmp_path / "judge")
    path = tmp_path / "judge" / file
    path.write_bytes({"cut": path.read_bytes()[:-5], "emptied": b"{}", "gone": b""}[damage])
    if damage == "gone":
        path.unlink()
    told = f"^judge/{file} is missing or damaged .*: run 03_reward_model again.$"
    if (file, damage) == ("reward_config.json", "emptied"):
        told = "earlier version"
    with pytest.raises(ModelError, match=told):
        load_reward_model(tmp_path / "judge")
