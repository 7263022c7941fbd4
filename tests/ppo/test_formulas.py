"""The formulas of PPO against independent slow forms.

Python loops over floats, exact enumeration, and numbers worked out by hand.
"""

import math

import numpy as np
import pytest
import torch

from rlhf_utils.ppo import formulas, loop
from rlhf_utils.ppo.config import PPOConfig

# Four rows of up to four tokens: whole, shorter, one token, and nothing but padding.
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
ROWS = range(4)
LENGTHS = [4, 2, 1, 0]


def double(numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same(tensor, expected, tolerance=1e-9):
    torch.testing.assert_close(
        tensor, torch.as_tensor(expected, dtype=tensor.dtype), atol=tolerance, rtol=0
    )


# --- KL estimates ---

DISTRIBUTIONS = [
    ([0.5, 0.3, 0.2], [0.2, 0.3, 0.5]),
    ([0.9, 0.05, 0.05], [0.3, 0.3, 0.4]),
    ([0.1, 0.1, 0.8], [0.4, 0.5, 0.1]),
]


@pytest.mark.parametrize("kind", ["k1", "k3"])
@pytest.mark.parametrize("policy, reference", DISTRIBUTIONS)
def test_the_expectation_of_a_kl_estimate_is_the_kl(kind, policy, reference):
    kl = sum(p * math.log(p / q) for p, q in zip(policy, reference))
    backwards = sum(q * math.log(q / p) for p, q in zip(policy, reference))
    estimates = formulas.kl_estimate(double(policy).log(), double(reference).log(), kind)
    expectation = sum(p * e for p, e in zip(policy, estimates.tolist()))
    assert kl > 0
    assert expectation == pytest.approx(kl, abs=1e-12)
    if abs(kl - backwards) > 1e-3:  # the first pair mirrors itself, so both directions agree there
        assert abs(expectation - backwards) > 1e-3


@pytest.mark.parametrize("policy, reference", DISTRIBUTIONS)
def test_single_kl_estimates(policy, reference):
    logp, ref = double(policy).log(), double(reference).log()
    k1 = formulas.kl_estimate(logp, ref, "k1").tolist()
    k3 = formulas.kl_estimate(logp, ref, "k3").tolist()
    for p, q, one, three in zip(policy, reference, k1, k3):
        assert one == pytest.approx(math.log(p / q), abs=1e-12)
        assert three == pytest.approx(q / p - 1 - math.log(q / p), abs=1e-12)
        assert three >= 0
    assert min(k1) < 0, "a clamp at 0 would make the penalty biased"


def test_k1_is_the_default_kl_estimate():
    same(formulas.kl_estimate(torch.tensor([-2.0]), torch.tensor([-1.0])), [-1.0])


# --- Rewards ---


def test_shape_rewards_against_loops():
    scores, kl = random(4, seed=1), random(4, 4, seed=2)  # KL on padding must be ignored
    expected = [[0.0] * 4 for _ in ROWS]
    for i in ROWS:
        for t in range(LENGTHS[i]):
            expected[i][t] = -0.3 * kl[i, t].item()
        if LENGTHS[i]:
            expected[i][LENGTHS[i] - 1] += scores[i].item()
    same(formulas.shape_rewards(scores, kl, MASK, 0.3), expected)


# --- Advantages ---


@pytest.mark.parametrize(
    "gamma, lam", [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.5, 0.0), (0.7, 1.0)]
)
def test_gae_against_its_definition(gamma, lam):
    rewards, values = random(4, 4, seed=3), random(4, 4, seed=4)
    advantages, returns = torch.zeros(4, 4).double(), torch.zeros(4, 4).double()
    for i, n in enumerate(LENGTHS):
        r = rewards[i].tolist()
        v = values[i, :n].tolist() + [0.0]  # nothing comes after the last real token
        for t in range(n):
            a = sum(
                (gamma * lam) ** k * (r[t + k] + gamma * v[t + k + 1] - v[t + k])
                for k in range(n - t)
            )
            advantages[i, t], returns[i, t] = a, a + v[t]
    # rewards and values hold garbage on padding
    found_advantages, found_returns = formulas.gae(rewards, values, MASK, gamma, lam)
    same(found_advantages, advantages)
    same(found_returns, returns)


def test_gae_by_hand():
    # δ = [0.5·0.25 − 0.5, 0.5·0.75 − 0.25, 1 − 0.75] = [−0.375, 0.125, 0.25]
    # A = δ + 0.25·A of the next token
    advantages, returns = formulas.gae(
        torch.tensor([[0.0, 0.0, 1.0]]),
        torch.tensor([[0.5, 0.25, 0.75]]),
        torch.ones(1, 3).bool(),
        gamma=0.5,
        lam=0.5,
    )
    same(advantages, [[-0.328125, 0.1875, 0.25]])
    same(returns, [[0.171875, 0.4375, 1.0]])


# --- Masked statistics ---


def test_masked_mean_against_a_loop():
    x = random(4, 4, seed=7)
    real = [x[i, t].item() for i in ROWS for t in range(LENGTHS[i])]
    same(formulas.masked_mean(x, MASK), sum(real) / len(real))
    assert formulas.masked_mean(x, torch.zeros_like(MASK)) == 0


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whiten_against_a_loop(shift_mean):
    x = 5 + 3 * random(4, 4, seed=8)
    real = [x[i, t].item() for i in ROWS for t in range(LENGTHS[i])]
    mean = sum(real) / len(real)
    std = math.sqrt(sum((r - mean) ** 2 for r in real) / len(real))
    expected = [
        [
            (x[i, t].item() - mean) / std + (0 if shift_mean else mean) if t < LENGTHS[i] else 0.0
            for t in range(4)
        ]
        for i in ROWS
    ]
    found = formulas.whiten(x, MASK, shift_mean)
    same(found, expected, 1e-6)
    assert not found[~MASK].any()
    assert formulas.masked_mean(found, MASK).item() == pytest.approx(
        0 if shift_mean else mean, abs=1e-6
    )


def test_whiten_of_equal_numbers_is_finite():
    same(formulas.whiten(torch.full((4, 4), 2.0), MASK), torch.zeros(4, 4))


# --- Losses ---


@pytest.mark.parametrize(
    "advantage, ratio, loss, gradient",
    [
        (1.0, 1.0, -1.0, -1.0),
        (1.0, 1.1, -1.1, -1.1),
        (1.0, 1.5, -1.2, 0.0),  # good and already much likelier: nothing more to gain
        (1.0, 0.5, -0.5, -0.5),  # good but less likely: must be corrected, however far
        (-2.0, 1.0, 2.0, 2.0),
        (-2.0, 0.9, 1.8, 1.8),
        (-2.0, 0.5, 1.6, 0.0),  # bad and already much less likely
        (-2.0, 1.5, 3.0, 3.0),  # bad but likelier: must be corrected, however far
    ],
)
def test_policy_loss_and_its_gradient(advantage, ratio, loss, gradient):
    old = double([-1.3])
    new = (old + math.log(ratio)).requires_grad_()
    losses, ratios = formulas.policy_loss(new, old, double([advantage]), 0.2)
    losses.sum().backward()
    same(losses.detach(), [loss])
    same(ratios.detach(), [ratio])
    same(new.grad, [gradient])  # of the log-probability: −A·ratio where it is not clipped


def test_expected_gradient_of_policy_loss_is_that_of_the_penalised_reward():
    """Over all actions of a one-token policy, through estimate, reward, advantage and loss."""
    beta, score = 0.3, double([1.0, -0.5, 0.2, 2.0])
    reference = double([0.1, 0.4, -0.3, 0.2]).log_softmax(0)
    theta = double([0.5, -0.2, 0.9, 0.0]).requires_grad_()

    logp = theta.log_softmax(0)
    objective = (logp.exp() * score).sum() - beta * (logp.exp() * (logp - reference)).sum()
    (exact,) = torch.autograd.grad(-objective, theta)

    logp = theta.log_softmax(0)[:, None]  # one row for each action
    mask = torch.ones(4, 1).bool()
    kl = formulas.kl_estimate(logp.detach(), reference[:, None])
    rewards = formulas.shape_rewards(score, kl, mask, beta)
    # held constant, as in training
    advantages, _ = formulas.gae(rewards, torch.zeros(4, 1).double(), mask, 1.0, 0.95)
    losses, ratio = formulas.policy_loss(logp, logp.detach(), advantages, 0.2)
    assert torch.equal(ratio, torch.ones_like(ratio))
    (expected,) = torch.autograd.grad((logp.detach().exp() * losses).sum(), theta)

    same(expected, exact)
    assert exact.abs().min() > 1e-3


@pytest.mark.parametrize(
    "value, old, target, loss",
    [
        (0.1, 0.0, 1.0, 0.405),  # within the clip: ½ (0.1 − 1)²
        (0.5, 0.0, 1.0, 0.32),  # clipped to 0.2, which is further off: ½ (0.2 − 1)²
        (0.5, 0.0, -1.0, 1.125),  # clipped to 0.2, but 0.5 is further off: ½ (0.5 + 1)²
        (-0.5, 0.0, -1.0, 0.32),
    ],
)
def test_value_loss_by_hand(value, old, target, loss):
    found = formulas.value_loss(
        torch.tensor([value]), torch.tensor([old]), torch.tensor([target]), 0.2
    )
    same(found, [loss], 1e-6)


def test_the_approximate_kl_by_hand():
    same(formulas.approx_kl(double([-1.0, -2.0, -3.0]), double([-1.0, -1.5, -5.0])), [0, 0.125, 2])


# --- Controller, config, learning rate ---


@pytest.mark.parametrize(
    "kl, error", [(6.6, 0.1), (5.4, -0.1), (6.0, 0.0), (100.0, 0.2), (0.0, -0.2), (-50.0, -0.2)]
)
def test_the_controller_clips_its_error(kl, error):
    controller = loop.KLController(0.05, target=6.0, horizon=1000)
    controller.update(kl, 64)
    assert controller.value == pytest.approx(0.05 * (1 + error * 64 / 1000), rel=1e-9)


def test_the_controller_is_fixed_without_a_target():
    controller = loop.KLController(0.05)
    for kl in (0.0, 100.0, -5.0):
        controller.update(kl, 64)
    assert controller.value == 0.05


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"batch_size": 0}, ["batch_size=0"]),
        ({"response_length": 0}, ["response_length=0"]),
        ({"temperature": 0.0}, ["temperature=0"]),
        ({"learning_rate": -1e-3}, ["learning_rate=-0.001"]),
        ({"learning_rate": 0.0}, ["learning_rate=0"]),
        ({"vf_coef": float("nan")}, ["vf_coef=nan"]),
        ({"max_kl": float("inf")}, ["max_kl=inf"]),
        ({"save_every": 0}, ["save_every=0"]),
        ({"gamma": 2.0}, ["gamma=2.0", "at most 1"]),
        ({"lam": 1.5}, ["lam=1.5", "at most 1"]),
        ({"kl_coef": -0.1}, ["kl_coef=-0.1"]),
        ({"total_episodes": 100}, ["total_episodes=100", "batch_size=128"]),
        ({"num_mini_batches": 3}, ["batch_size=128", "num_mini_batches=3"]),
        (
            {"per_device_train_batch_size": 24},
            ["mini_batch_size=64", "per_device_train_batch_size=24"],
        ),
        ({"kl_estimator": "k2"}, ["kl_estimator='k2'"]),
    ],
)
def test_config_errors_name_the_field_and_the_value(changes, named):
    with pytest.raises(ValueError) as error:
        PPOConfig(**changes)
    for text in named:
        assert text in str(error.value)


def test_config_sizes():
    config = PPOConfig(
        total_episodes=640, batch_size=64, num_mini_batches=4, per_device_train_batch_size=8
    )
    assert (config.num_updates, config.mini_batch_size) == (10, 16)


def test_learning_rate_falls_linearly_to_0():
    config = PPOConfig(total_episodes=640, batch_size=64, learning_rate=0.01)
    found = [loop.learning_rate_at(config, index) for index in range(10)]
    assert found == pytest.approx(
        [0.01, 0.009, 0.008, 0.007, 0.006, 0.005, 0.004, 0.003, 0.002, 0.001]
    )


def test_a_critic_that_says_the_mean_explains_nothing():
    mask = torch.tensor([[1, 1], [1, 0]]).bool()
    returns = torch.tensor([[1.0, 3.0], [5.0, 99.0]])  # 99 is padding
    for values, explained in ((returns, 1.0), (0 * returns + 3, 0.0), (6 - returns, -3.0)):
        got = formulas.explained_variance(values, returns, mask)
        assert got == pytest.approx(explained)
    assert not formulas.explained_variance(returns, 0 * returns, mask).isfinite()


def test_correlation_is_numpys():
    x, y = torch.tensor([1.0, 2.0, 4.0, 3.0]), torch.tensor([0.0, -1.0, -1.0, -5.0])
    assert formulas.correlation(x, y).item() == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-6)
    assert formulas.correlation(x, 0 * y).isnan()
