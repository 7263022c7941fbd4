"""TRL's half of the parity test: one update by the real PPOTrainer.train().

Its numbers are read from its local variables.
"""

import contextlib
import functools
import inspect
import io
import tempfile
import textwrap
from unittest import mock

import torch
from common import BATCH, KL_COEF, TEMPERATURE
from parity_case import PENALTY, Case, fixed_answers, shake, value_weight
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, TrainerCallback
from trl.experimental.ppo import PPOTrainer, ppo_trainer
from trl_side import make_trainer

from rlhf_utils.models.load import load_tokenizer


class Notes(TrainerCallback):
    """Copies what train() holds in its local variables at the end of its one update."""

    def on_step_end(self, args, state, control, **kwargs):
        frame = inspect.currentframe()
        while frame.f_code.co_name != "train":
            frame = frame.f_back
        kept = (
            "logprobs",
            "ref_logprobs",
            "values",
            "rewards",
            "advantages",
            "returns",
            "scores",
            "pg_loss_stats",
            "vf_loss_stats",
            "pg_clipfrac_stats",
            "vf_clipfrac_stats",
        )
        self.found = {name: frame.f_locals[name].detach().clone() for name in kept}


def watch_gradients(
    optimizer, named: dict[str, nn.Parameter], kept: dict[str, torch.Tensor]
) -> None:
    """Copies the gradients of the first optimizer step."""

    def copy(*_):
        kept.update({name: p.grad.clone() for name, p in named.items() if name not in kept})

    optimizer.register_step_pre_hook(copy)


def train_with(old: str, new: str):
    """PPOTrainer.train with one line exchanged."""
    source = textwrap.dedent(inspect.getsource(PPOTrainer.train))
    assert source.count(old) == 1, f"TRL's train() has not one line {old!r}"
    found: dict = {}
    exec(
        compile(source.replace(old, new), "train() with a line exchanged", "exec"),
        ppo_trainer.__dict__,
        found,
    )
    return found["train"]


def run_trl(case: Case, name: str) -> dict[str, torch.Tensor]:
    """One update by PPOTrainer.

    Its tensors, its raw scores, the first step's gradients and the weights after the last.
    """
    tokenizer = load_tokenizer(name)
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32) for _ in range(2)
    )
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(name, dtype=torch.float32, num_labels=1)
        for _ in range(2)
    )
    torch.manual_seed(5)
    reward.score.weight.data = torch.randn_like(reward.score.weight)
    policy.requires_grad_(False)
    for model in (policy, reference):
        shake(model, 1, 0.05)
    shake(policy, 2, 0.02)
    value.model, value.score = policy.model, nn.Linear(policy.config.hidden_size, 1)
    value.score.weight.data = value_weight(policy.config.hidden_size)
    nn.init.zeros_(value.score.bias)
    learning = {
        f"model.{k}": p
        for k, p in policy.named_parameters()
        if ".layers." in k or k.startswith("model.norm")
    }
    learning |= {f"value_head.{k}": p for k, p in value.score.named_parameters()}
    for parameter in learning.values():
        parameter.requires_grad_(True)

    answers, raw = fixed_answers(tokenizer, case.ends_early), {}

    def generation(model, queries, *_):
        both = torch.cat([queries, answers], dim=1)
        logits = ppo_trainer.forward(model, both, tokenizer.pad_token_id).logits[
            :, queries.shape[1] - 1 : -1
        ]
        return both, logits / (TEMPERATURE + 1e-7)

    def scored(model, *rest, real=ppo_trainer.get_reward):
        found = real(model, *rest)
        if model is reward:
            raw["scores"] = found[1].clone()
        return found

    notes, gradients = Notes(), {}
    biased = functools.partial(ppo_trainer.masked_var, unbiased=False)
    replaced = mock.patch.multiple(
        ppo_trainer, batch_generation=generation, get_reward=scored, masked_var=biased
    )
    with tempfile.TemporaryDirectory() as folder, replaced:
        trainer = make_trainer(
            {"model": policy, "ref_model": reference, "reward_model": reward, "value_model": value},
            tokenizer,
            BATCH,
            folder,
            notes,
            use_cpu=True,
            bf16=False,
            total_episodes=BATCH,
            num_ppo_epochs=case.epochs,
            kl_coef=KL_COEF,
            kl_estimator=case.kl_estimator,
            whiten_rewards=case.whiten_rewards,
            missing_eos_penalty=PENALTY,
            stop_token="eos",
            learning_rate=case.learning_rate,
            adam_epsilon=1e-5,
            weight_decay=0.0,
        )
        # In the order of our rows; the trainer's own loader shuffles.
        trainer.dataloader = torch.utils.data.DataLoader(
            trainer.train_dataset, BATCH, collate_fn=trainer.data_collator
        )
        watch_gradients(trainer.optimizer.optimizer, learning, gradients)
        line = "sequence_lengths_p1 = sequence_lengths + 1"
        train = (
            train_with(line, "sequence_lengths_p1 = sequence_lengths")
            if case.ends_early
            else PPOTrainer.train
        )
        with contextlib.redirect_stdout(io.StringIO()):
            train(trainer)
    return notes.found | {
        "raw_scores": raw["scores"],
        "gradients": gradients,
        "weights": {k: p.detach() for k, p in learning.items()},
    }
