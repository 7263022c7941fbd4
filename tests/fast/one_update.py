"""One PPO update and the loss of SFT, on the tiny model; saves their numbers. See test_twins.py.

usage: one_update.py FILE
"""

import sys
import tempfile

import helpers_ppo
import torch

from rlhf_utils import fast
from rlhf_utils.data.rows import load_demonstrations
from rlhf_utils.models import sft
from rlhf_utils.models.load import load_model, load_tokenizer


def ppo_numbers(run) -> dict:
    helpers_ppo.train(run, stop=1)  # so that π is no longer π_SFT
    rollout = helpers_ppo.collect(run, index=1)
    losses = helpers_ppo.update(run, rollout)
    return {
        "answer_ids": rollout.samples.answer_ids,
        "sampled_logprobs": rollout.samples.logprobs,
        "logprobs": rollout.logprobs,
        "ref_logprobs": rollout.ref_logprobs,
        "entropy": rollout.entropy,
        "kl_full": rollout.kl_full,
        "advantages": rollout.advantages,
        "losses": torch.tensor([losses[name] for name in sorted(losses)]),
        "weights": torch.cat([p.detach().flatten() for p in run.policy.trainable().values()]),
    }


def sft_numbers() -> dict:
    settings = sft.SFTSettings(1, 1e-2, 4, 4, seed=0)
    rows = load_demonstrations("builtin")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = sft.make_trainer(
            load_model("tiny"), load_tokenizer("tiny"), rows[:16], rows[16:24], folder, settings
        )
        trainer.train()
    logged = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    return {"eval_loss": torch.tensor(logged)}


torch.set_num_threads(1)
torch.save(
    {
        "module": fast.Trunk.__module__,
        "lora": ppo_numbers(helpers_ppo.fresh_run()),
        "whole blocks": ppo_numbers(helpers_ppo.whole_blocks(1)),
        "sft": sft_numbers(),
    },
    sys.argv[1],
)
