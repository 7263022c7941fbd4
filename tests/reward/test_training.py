"""Training the reward model: losses by slow forms and by hand, the heads, and TRL's trainer."""

import json
import math
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers_reward import (
    ANSWERS,
    LONG,
    PAIRS,
    SHORT,
    TEXTS,
    make_model,
    make_pair,
    separable,
    slow_states,
)
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from rlhf_utils.errors import DataError, ModelError, RunError, SettingError
from rlhf_utils.models.load import load_model, load_tokenizer
from rlhf_utils.reward import classifier, training
from rlhf_utils.reward.classifier import ClassifierReward, fine_tune
from rlhf_utils.reward.model import RewardModel
from rlhf_utils.reward.report_card import margins
from rlhf_utils.reward.training import (
    Group,
    accuracy_of_heads,
    batch_loss,
    batches,
    check_trained,
    fit_heads,
    group_by_prompt,
    learning_curve,
    pairs_of,
    pairwise_loss,
    split_pairs,
    stack_states,
    standardise_by,
)

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "03_reward_model.ipynb"


@pytest.fixture(params=[1, 2], ids=["one head", "two heads"])
def model(request) -> RewardModel:
    return make_model(ensemble=request.param)


def states_of(model: RewardModel, groups: list[Group]):
    return model.reader.read([text for group in groups for text in group.texts])


# --- the loss


def test_pairwise_loss_by_hand():
    """The last two rewards overflow where the formula is written naively."""
    chosen = torch.tensor([1.0, 0.0, -2.0, 200.0, -200.0])
    rejected = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])
    expected = [math.log(1 + math.exp(-1)), math.log(2), math.log(1 + math.exp(3)), 0.0, 200.0]
    assert pairwise_loss(chosen, rejected).tolist() == pytest.approx(expected, abs=1e-6)


def test_weights_and_ties_by_hand():
    """A confidence of ¼ counts a quarter; a tie is half a pair each way, and one judgement."""
    pairs = [
        make_pair("p", "a", "b", confidence=0.25),
        make_pair("p", "a", "c"),
        make_pair("p", "b", "c", tie=True),
    ]
    (group,) = group_by_prompt(pairs)
    assert list(group.answers) == ["a", "b", "c"]
    assert group.pairs == [(0, 1), (0, 2), (1, 2), (2, 1)]
    assert group.weights == [0.25, 1.0, 0.5, 0.5] and group.judged == 3

    def loss(margin):
        return math.log(1 + math.exp(-margin))

    found = batch_loss([group], torch.tensor([[1.0], [0.0], [-1.0]]))
    expected = (0.25 * loss(1) + loss(2) + 0.5 * loss(1) + 0.5 * loss(-1)) / 3
    assert found.item() == pytest.approx(expected, abs=1e-6)
    confident_tie = group_by_prompt([make_pair("p", "a", "b", tie=True, confidence=0.5)])
    assert confident_tie[0].weights == [0.25, 0.25]


def test_the_loss_of_several_heads_is_the_mean_of_theirs():
    groups = group_by_prompt(PAIRS)
    rewards = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    each = [batch_loss(groups, rewards[:, [head]]).item() for head in range(3)]
    assert batch_loss(groups, rewards).item() == pytest.approx(sum(each) / 3, abs=1e-6)


def test_pairs_of_by_hand():
    """Answers of later groups come after those of earlier ones; each prompt weighs a half."""
    pairs = [make_pair("p", "a", "b"), make_pair("p", "c", "a"), make_pair("q", "d", "e", tie=True)]
    chosen, rejected, weights = pairs_of(group_by_prompt(pairs))
    assert chosen.tolist() == [0, 2, 3, 4]
    assert rejected.tolist() == [1, 0, 4, 3]
    assert weights.tolist() == [0.25] * 4
    judged_more = pairs + [make_pair("p", "a", "b")] * 3
    assert pairs_of(group_by_prompt(judged_more))[2][-2:].tolist() == [0.25, 0.25]


def slow_loss(model: RewardModel, pairs) -> torch.Tensor:
    """Both sides of each pair read on their own; the mean over prompts of their pairs' mean."""
    by_prompt = {}
    for pair in pairs:
        chosen = slow_states(model, pair.prompt.text, pair.chosen)
        rejected = slow_states(model, pair.prompt.text, pair.rejected)
        losses = [
            torch.log(1 + torch.exp(head(rejected) - head(chosen))).squeeze()
            for head in model.heads
        ]
        by_prompt.setdefault(pair.prompt.text, []).append(sum(losses) / len(losses))
    means = [sum(losses) / len(losses) for losses in by_prompt.values()]
    return sum(means) / len(means)


def test_the_loss_and_its_gradient_are_the_slow_ones(model):
    groups, parameters = group_by_prompt(PAIRS), list(model.heads.parameters())
    fast = batch_loss(groups, model.heads(stack_states(states_of(model, groups), groups)))
    slow = slow_loss(model, PAIRS)
    assert fast.item() == pytest.approx(slow.item(), abs=1e-6)
    found, expected = torch.autograd.grad(fast, parameters), torch.autograd.grad(slow, parameters)
    for ours, theirs in zip(found, expected):
        assert torch.allclose(ours, theirs, atol=1e-5)


# --- splits, groups and batches


def test_split_pairs_puts_a_prompt_on_one_side_and_ties_only_into_training():
    pairs = [make_pair(f"p{number}", tie=tie) for number in range(20) for tie in (False, True)]
    pairs += [make_pair("o", split="other"), make_pair("o", split="other", tie=True)]
    train, validation, heldout, other = split_pairs(pairs, 0.25, 0.2, seed=0)
    assert [len(part) for part in (train, validation, heldout, other)] == [24, 3, 5, 1]
    sides = [{pair.prompt.text for pair in part} for part in (train, validation, heldout, other)]
    assert len(set.union(*sides)) == sum(map(len, sides)) == 21
    assert sum(pair.tie for pair in train) == 12
    assert not any(pair.tie for pair in validation + heldout + other)
    with pytest.raises(DataError, match="keep each on one side"):
        split_pairs([*pairs, make_pair("p1", split="other")], 0.25, 0.2, seed=0)


@pytest.mark.parametrize("prompts", [3, 5, 10])
def test_few_prompts_leave_no_validation_but_can_be_learned_from(prompts):
    pairs = [make_pair(f"p{number}") for number in range(prompts)]
    train, validation, heldout, _ = split_pairs(pairs, 0.2, 0.05, seed=0)
    assert not validation and len(heldout) == round(0.2 * prompts)
    assert len(train) + len(heldout) == prompts


def test_too_few_prompts_and_a_share_that_leaves_none_are_told():
    with pytest.raises(DataError, match="2 prompts cannot be split with heldout_fraction=0.2"):
        split_pairs([make_pair("a"), make_pair("b")], 0.2, 0.05, seed=0)
    pairs = [make_pair(f"p{number}") for number in range(10)]
    with pytest.raises(SettingError, match="validation_fraction=0.95 of 8 prompts"):
        split_pairs(pairs, 0.2, 0.95, seed=0)


def test_ties_alone_are_told():
    ties = [make_pair(f"p{number}", tie=True) for number in range(10)]
    with pytest.raises(DataError, match="All 8 pairs to learn from are ties"):
        split_pairs(ties, 0.2, 0.05, seed=0)
    held = {
        pair.prompt.text
        for pair in split_pairs([make_pair(p.prompt.text) for p in ties], 0.2, 0.05, 0)[2]
    }
    mixed = [make_pair(p.prompt.text, tie=p.prompt.text in held) for p in ties]
    with pytest.raises(DataError, match="All 2 pairs held out are ties"):
        split_pairs(mixed, 0.2, 0.05, seed=0)


def test_many_pairs_of_one_prompt_are_grouped_in_time_and_in_order():
    pairs = [make_pair("p", f"a{n}", f"b{n % 7}") for n in range(40_000)]
    began = time.monotonic()
    (group,) = group_by_prompt(pairs)
    assert time.monotonic() - began < 5, "a search of the list for each pair takes minutes"
    answers = list(group.answers)
    assert answers[:5] == ["a0", "b0", "a1", "b1", "a2"] and len(answers) == 40_007
    assert all(answers[place] == pair.chosen for (place, _), pair in zip(group.pairs, pairs))


def test_group_by_prompt():
    """The pairs of a prompt need not be neighbours, and what was judged twice stays twice."""
    short, long = group_by_prompt(PAIRS)
    assert (short.prompt, long.prompt) == (SHORT, LONG)
    answers = list(short.answers)
    assert sorted(answers) == sorted(ANSWERS[:3]) and list(long.answers) == ANSWERS[3:]
    found = [(answers[a], answers[b]) for a, b in short.pairs]
    assert found == [(p.chosen, p.rejected) for p in PAIRS if p.prompt.text == SHORT]
    assert short.weights == [1.0] * 4 and short.judged == 4
    assert long.texts == TEXTS[3:]


def test_batches_hold_each_group_once_and_like_lengths_together():
    groups = [Group("x" * n, {"y": 0}) for n in range(400)]
    found = batches(groups, seed=1)
    assert len(found) == 25 and {len(few) for few in found} == {16}
    assert sorted(len(group.prompt) for few in found for group in few) == list(range(400))
    spread = [max(len(g.prompt) for g in few) - min(len(g.prompt) for g in few) for few in found]
    assert max(spread) < 100
    assert batches(groups, seed=1) == found != batches(groups, seed=2)


# --- the heads


def test_standardise_by(model):
    groups = group_by_prompt(PAIRS)
    states = states_of(model, groups)
    standardise_by(model.heads, states, groups)
    table = torch.stack([states[text] for text in TEXTS])
    for head in model.heads:
        assert torch.allclose(head[0].mean, table.mean(0), atol=1e-6)
        assert torch.allclose(head[0].std, table.std(0) + 1e-3, atol=1e-6)


@pytest.mark.parametrize("ensemble", [1, 2])
def test_the_heads_learn_and_the_backbone_stays(ensemble):
    torch.manual_seed(1)
    backbone = load_model("tiny", auto_class=AutoModel)
    model = RewardModel(backbone, load_tokenizer("tiny"), ensemble=ensemble)
    before = {name: weight.clone() for name, weight in backbone.state_dict().items()}
    pairs = separable()
    groups = group_by_prompt(pairs)
    states = states_of(model, groups)
    untrained = batch_loss(groups, model.heads(stack_states(states, groups))).item()
    fit_heads(model.heads, states, groups, 60, seed=0, learning_rate=0.05)
    assert batch_loss(groups, model.heads(stack_states(states, groups))).item() < untrained / 3
    assert not model.heads.training
    right = (margins(model.raw, pairs) > 0).float().mean().item()
    assert right > 0.9
    assert accuracy_of_heads(model.heads, states, groups) == pytest.approx(right)
    turned = [make_pair(p.prompt.text, p.rejected, p.chosen) for p in pairs]
    assert torch.allclose(margins(model.raw, turned), -margins(model.raw, pairs), atol=1e-5)
    for name, weight in backbone.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_equal_rewards_are_half_right(model):
    groups = group_by_prompt(PAIRS)
    states = dict.fromkeys(TEXTS, torch.zeros(192))
    assert accuracy_of_heads(model.heads, states, groups) == 0.5


def test_heads_that_diverged_are_told_with_their_learning_rate():
    model, groups = make_model(ensemble=2), group_by_prompt(separable())
    states = states_of(model, groups)
    check_trained(model.heads, 0.69, 1e30)
    fit_heads(model.heads, states, groups, 2, seed=0, learning_rate=1e30)
    for heads, loss in ((model.heads, 0.69), (make_model().heads, math.nan)):
        with pytest.raises(RunError, match=r"diverged: .* head_learning_rate=1e\+30\. Nothing"):
            check_trained(heads, loss, 1e30)


def test_the_learning_rate_falls_to_zero(model):
    optimizer, schedule = training.make_optimizer(model.heads, 0.1, steps=4)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025])


def test_learning_curve_rises_and_touches_no_head_of_the_model(monkeypatch):
    monkeypatch.setattr(training, "SHARES", (0.25, 1.0))
    model, groups = make_model(dropout=0.0), group_by_prompt(separable())
    states = states_of(model, groups)
    before = [parameter.clone() for parameter in model.heads.parameters()]
    rows = learning_curve(model, states, groups[:4], groups[4:], 60, 0, learning_rate=0.05)
    assert [(row["prompts"], row["pairs"]) for row in rows] == [(1, 3), (4, 12), (4, 12)]
    assert rows[1]["accuracy"] > 0.8
    assert rows[2]["accuracy"] == accuracy_of_heads(model.heads, states, groups[4:])
    for now, then in zip(model.heads.parameters(), before):
        assert torch.equal(now, then)


def test_the_loop_in_the_notebook_is_fit_heads():
    """Reader and learning curve must see the same training: the cell is run, and compared."""
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    (loop,) = (cell for cell in cells if cell["id"] == "03-loop")
    groups = group_by_prompt(separable())
    trained, checked = [], []
    for fit in ("notebook", "module"):
        torch.manual_seed(0)
        model = RewardModel(load_model("tiny", auto_class=AutoModel), load_tokenizer("tiny"), 2)
        states = states_of(model, groups)
        if fit == "notebook":
            names = {
                "model": model,
                "states": states,
                "groups": groups,
                "training": training,
                "F": torch.nn.functional,
                "head_epochs": 3,
                "head_learning_rate": 0.01,
                "seed": 7,
                "losses": [],
                "check": checked.append,
            }
            exec("".join(loop["source"]), names)
        else:
            fit_heads(model.heads, states, groups, 3, 7, 0.01)
        trained.append(model.heads)
    assert checked == [1, 2, 3] and len(names["losses"]) == 3
    for ours, theirs in zip(trained[0].state_dict().values(), trained[1].state_dict().values()):
        assert torch.equal(ours, theirs)
    assert not trained[0].training


# --- all weights, by TRL


def test_fine_tune_saves_a_plain_classifier_that_reads_what_it_learned_from(tmp_path):
    told = []
    stage = SimpleNamespace(dir=tmp_path, progress=lambda *progress: told.append(progress))
    pairs, heldout = separable() * 8 + [make_pair(tie=True)], separable()[:6]
    right = fine_tune("tiny", pairs, heldout, stage, max_length=64, half=False, seed=0)
    folder = tmp_path / "classifier"
    assert told[0] == ("classifier", 10, 18)
    assert told[-1] == ("classifier", 18, 18), "144 pairs without the tie, 8 a step"
    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder, output_loading_info=True
    )
    assert not info["missing_keys"] and model.config.num_labels == 1
    start = load_model("tiny", auto_class=AutoModel).state_dict()
    moved = [
        not torch.equal(weight, start[name]) for name, weight in model.model.state_dict().items()
    ]
    assert all(moved), "all weights learn"
    reward = ClassifierReward(str(folder))
    assert right == (margins(reward, heldout) > 0).float().mean().item()
    assert reward.tokenizer.model_max_length == 64
    tokenizer = AutoTokenizer.from_pretrained(folder)
    (text,) = tokenizer.apply_chat_template(
        [[{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]],
        tokenize=False,
    )
    learned = classifier._token_ids(tokenizer, [make_pair()])[0]["chosen_ids"]
    assert learned == tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logit = model(torch.tensor([learned])).logits.item()
    assert reward(["Hi?"], ["Hello."]) == pytest.approx([logit], abs=1e-5)
    assert (folder / "config.json").is_file() and not list(folder.glob("checkpoint*"))


def test_a_text_that_is_too_long_for_the_classifier_is_cut_not_dropped():
    tokenizer = load_tokenizer("tiny")
    tokenizer.model_max_length = 16
    rows = classifier._token_ids(tokenizer, [make_pair("Hi? " * 50)])
    assert len(rows) == 1 and len(rows[0]["chosen_ids"]) == 16
    assert "Hello." in tokenizer.decode(rows[0]["chosen_ids"])


def test_a_classifier_that_diverged_is_not_saved(tmp_path, monkeypatch):
    import trl

    def diverge(trainer):
        with torch.no_grad():
            next(trainer.model.parameters())[0] = torch.nan

    monkeypatch.setattr(trl.RewardTrainer, "train", diverge)
    stage = SimpleNamespace(dir=tmp_path, progress=lambda *_: None)
    pairs, options = [make_pair()] * 4, {"max_length": 64, "half": False, "seed": 0}
    with pytest.raises(ModelError, match="classifier's training diverged"):
        classifier.fine_tune("tiny", pairs, pairs, stage, **options)
    assert not (tmp_path / "classifier/config.json").exists()


def test_03_saves_the_model_before_it_makes_the_report():
    """A report that fails then costs no training."""
    cells = ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"]]
    (saved,) = (n for n, cell in enumerate(cells) if "model.save(stage.dir)" in cell)
    (report,) = (n for n, cell in enumerate(cells) if "report_card.full_report(" in cell)
    assert saved < report
