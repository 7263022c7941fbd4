"""The reward model against slow, independent computations; and its report card against numbers worked out by hand."""

import json
import math

import numpy as np
import pytest
import torch
from transformers import AutoModel, GPT2Config, GPT2Model

from rlhf_utils import data, models
from rlhf_utils.reward import (Group, RewardModel, batches, fit_head, group_by_prompt, group_loss, last_token_index, load_reward_model, make_head,
                                margins, pairwise_loss)

GROUPS = [
    Group("Hi?", ["Hello.", "No.", "Good day to you, and what can I do?"], [(0, 1), (0, 2), (2, 1), (0, 1)]),
    Group("How do plants drink, and why do they need to do so at all?", ["By their roots.", "They do not."], [(0, 1)]),
]
PROMPTS = [g.prompt for g in GROUPS for _ in g.responses]
ANSWERS = [r for g in GROUPS for r in g.responses]


@pytest.fixture(params=[(False, ""), (True, ""), (True, "Was that good?")], ids=["last token", "and the prompt's", "with a question"])
def model(request) -> RewardModel:
    """The tiny model in float32 with adapters on its upper block, as after some training: none of them is zero."""
    backbone = models.add_lora(models.load_model("tiny", auto_class=AutoModel), 4, 8, num_trainable_layers=1)
    model = RewardModel(backbone, models.load_tokenizer("tiny"), read_prompt=request.param[0], question=request.param[1])
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "head" in name:
                parameter.normal_(0, 0.1)
    return model.eval()


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


def test_head_sees_the_token_before_the_answer(model):
    prompt, answer = PROMPTS[0], ANSWERS[0]
    text = data.chat_prompt(model.tokenizer, prompt, answer, model.question) if model.question else \
        data.chat_prompt(model.tokenizer, prompt) + answer + model.tokenizer.eos_token
    ids = torch.tensor([model.tokenizer(text, add_special_tokens=False)["input_ids"]])
    hidden = model.backbone(ids).last_hidden_state[0]
    before = len(model.tokenizer(data.chat_prompt(model.tokenizer, prompt), add_special_tokens=False)["input_ids"]) - 1
    seen = torch.cat([hidden[-1], hidden[before], hidden[before + 3]]) if model.read_prompt else hidden[-1]
    assert before < len(hidden) - 2 and model.raw([prompt], [answer]).item() == pytest.approx(model.head(seen).item(), abs=1e-5)


def test_too_long_text_loses_its_beginning(model):
    whole = model.encode(["Hi? " * 50], ["Hello."])["input_ids"][0]
    model.max_length = 16
    cut = model.encode(["Hi? " * 50, "Hi?"], ["Hello.", "Hello."])["input_ids"]
    assert cut.shape[1] <= 16 and cut[0].tolist() == whole[-16:].tolist()
    left = model.backbone(model.encode(["Hi?"], ["Hello " * 50])["input_ids"]).last_hidden_state[0]
    seen = torch.cat([left[-1], left[0], left[3]]) if model.read_prompt else left[-1]  # the prompt is gone: its place is taken by the first token left
    assert model.raw(["Hi?"], ["Hello " * 50]).item() == pytest.approx(model.head(seen).item(), abs=1e-5)


def test_dropout_of_the_backbone_stays_off_in_training():
    """Else the trunk's cached states would be one noisy draw, used for every epoch; GPT-2 has dropout 0.1."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=1024, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    model = RewardModel(models.add_lora(GPT2Model(config), 4, 8, num_trainable_layers=1), models.load_tokenizer("tiny"), dropout=0.0).train()
    assert model.head.training and torch.equal(model.cached(["Hi?"], ["Hello."]), model.cached(["Hi?"], ["Hello."]))
    assert torch.allclose(model.cached(["Hi?"], ["Hello."]), model.raw(["Hi?"], ["Hello."]), atol=1e-6)


def test_cached_equals_forward(model):
    """Also at the second visit, for texts of other lengths in the batch, for repeated ones, and after the adapters have changed."""
    def check(rows):
        prompts, answers = [PROMPTS[i] for i in rows], [ANSWERS[i] for i in rows]
        assert torch.allclose(model.cached(prompts, answers), torch.stack(one_by_one(model, prompts, answers)), atol=1e-5)

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
    for last in (linear, mlp[-1]):
        assert last.weight.shape == (1, 1024) and last.bias.tolist() == [0.0]
        assert last.weight.std().item() == pytest.approx(1025**-0.5, rel=0.1)


def test_unknown_head():
    with pytest.raises(ValueError, match="head='deep'.*'mlp' or 'linear'"):
        make_head(8, "deep")
    with pytest.raises(ValueError, match="give read_prompt=False"):
        make_head(8, "linear", tokens=2)


# --- losses


def test_pairwise_loss_by_hand():
    chosen, rejected = torch.tensor([1.0, 0.0, -2.0, 200.0, -200.0]), torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])
    expected = [math.log(1 + math.exp(-1)), math.log(2), math.log(1 + math.exp(3)), 0.0, 200.0]  # the last two overflow if done naively
    assert pairwise_loss(chosen, rejected).tolist() == pytest.approx(expected, abs=1e-6)


def slow_loss(model: RewardModel, groups: list[Group]) -> torch.Tensor:
    """A forward pass for each side of each pair; the mean over prompts of the mean over a prompt's pairs."""
    of_prompts = []
    for group in groups:
        losses = []
        for better, worse in group.pairs:
            chosen, rejected = one_by_one(model, [group.prompt] * 2, [group.responses[better], group.responses[worse]])
            losses.append(torch.log(1 + torch.exp(rejected - chosen)))
        of_prompts.append(sum(losses) / len(losses))
    return sum(of_prompts) / len(of_prompts)


def test_group_loss_and_its_gradient_are_the_slow_ones(model):
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert any("lora_" in name for name in learned) and any("head" in name for name in learned)
    fast, slow = group_loss(model, GROUPS), slow_loss(model, GROUPS)
    assert fast.item() == pytest.approx(slow.item(), abs=1e-6)
    gradients = zip(torch.autograd.grad(fast, list(learned.values())), torch.autograd.grad(slow, list(learned.values())))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in gradients)


def test_group_by_prompt():
    rows = [{"prompt": g.prompt, "chosen": g.responses[a], "rejected": g.responses[b]} for g in GROUPS for a, b in g.pairs]
    first, second = group_by_prompt(rows[::2] + rows[1::2])  # rows of a prompt need not be neighbours
    assert (first.prompt, second.prompt) == (GROUPS[0].prompt, GROUPS[1].prompt)
    texts = sorted((first.responses[a], first.responses[b]) for a, b in first.pairs)
    assert texts == sorted((GROUPS[0].responses[a], GROUPS[0].responses[b]) for a, b in GROUPS[0].pairs)  # twice judged stays twice
    assert len(first.responses) == 3 and second.responses == GROUPS[1].responses


# --- training, normalising, keeping


def test_a_few_steps_learn_separable_pairs(model):
    prompts = ["Hi?", "How are you?", "What is this?", "Why?", "Who is there?", "Is it late?"]
    rows = [{"prompt": p, "chosen": f"Yes, {end}", "rejected": f"No no {end}"} for p in prompts for end in ("sure.", "of course.", "it is so.")]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    start = group_loss(model, group_by_prompt(rows)).item()
    model.train()
    for _ in range(25):
        loss = group_loss(model, group_by_prompt(rows))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < start / 3
    assert (margins(model, rows) > 0).all()
    assert torch.allclose(margins(model, [dict(r, chosen=r["rejected"], rejected=r["chosen"]) for r in rows]), -margins(model, rows))


@pytest.mark.parametrize("head", ["mlp", "linear"])
def test_the_head_alone_learns_and_the_backbone_stays(model, head):
    torch.manual_seed(0)
    model = RewardModel(model.backbone, model.tokenizer, head, read_prompt=head == "mlp")
    prompts = ["Hi?", "How are you?", "What is this?", "Why?", "Who is there?", "Is it late?"]
    rows = [{"prompt": p, "chosen": f"Yes, {end}", "rejected": f"No no {end}"} for p in prompts for end in ("sure.", "of course.", "it is so.")]
    before = {name: p.clone() for name, p in model.backbone.named_parameters()}
    fit_head(model, group_by_prompt(rows), 60, seed=0, learning_rate=0.05)
    assert (margins(model, rows) > 0).float().mean() > 0.9
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.backbone.named_parameters())
    if head == "mlp":
        assert model.head[0].std.min() > 0 and model.head[0].mean.abs().max() > 0


def test_batches_hold_each_group_once_and_like_lengths_together():
    groups = [Group("x" * n, ["y"], []) for n in range(100)]
    found = batches(groups, 4, seed=1)
    assert sorted(len(g.prompt) for few in found for g in few) == list(range(100)) and len(found) == 25
    spread = [max(len(g.prompt) for g in few) - min(len(g.prompt) for g in few) for few in found]
    assert max(spread) < 50 and batches(groups, 4, seed=1) == found != batches(groups, 4, seed=2)


def test_normalise(model):
    model.normalise(PROMPTS, ANSWERS)
    scores = torch.tensor(model.score(PROMPTS, ANSWERS))
    assert scores.mean().item() == pytest.approx(0, abs=1e-5) and scores.std().item() == pytest.approx(1, abs=1e-5)
    assert scores.argsort().tolist() == model.raw(PROMPTS, ANSWERS).argsort().tolist()
    model.normalise(PROMPTS[:1] * 2, ANSWERS[:1] * 2)  # no spread at all: still finite
    assert np.isfinite(model.score(PROMPTS, ANSWERS)).all()


@pytest.mark.parametrize(("head", "read_prompt"), [("mlp", False), ("mlp", True), ("linear", False)])
def test_saved_model_scores_the_same(model, tmp_path, head, read_prompt):
    model = RewardModel(model.backbone, model.tokenizer, head, max_length=20, read_prompt=read_prompt).eval()
    fit_head(model, GROUPS, 1, seed=0)
    model.eval()
    model.normalise(PROMPTS, ANSWERS)
    before = model.score(PROMPTS, ANSWERS)
    model.save(tmp_path)
    again = load_reward_model(tmp_path)
    assert again.score(PROMPTS, ANSWERS) == pytest.approx(before, abs=1e-5)
    assert (again.kind, again.max_length, again.read_prompt, again.training) == (head, 20, read_prompt, False)
    assert json.loads((tmp_path / "reward_config.json").read_text())["std"] == model.std
    assert not list(tmp_path.glob("adapter*")) and AutoModel.from_pretrained(tmp_path).config.num_hidden_layers == 2  # plain transformers


def test_margins_stay_right_after_saving(model, tmp_path):
    """Saving folds the adapters in; states cached below them must not be taken for states above them."""
    rows = [{"prompt": g.prompt, "chosen": g.responses[0], "rejected": g.responses[1]} for g in GROUPS]
    group_loss(model, GROUPS)  # fills the cache
    before = margins(model, rows)
    model.save(tmp_path)
    assert torch.allclose(margins(model, rows), before, atol=1e-5)
