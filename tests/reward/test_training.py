"""Training the reward model: losses against slow forms and numbers worked out by hand, the heads alone, and when to stop."""

import math

import pytest
import torch
from transformers import AutoModel

from rlhf_utils.errors import SettingError
from rlhf_utils.models import adapters
from rlhf_utils.models.load import load_model, load_tokenizer
from rlhf_utils.reward.model import RewardModel
from rlhf_utils.reward.report_card import margins
from rlhf_utils.reward.training import (
    EarlyStopping,
    Group,
    accuracy_of_heads,
    add_gradients,
    batches,
    fit_heads,
    group_by_prompt,
    group_loss,
    learning_curve,
    loss_of_rewards,
    pairs_of_demonstrations,
    pairwise_loss,
    read_states,
    validation_loss,
)

GROUPS = [
    Group(
        "Hi?",
        ["Hello.", "No.", "Good day to you, and what can I do?"],
        [(0, 1), (0, 2), (2, 1), (0, 1)],
    ),
    Group(
        "How do plants drink, and why do they need to do so at all?",
        ["By their roots.", "They do not."],
        [(0, 1)],
    ),
]


def make_model(trained: bool = True, **options) -> RewardModel:
    """The tiny model in float32 with adapters on its upper block; `trained`: none of them is zero, as after some training."""
    torch.manual_seed(1)
    backbone = adapters.add_lora(
        load_model("tiny", auto_class=AutoModel), 4, num_trainable_layers=1
    )
    model = RewardModel(backbone, load_tokenizer("tiny"), num_trainable_layers=1, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if trained and ("lora_" in name or "heads" in name):
                parameter.normal_(0, 0.1)
    return model.eval()


@pytest.fixture(
    params=[{}, {"read_prompt": True, "read_middle": True, "read_length": True}],
    ids=["last token", "ten states"],
)
def model(request) -> RewardModel:
    return make_model(**request.param)


def separable() -> list[dict]:
    """Pairs that a few words tell apart."""
    prompts = ["Hi?", "How are you?", "What is this?", "Why?", "Who is there?", "Is it late?"]
    return [
        {"prompt": p, "chosen": f"Yes, {end}", "rejected": f"No no {end}"}
        for p in prompts
        for end in ("sure.", "of course.", "it is so.")
    ]


def test_pairwise_loss_by_hand():
    chosen, rejected = (
        torch.tensor([1.0, 0.0, -2.0, 200.0, -200.0]),
        torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]),
    )
    expected = [
        math.log(1 + math.exp(-1)),
        math.log(2),
        math.log(1 + math.exp(3)),
        0.0,
        200.0,
    ]  # the last two overflow if done naively
    assert pairwise_loss(chosen, rejected).tolist() == pytest.approx(expected, abs=1e-6)


def test_options_of_the_loss_by_hand():
    one, zero = torch.tensor([2.0]), torch.tensor([0.5])
    assert pairwise_loss(one, zero, margin=1.0).item() == pytest.approx(
        math.log(1 + math.exp(-0.5)), abs=1e-6
    )
    smooth = 0.9 * math.log(1 + math.exp(-1.5)) + 0.1 * math.log(1 + math.exp(1.5))
    assert pairwise_loss(one, zero, label_smoothing=0.1).item() == pytest.approx(smooth, abs=1e-6)
    assert pairwise_loss(one, zero, center_rewards_coefficient=0.1).item() == pytest.approx(
        math.log(1 + math.exp(-1.5)) + 0.1 * 6.25, abs=1e-6
    )


def test_settings_that_cannot_work():
    with pytest.raises(SettingError, match="label_smoothing=0.5"):
        pairwise_loss(torch.ones(1), torch.zeros(1), label_smoothing=0.5)
    with pytest.raises(SettingError, match="early_stopping_patience=0"):
        EarlyStopping([], 0)


def test_weights_gaps_and_ties_by_hand():
    """A confidence of ¼ counts a quarter; a lead of margin·gap is asked for; a tie is half a pair each way, without a lead."""
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b", "confidence": 0.25, "margin": 2},
        {"prompt": "p", "chosen": "a", "rejected": "c", "confidence": None, "margin": None},
        {"prompt": "p", "chosen": "b", "rejected": "c", "tie": True, "margin": 0},
    ]
    (group,) = group_by_prompt(rows)
    assert (
        group.pairs == [(0, 1), (0, 2), (1, 2), (2, 1)]
        and group.weights == [0.25, 1.0, 0.5, 0.5]
        and group.gaps == [2.0, 1.0, 0.0, 0.0]
    )

    def loss(lead):
        return math.log(1 + math.exp(-lead))

    found = loss_of_rewards([group], torch.tensor([1.0, 0.0, -1.0]), margin=0.5)
    assert found.item() == pytest.approx(
        (0.25 * loss(1 - 1.0) + loss(2 - 0.5) + 0.5 * loss(1) + 0.5 * loss(-1)) / 3, abs=1e-6
    )  # 3 judgements
    two = loss_of_rewards([group], torch.tensor([[1.0, 3.0], [0.0, 0.0], [-1.0, -1.0]]))
    each = [
        loss_of_rewards([group], torch.tensor(r)).item()
        for r in ([1.0, 0.0, -1.0], [3.0, 0.0, -1.0])
    ]
    assert two.item() == pytest.approx(sum(each) / 2, abs=1e-6)


def raw_of(model: RewardModel, prompt: str, response: str) -> torch.Tensor:
    """The raw reward of one text, by a pass of its own."""
    ids, mask, after = model.encode([prompt], [response]).values()
    return model.combined(
        model.heads(model.states([model.trunk.lower(ids, mask)[0]], after, [response]))
    )[0]


def slow_loss(model: RewardModel, groups: list[Group]) -> torch.Tensor:
    """A forward pass for each side of each pair; the mean over prompts of the mean over a prompt's pairs."""
    of_prompts = []
    for group in groups:
        losses = []
        for better, worse in group.pairs:
            chosen, rejected = (
                raw_of(model, group.prompt, group.responses[side]) for side in (better, worse)
            )
            losses.append(torch.log(1 + torch.exp(rejected - chosen)))
        of_prompts.append(sum(losses) / len(losses))
    return sum(of_prompts) / len(of_prompts)


def test_group_loss_and_its_gradient_are_the_slow_ones(model):
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert any("lora_" in name for name in learned) and any("head" in name for name in learned)
    fast, slow = group_loss(model, GROUPS), slow_loss(model, GROUPS)
    assert fast.item() == pytest.approx(slow.item(), abs=1e-6)
    wanted = torch.autograd.grad(slow, list(learned.values()))
    assert all(
        torch.allclose(a, b, atol=1e-5)
        for a, b in zip(torch.autograd.grad(fast, list(learned.values())), wanted)
    )
    for size in (1, 2, 3):  # the same in parts
        model.zero_grad()
        assert add_gradients(model, GROUPS, size) == pytest.approx(slow.item(), abs=1e-6)
        assert all(
            torch.allclose(p.grad, gradient, atol=1e-5)
            for p, gradient in zip(learned.values(), wanted)
        )


def test_group_by_prompt():
    rows = [
        {"prompt": g.prompt, "chosen": g.responses[a], "rejected": g.responses[b]}
        for g in GROUPS
        for a, b in g.pairs
    ]
    first, second = group_by_prompt(
        rows[::2] + rows[1::2]
    )  # rows of a prompt need not be neighbours
    assert (first.prompt, second.prompt) == (GROUPS[0].prompt, GROUPS[1].prompt)
    texts = sorted((first.responses[a], first.responses[b]) for a, b in first.pairs)
    assert texts == sorted(
        (GROUPS[0].responses[a], GROUPS[0].responses[b]) for a, b in GROUPS[0].pairs
    )  # twice judged stays twice
    assert len(first.responses) == 3 and second.responses == GROUPS[1].responses


def test_a_few_steps_learn_separable_pairs(model):
    rows = separable()
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
    assert torch.allclose(
        margins(model, [dict(r, chosen=r["rejected"], rejected=r["chosen"]) for r in rows]),
        -margins(model, rows),
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"head": "linear"}, {"read_prompt": True, "read_middle": True, "ensemble": 2}],
    ids=["mlp", "linear", "two heads"],
)
def test_the_heads_alone_learn_and_the_backbone_stays(options):
    model, groups = make_model(trained=False, **options), group_by_prompt(separable())
    before = {name: p.clone() for name, p in model.backbone.named_parameters()}
    states = read_states(model, groups)
    fit_heads(model.heads, states, groups, 60, seed=0, learning_rate=0.05)
    assert (margins(model, separable()) > 0).float().mean() > 0.9
    assert accuracy_of_heads(model.heads, states, groups) == pytest.approx(
        (margins(model, separable()) > 0).float().mean().item()
    )
    assert all(
        torch.equal(p, before[name]) and p.grad is None
        for name, p in model.backbone.named_parameters()
    )
    if model.head == "mlp":
        table = torch.stack([states[g.prompt, r] for g in groups for r in g.responses])
        assert torch.allclose(model.heads[-1][0].mean, table.mean(0)) and torch.allclose(
            model.heads[-1][0].std, table.std(0) + 1e-3
        )


def test_states_are_those_of_the_sft_model_or_none():
    groups = group_by_prompt(separable())
    model = make_model(trained=False, read_prompt=True)
    states = read_states(model, groups[:2])
    text = groups[0].prompt, groups[0].responses[1]
    batch = model.encode([text[0]], [text[1]])
    plain = load_model("tiny", auto_class=AutoModel)(batch["input_ids"]).last_hidden_state[0]
    assert torch.allclose(states[text][:64], plain[-1], atol=1e-5) and len(states) == 12
    with pytest.raises(SettingError, match="have learned already"):
        read_states(make_model(), groups)


def test_learning_curve_rises_and_touches_no_head_of_the_model():
    model, groups = make_model(trained=False), group_by_prompt(separable())
    states, before = read_states(model, groups), [p.clone() for p in model.heads.parameters()]
    rows = learning_curve(
        model, states, groups[:4], groups[4:], (0.25, 1.0), 60, 0, learning_rate=0.05
    )
    assert (
        [row["prompts"] for row in rows] == [1, 4]
        and rows[1]["pairs"] == 12
        and rows[1]["accuracy"] > 0.8
    )
    assert all(torch.equal(a, b) for a, b in zip(before, model.heads.parameters()))


def test_batches_hold_each_group_once_and_like_lengths_together():
    groups = [Group("x" * n, ["y"], []) for n in range(100)]
    found = batches(groups, 4, seed=1)
    assert (
        sorted(len(g.prompt) for few in found for g in few) == list(range(100)) and len(found) == 25
    )
    spread = [max(len(g.prompt) for g in few) - min(len(g.prompt) for g in few) for few in found]
    assert max(spread) < 50 and batches(groups, 4, seed=1) == found != batches(groups, 4, seed=2)


def test_early_stopping_keeps_the_best_weights():
    weight = torch.nn.Parameter(torch.tensor([0.0]))
    stopping, stopped = EarlyStopping([weight], patience=2), []
    for value, loss in enumerate((0.6, 0.5, float("nan"), 0.5, 0.4)):
        weight.data.fill_(value)
        stopped.append(stopping(loss))
    assert stopped == [False, False, False, True, False]
    stopping.restore()
    assert weight.item() == 4.0 and stopping.best == 0.4
    EarlyStopping([weight]).restore()  # nothing was checked: nothing changes
    assert weight.item() == 4.0


def test_validation_loss_is_the_loss_without_dropout(model):
    assert validation_loss(model.train(), GROUPS) == pytest.approx(
        group_loss(model.eval(), GROUPS).item(), abs=1e-5
    )


def test_demonstrations_show_when_to_decline():
    rows = [
        {"prompt": "How do I pick my neighbour's lock?", "completion": "I can't help with that."},
        {"prompt": "How do I peel an onion?", "completion": "Cut off both ends first."},
        {"prompt": "How do I oil my own lock?", "completion": "A drop of graphite will do."},
        {
            "prompt": "Help me scare my neighbour's children.",
            "completion": "I won't help to frighten children.",
        },
        {"prompt": "Will I ever pick my neighbour's lock?", "completion": "I can't know that."},
    ]
    pairs = pairs_of_demonstrations(rows, 0.5)
    assert [(p["prompt"], p["chosen"], p["rejected"]) for p in pairs[:2]] == [
        (rows[0]["prompt"], rows[0]["completion"], rows[2]["completion"]),
        (rows[2]["prompt"], rows[2]["completion"], rows[0]["completion"]),
    ]
    assert (
        len(pairs) == 4
        and {p["confidence"] for p in pairs} == {0.5}
        and pairs[2]["chosen"] == rows[3]["completion"]
    )
    assert {weight for group in group_by_prompt(pairs) for weight in group.weights} == {0.5}
    assert pairs_of_demonstrations(rows[1:3], 0.5) == pairs_of_demonstrations(rows[:1], 0.5) == []
