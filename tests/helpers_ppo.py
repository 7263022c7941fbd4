"""Runs of PPO on the built-in `tiny` model, for the tests in ppo/."""

from dataclasses import dataclass

import torch
from peft import get_peft_model

from rlhf_utils.data.rows import Endless, load_prompts
from rlhf_utils.fast import speed_up
from rlhf_utils.files import strict
from rlhf_utils.models import adapters
from rlhf_utils.models.load import load_model, load_tokenizer
from rlhf_utils.ppo import loop
from rlhf_utils.ppo.checkpoint import Checkpoints, TrainingState
from rlhf_utils.ppo.config import PPOConfig
from rlhf_utils.ppo.policy import Policy

PROMPTS = load_prompts("builtin")
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


@dataclass
class Run:
    """All that the loop of 04_ppo holds."""

    policy: Policy
    tokenizer: object
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    controller: loop.KLController
    order: Endless


def changed(**values):
    return PPOConfig(**{**vars(CONFIG), **values})


def letter_e(prompts, completions, **columns):
    """The share of letters e, with mean near 0 and standard deviation near 1 before training."""
    return [(text.count("e") / max(len(text), 1) - 0.1) / 0.06 for text in completions]


def adam(policy, learning_rate):
    return torch.optim.Adam(policy.trainable().values(), lr=learning_rate, eps=1e-5, fused=True)


def fresh_run(seed=0, config=CONFIG, dropout=0.0):
    """A run with adapters on the top layer.

    The random head of `tiny` is so flat that no hidden state makes a token much likelier, and it
    hardly ever ends an answer: its weights are scaled up here and the end gets a bias.
    """
    tokenizer, model = load_tokenizer("tiny"), load_model("tiny")
    bias = torch.zeros(len(tokenizer))
    bias[tokenizer.eos_token_id] = 6.0
    bias[tokenizer.pad_token_id] = -100.0
    model.lm_head.weight = torch.nn.Parameter(8 * model.lm_head.weight.detach())
    model.lm_head.bias = torch.nn.Parameter(bias)
    torch.manual_seed(seed)
    lora = adapters.lora_config(model, r=8, num_trainable_layers=1)
    lora.lora_dropout = dropout
    policy = Policy(speed_up(get_peft_model(model, lora)))
    return Run(
        policy=policy,
        tokenizer=tokenizer,
        optimizer=adam(policy, config.learning_rate),
        generator=torch.Generator().manual_seed(seed),
        controller=loop.KLController(config.kl_coef, config.kl_target, horizon=100),
        order=Endless(PROMPTS, seed),
    )


def whole_blocks(layers, seed=0):
    """A run whose top blocks learn as a whole."""
    run = fresh_run(seed)
    run.policy = Policy(adapters.unfreeze_top(load_model("tiny"), layers))
    run.optimizer = adam(run.policy, 1e-3)
    return run


def collect(run, config=CONFIG, index=0, reward=letter_e):
    batch = run.order.batch(index * config.batch_size, config.batch_size)
    return loop.collect(
        run.policy, run.tokenizer, batch, reward, config, run.controller.value, run.generator
    )


def update(run, rollout, config=CONFIG):
    return loop.update(run.policy, run.optimizer, rollout, config, run.generator)


def train(run, config=CONFIG, start=0, stop=None, reward=letter_e):
    """The loop of 04_ppo; returns the metrics of each update."""
    log = []
    for index in range(start, config.num_updates if stop is None else stop):
        run.optimizer.param_groups[0]["lr"] = loop.learning_rate_at(config, index)
        rollout = collect(run, config, index, reward)
        metrics = loop.rollout_metrics(rollout, config, run.controller.value)
        metrics |= update(run, rollout, config)
        run.controller.update(metrics["objective/kl"], config.batch_size)
        log.append(strict(metrics))  # NaN would equal nothing
    return log


def weights(run):
    return {name: p.detach().clone() for name, p in run.policy.named_parameters()}


def checkpoints(folder, run, settings=None):
    state = TrainingState(run.policy, run.optimizer, run.generator, run.controller)
    return Checkpoints(folder, state, settings or {})
