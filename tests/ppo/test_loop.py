"""PPO as a whole, on the built-in `tiny` model: it learns, it can be repeated and resumed bit for bit, and it stops when numbers break."""

import copy
import dataclasses
from types import SimpleNamespace

import pytest
import torch

from rlhf_utils.data.rows import Endless, load_rows
from rlhf_utils.errors import PPOError
from rlhf_utils.fast.trunk import Trunk
from rlhf_utils.models import adapters
from rlhf_utils.models.load import load_model, load_tokenizer
from rlhf_utils.models.sampling import score_tokens
from rlhf_utils.ppo import loop
from rlhf_utils.ppo.config import PPOConfig
from rlhf_utils.ppo.policy import Policy, make_policy

ROWS = load_rows("builtin", "prompts")
CONFIG = PPOConfig(
    total_episodes=16 * 6,
    batch_size=16,
    num_mini_batches=2,
    per_device_train_batch_size=8,
    num_ppo_epochs=2,
    response_length=10,
    temperature=0.9,
    learning_rate=5e-3,
    kl_target=2.0,
)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(
        1
    )  # the same order of every sum, so that runs can be compared bit for bit


def changed(**values):
    return PPOConfig(**{**vars(CONFIG), **values})


def letter_e(prompts, completions, **columns):
    """The share of letters e, with a mean near 0 and a standard deviation near 1 before training."""
    return [(text.count("e") / max(len(text), 1) - 0.1) / 0.06 for text in completions]


def adam(policy, learning_rate):
    return torch.optim.Adam(policy.trainable().values(), lr=learning_rate, eps=1e-5, fused=True)


def fresh_run(seed=0, config=CONFIG, dropout=0.0):
    """All that the loop of 04_ppo holds.

    The random head of `tiny` is so flat that no hidden state makes a token much likelier, and it hardly ever ends an answer: its
    weights are scaled up here and the end gets a bias.
    """
    tokenizer, model = load_tokenizer("tiny"), load_model("tiny")
    bias = torch.zeros(len(tokenizer))
    bias[tokenizer.eos_token_id], bias[tokenizer.pad_token_id] = 6.0, -100.0
    model.lm_head.weight, model.lm_head.bias = (
        torch.nn.Parameter(8 * model.lm_head.weight.detach()),
        torch.nn.Parameter(bias),
    )
    torch.manual_seed(seed)
    policy = Policy(adapters.add_lora(model, r=8, num_trainable_layers=1, dropout=dropout))
    return SimpleNamespace(
        policy=policy,
        tokenizer=tokenizer,
        optimizer=adam(policy, config.learning_rate),
        generator=torch.Generator().manual_seed(seed),
        controller=loop.KLController(config.kl_coef, config.kl_target, horizon=100),
        order=Endless(ROWS, seed),
    )


def collect(run, config=CONFIG, index=0, reward=letter_e):
    batch = run.order.batch(index * config.batch_size, config.batch_size)
    return loop.collect(
        run.policy, run.tokenizer, batch, reward, config, run.controller.value, run.generator
    )


def train(run, config=CONFIG, start=0, stop=None, reward=letter_e):
    """The loop of 04_ppo; returns the metrics of each update."""
    log = []
    for index in range(start, config.num_updates if stop is None else stop):
        run.optimizer.param_groups[0]["lr"] = loop.learning_rate_at(config, index)
        rollout = collect(run, config, index, reward)
        metrics = loop.rollout_metrics(rollout, config, run.controller.value) | loop.update(
            run.policy, run.optimizer, rollout, config, run.generator
        )
        run.controller.update(metrics["objective/kl"], config.batch_size)
        log.append(metrics)
    return log


def weights(run):
    return {name: p.detach().clone() for name, p in run.policy.named_parameters()}


def mean(log, name):
    return sum(row[name] for row in log) / len(log)


# --- Learning ---

LEARNING = changed(
    batch_size=64,
    total_episodes=64 * 20,
    per_device_train_batch_size=32,
    num_ppo_epochs=4,
    response_length=12,
    temperature=1.0,
    learning_rate=1e-2,
    kl_target=0.0,
    missing_eos_penalty=0.0,
)


def test_ppo_learns_a_simple_reward():
    log = train(fresh_run(config=LEARNING), LEARNING)
    gain = mean(log[-3:], "objective/scores") - mean(log[:3], "objective/scores")
    assert gain > 1.0, "in standard deviations of the reward before training"
    assert max(row["objective/kl_full"] for row in log) < 20.0, "nats a response"
    assert log[0]["objective/kl_full"] == 0.0 and log[-1]["objective/kl_full"] > 1.0


def test_the_kl_penalty_alone_brings_a_policy_back_to_the_reference():
    config = changed(**{**vars(LEARNING), "total_episodes": 64 * 8})
    run = fresh_run(config=config)
    run.controller.value = 0.0
    away = train(run, config, stop=4)[-1]["objective/kl_full"]
    run.controller.value = 1.0
    back = train(
        run, config, start=4, reward=lambda completions, **columns: [0.0] * len(completions)
    )
    assert away > 1.0
    assert back[-1]["objective/kl_full"] < 0.6 * back[0]["objective/kl_full"], (
        "with the wrong sign it would run further off"
    )


# --- One update ---


def test_the_ratio_is_1_before_the_first_step():
    run = fresh_run()
    log = train(run)  # so that the adapters, which start as nothing, do something
    assert log[-1]["objective/kl_full"] > 0.1
    assert [row["val/ratio_first"] for row in log] == pytest.approx([1.0] * len(log), abs=1e-6)
    rollout = collect(run)
    with torch.no_grad():
        logprobs, values, entropy = loop.evaluate_tokens(
            run.policy, rollout, torch.arange(16), CONFIG.temperature
        )
    for found, stored, error in (
        (logprobs, rollout.logprobs, 2e-6),
        (values, rollout.values, 2e-6),
        (entropy, rollout.entropy, 1e-5),
    ):
        torch.testing.assert_close(found, stored[rollout.mask], atol=error, rtol=0)
    torch.testing.assert_close(
        (logprobs - rollout.logprobs[rollout.mask]).exp(),
        torch.ones_like(logprobs),
        atol=1e-6,
        rtol=0,
    )


def test_a_rollout_is_0_on_padding_and_ends_with_the_score():
    rollout = collect(
        fresh_run(),
        changed(response_length=40),
        reward=lambda completions, **columns: [3.0] * len(completions),
    )
    lengths = rollout.mask.sum(1)
    assert lengths.unique().numel() > 2 and 0 < rollout.samples.ended.sum() < 16
    for name in (
        "logprobs",
        "ref_logprobs",
        "values",
        "entropy",
        "kl_full",
        "rewards",
        "advantages",
        "returns",
    ):
        field = getattr(rollout, name)
        assert (
            field.shape == rollout.mask.shape
            and field.dtype == torch.float32
            and not field[~rollout.mask].any()
        ), name
    assert not rollout.values.any(), "the value head starts at 0"
    for row in range(
        16
    ):  # fresh adapters: no KL yet, so the score is the only reward; the penalty is 1
        expected = [0.0] * (lengths[row] - 1) + [3.0 if rollout.samples.ended[row] else 2.0]
        assert rollout.rewards[row, : lengths[row]].tolist() == expected


def test_the_reward_function_gets_the_columns_of_its_rows():
    seen = {}

    def reward(prompts, completions, **columns):
        seen.update(columns, prompts=prompts, completions=completions)
        return [0.0] * len(prompts)

    rollout = collect(fresh_run(), reward=reward)
    rows = Endless(ROWS, 0).batch(0, 16)
    assert (
        seen["prompts"] == [row["prompt"] for row in rows]
        and seen["completions"] == rollout.samples.responses
    )
    assert seen["category"] == [row["category"] for row in rows]


def test_gradient_accumulation_changes_nothing():
    results = []
    for size in (4, 16):
        config = changed(num_mini_batches=1, per_device_train_batch_size=size, response_length=40)
        run = fresh_run(config=config)
        run.optimizer = torch.optim.SGD(
            run.policy.trainable().values(), lr=0.1
        )  # Adam would blow rounding up to whole steps where gradients are near 0
        before = weights(run)
        rollout = collect(run, config)
        assert rollout.mask.sum(1).unique().numel() > 2, "parts with different numbers of tokens"
        metrics = loop.update(run.policy, run.optimizer, rollout, config, run.generator)
        results.append((weights(run), metrics))
        assert (
            max(float((new - before[name]).abs().max()) for name, new in weights(run).items())
            > 1e-3
        ), "something was learned"
    (few, few_metrics), (many, many_metrics) = results
    for name in few:
        torch.testing.assert_close(few[name], many[name], atol=1e-6, rtol=0, msg=name)
    assert few_metrics == pytest.approx(many_metrics, rel=1e-5, abs=1e-5)


def test_an_update_changes_adapters_and_value_head_only():
    run = fresh_run(dropout=0.5)
    assert not any(module.training for module in run.policy.modules()), (
        "dropout is off in every role"
    )
    before, rollout = weights(run), collect(run)
    metrics = loop.update(run.policy, run.optimizer, rollout, CONFIG, run.generator)
    assert metrics["val/ratio_first"] == pytest.approx(1.0, abs=1e-6), (
        "with dropout it would not be 1"
    )
    assert not any(module.training for module in run.policy.modules())
    for name, new in weights(run).items():
        learns = "lora_" in name and ".layers.1." in name or name.startswith("value_head")
        assert (name in run.policy.trainable()) == learns, name
        assert torch.equal(new, before[name]) != learns, name
    samples, mask = rollout.samples, rollout.samples.predicting
    states = Trunk(run.policy.model).lower(
        samples.input_ids[:, :-1], samples.attention_mask[:, :-1]
    )
    torch.testing.assert_close(
        states[mask],
        samples.trunk[mask],
        atol=1e-5,
        rtol=0,
        msg="what the frozen blocks make of a text stays",
    )
    again = score_tokens(run.policy.model, samples, CONFIG.temperature, run.policy.reference)
    assert torch.equal(again["ref_logprobs"], rollout.ref_logprobs)
    assert not torch.equal(again["logprobs"], rollout.logprobs)


@pytest.mark.parametrize(
    "target_kl, ratio_threshold, steps, stopped",
    [(0.0, 1e9, 8, 0.0), (1e-9, 1e9, 2, 1.0), (0.0, 0.5, 1, 1.0), (0.0, 0.0, 8, 0.0)],
)
def test_an_update_stops_early(target_kl, ratio_threshold, steps, stopped):
    """Two minibatches, four epochs: a high KL leaves out the remaining passes, a high ratio all remaining steps."""
    config = changed(num_ppo_epochs=4, target_kl=target_kl, ratio_threshold=ratio_threshold)
    run, taken = fresh_run(config=config), []
    run.optimizer.register_step_post_hook(lambda *_: taken.append(1))
    metrics = loop.update(run.policy, run.optimizer, collect(run, config), config, run.generator)
    assert (len(taken), metrics["val/early_stop"]) == (steps, stopped)


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        (3 * [0.0] + [float("nan")] + 12 * [0.0], "nan for answer 4"),
        (torch.full((16,), float("inf")), "inf for answer 1"),
        (15 * [0.0] + [None], "None for answer 16"),
        (15 * [0.0], "15 of them"),
        (16 * [[0.0]], r"\[0.0\] for answer 1"),
    ],
)
def test_a_reward_that_is_no_finite_number_for_each_answer_stops_the_run(scores, told):
    with pytest.raises(
        PPOError, match=f"one finite number for each of 16 answers, but gave {told}"
    ):
        collect(fresh_run(), reward=lambda completions, **columns: scores)


def test_scores_are_clipped_before_the_penalty():
    config = changed(score_clip=0.5, missing_eos_penalty=2.0)
    rollout = collect(
        fresh_run(config=config),
        config,
        reward=lambda completions, **columns: [float(i - 8) for i in range(16)],
    )
    expected = torch.tensor([max(-0.5, min(0.5, i - 8.0)) for i in range(16)]) - 2.0 * (
        ~rollout.samples.ended
    )
    assert torch.equal(rollout.scores, expected)


def test_a_policy_that_has_run_away_stops_the_run():
    run = fresh_run()
    train(run, stop=1)
    rollout = collect(run)
    with pytest.raises(
        PPOError, match=r"objective/kl_full is [0-9.e-]+ nats a response, above max_kl=1e-09"
    ):
        loop.update(run.policy, run.optimizer, rollout, changed(max_kl=1e-9), run.generator)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_changes_nothing(broken):
    run = fresh_run()
    train(run, stop=1)
    before, optimizer = weights(run), copy.deepcopy(run.optimizer.state_dict())
    rollout = collect(run)
    rollout.advantages[0, 0] = broken
    with pytest.raises(PPOError, match="loss/policy_avg.*is not finite"):
        loop.update(run.policy, run.optimizer, rollout, CONFIG, run.generator)
    assert all(torch.equal(new, before[name]) for name, new in weights(run).items())
    for index, moments in run.optimizer.state_dict()["state"].items():
        assert all(
            torch.equal(value, optimizer["state"][index][name]) for name, value in moments.items()
        )
    train(run, stop=1)  # no broken gradient is left behind


def test_gradients_that_an_interrupted_step_left_are_forgotten():
    learned = []
    for left in (None, 1.0):
        run = fresh_run()
        for p in run.policy.trainable().values():
            p.grad = None if left is None else torch.full_like(p, left)
        loop.update(run.policy, run.optimizer, collect(run), CONFIG, run.generator)
        learned.append(weights(run))
    assert all(torch.equal(learned[0][name], learned[1][name]) for name in learned[0])


# --- Whole top blocks in place of adapters ---


def whole_blocks(layers, seed=0):
    """A run whose top blocks learn whole."""
    run = fresh_run(seed)
    run.policy = Policy(adapters.unfreeze_top(load_model("tiny"), layers))
    run.optimizer = adam(run.policy, 1e-3)
    return run


@pytest.mark.parametrize("layers", [1, 2])
def test_whole_blocks_learn_and_the_reference_is_the_model_before(layers):
    run, original = whole_blocks(layers), load_model("tiny")
    before = weights(run)
    first, _ = train(run, stop=2)
    assert first["objective/kl_full"] == 0.0 and first["val/ratio_first"] == pytest.approx(
        1.0, abs=1e-6
    )
    for name, new in weights(run).items():
        block = int(name.split("layers.")[1].split(".")[0]) if "layers." in name else None
        learns = (
            name.startswith("value_head")
            or "norm.weight" in name
            and block is None
            or block is not None
            and block >= 2 - layers
        )
        assert (name in run.policy.trainable()) == learns, name
        assert torch.equal(new, before[name]) != learns, name
    samples = collect(run).samples
    found = score_tokens(run.policy.model, samples, CONFIG.temperature, run.policy.reference)
    plain = score_tokens(original, samples_of(original, samples), CONFIG.temperature)
    torch.testing.assert_close(found["ref_logprobs"], plain["logprobs"], atol=1e-5, rtol=0)
    assert found["kl"].max() > 0


def samples_of(model, samples):
    """The same samples with the trunk states that `model` makes of them."""
    trunk = Trunk(model)
    return dataclasses.replace(
        samples,
        trunk=trunk.lower(samples.input_ids[:, :-1], samples.attention_mask[:, :-1]),
        cut=trunk.cut,
    )


def test_a_head_that_would_learn_is_refused():
    with pytest.raises(ValueError, match="head must stay frozen"):
        Policy(load_model("tiny"))


def test_float32_tops_on_a_bfloat16_trunk():
    """The states come from bfloat16 blocks; those above multiply in bfloat16, but their weights, sums and the last states are float32."""
    run = fresh_run()
    model = load_model("tiny", torch.bfloat16)
    run.policy = make_policy(model, lora_r=0, num_trainable_layers=1)
    assert {p.dtype for p in run.policy.trainable().values()} == {torch.float32}
    products, ends = [], []
    model.model.layers[1].mlp.up_proj.register_forward_hook(
        lambda module, given, out: matmul.append((module.weight.dtype, out.dtype))
    )
    model.model.norm.register_forward_hook(
        lambda module, given, out: ends.append((given[0].dtype, out.dtype))
    )
    rollout = collect(run)
    assert rollout.samples.trunk.dtype == torch.bfloat16
    assert set(products) == {(torch.float32, torch.bfloat16)} and set(ends) == {
        (torch.float32, torch.float32)
    }
    torch.testing.assert_close(rollout.samples.logprobs, rollout.logprobs, atol=5e-3, rtol=0)
    run.optimizer = torch.optim.Adam(run.policy.trainable().values(), lr=1e-3)
    assert loop.update(run.policy, run.optimizer, rollout, CONFIG, run.generator)[
        "val/ratio_first"
    ] == pytest.approx(1.0, abs=1e-6)


# --- Repeating ---


def test_the_same_seed_gives_identical_metrics():
    first, again, other = (train(fresh_run(seed), stop=3) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_looking_changes_no_training():
    plain, looking = fresh_run(), fresh_run()
    looks = loop.look(looking.policy, looking.tokenizer, ROWS[:3], letter_e, CONFIG, seed=7)
    assert [look["prompt"] for look in looks] == [row["prompt"] for row in ROWS[:3]]
    assert train(plain, stop=2) == train(looking, stop=2)
