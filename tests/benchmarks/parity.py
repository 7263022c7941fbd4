"""Parity with trl 1.12.0: its real PPOTrainer.train() and this engine make the same updates of the same tiny model, float32, k = N.

Only the sampling is replaced, by fixed responses, on both sides; policy, reference and value head have weights of their own.
Run by `ppo_vs_trl.py --parity` in the benchmark's environment. Exits with 1 where a number differs by more than 1e-5.
"""

import sys
from unittest import mock

import torch
from common import BATCH, KL_COEF, LENGTH, TEMPERATURE, prompt_rows
from parity_case import PENALTY, Case, fixed_responses, shake, value_weight
from parity_trl import run_trl, watch_gradients
from transformers.utils import logging

from rlhf_utils.fast.trunk import Trunk
from rlhf_utils.models import adapters
from rlhf_utils.models.load import chat_prompt, load_model, load_tokenizer, resolve
from rlhf_utils.models.sampling import Samples
from rlhf_utils.ppo import loop
from rlhf_utils.ppo.config import PPOConfig
from rlhf_utils.ppo.policy import Policy

TOLERANCE = 1e-5  # of any number, of weights for each optimizer step; and, as some are small, a share of the largest of their kind:
SHARE, SHARE_OF_CHANGE = (
    1e-4,
    1e-2,
)  # the latter for weights, of their largest change: Adam makes much of gradients near 0
SWITCHES = """Documented differences, and how each is switched to match:
 1. the score lands one place after the last token, whose value TRL also learns; ours on the last token, V = 0 after it
    -> TRL: one line of train() set to `sequence_lengths_p1 = sequence_lengths` (not where all responses have full length)
 2. advantages and rewards are whitened by the unbiased variance; ours by the biased     -> TRL: masked_var(unbiased=False)
 3. a value network of its own, whose head has no bias; ours a head on the policy
    -> TRL: the value model is given the policy's backbone and the same Linear head, with a bias
 4. gradients are never clipped; ours are, to norm 1                                      -> ours: max_grad_norm=1e6
 5. an update never stops early; ours does at target_kl, ratio_threshold and max_kl      -> ours: all out of reach
 6. embeddings and head learn; ours are frozen                                            -> TRL: frozen
 7. AdamW with eps 1e-8; 04 takes Adam with eps 1e-5                                      -> TRL: adam_epsilon=1e-5, no weight decay
 8. temperature + 1e-7; ours the temperature                                              -> as it is: below the tolerance
Not compared, statistics only: TRL's approxkl, entropy and ratio average over padding too (ours over real tokens); its clip
fractions count where the clipped loss is the larger (ours where the ratio or value left its range); its objective/entropy is
-log pi of the sampled tokens (ours exact); its ratio_var is over minibatches (ours over tokens)."""

CASES = [
    Case("responses of full length: TRL's train() as it is", ends_early=False),
    Case("responses of many lengths", ends_early=True),
    Case(
        "the same with k3, whitened rewards and 4 epochs",
        True,
        "k3",
        True,
        epochs=4,
        learning_rate=5e-3,
    ),
]


def fixed_samples(model, tokenizer, ends_early: bool) -> Samples:
    """What `sample` would give, had it drawn the fixed responses."""
    prompts = [row["prompt"] for row in prompt_rows()]
    texts = [chat_prompt(tokenizer, prompt) for prompt in prompts]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    ids, query_mask = fixed_responses(tokenizer, ends_early), batch["attention_mask"].bool()
    mask = ids != tokenizer.pad_token_id
    whole, whole_mask = torch.cat([batch["input_ids"], ids], 1), torch.cat([query_mask, mask], 1)
    return Samples(
        prompts=prompts,
        query_ids=batch["input_ids"],
        query_mask=query_mask,
        response_ids=ids,
        response_mask=mask,
        logprobs=torch.zeros(ids.shape),
        ended=(ids == tokenizer.eos_token_id).any(1),
        responses=[""] * BATCH,
        trunk=Trunk(model).lower(whole[:, :-1], whole_mask[:, :-1]),
        cut=Trunk(model).cut,
    )


def run_ours(case: Case, name: str, raw_scores: torch.Tensor) -> dict:
    """The same update by this engine, its responses scored as TRL's reward model scored them."""
    tokenizer, model = load_tokenizer(name), load_model(name)
    shake(model, 1, 0.05)
    policy = Policy(adapters.unfreeze_top(model))  # copies the reference
    shake(model, 2, 0.02)
    policy.value_head.weight.data = value_weight(model.config.hidden_size)
    config = PPOConfig(
        total_episodes=BATCH,
        batch_size=BATCH,
        num_mini_batches=1,
        per_device_train_batch_size=BATCH,
        num_ppo_epochs=case.epochs,
        response_length=LENGTH,
        temperature=TEMPERATURE,
        kl_coef=KL_COEF,
        kl_estimator=case.kl_estimator,
        gamma=1.0,
        lam=0.95,
        whiten_rewards=case.whiten_rewards,
        missing_eos_penalty=PENALTY,
        learning_rate=case.learning_rate,
        vf_coef=0.1,
        cliprange=0.2,
        cliprange_value=0.2,
        max_grad_norm=1e6,
        target_kl=0,
        ratio_threshold=1e6,
        max_kl=0,
    )
    optimizer = torch.optim.Adam(policy.trainable().values(), lr=case.learning_rate, eps=1e-5)
    gradients: dict[str, torch.Tensor] = {}
    watch_gradients(optimizer, policy.trainable(), gradients)
    generator, start = (
        torch.Generator().manual_seed(0),
        {name: p.detach().clone() for name, p in policy.trainable().items()},
    )
    with mock.patch.object(
        ppo, "sample", lambda *_: fixed_samples(model, tokenizer, case.ends_early)
    ):
        rollout = loop.collect(
            policy, tokenizer, prompt_rows(), lambda **_: raw_scores, config, KL_COEF, generator
        )
    return {
        "rollout": rollout,
        "metrics": loop.update(policy, optimizer, rollout, config, generator),
        "gradients": gradients,
        "weights": {name: p.detach() for name, p in policy.trainable().items()},
        "start": start,
    }


def largest(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest difference of any number in two sets of tensors of the same names."""
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def compare(case: Case, name: str) -> dict[str, tuple[float, float]]:
    """(largest difference, largest size of ours, of weights' change) of every number compared; tensors of tokens over real tokens only."""
    theirs = run_trl(case, name)
    ours = run_ours(case, name, theirs["raw_scores"])
    rollout, metrics, found = ours["rollout"], ours["metrics"], {}
    for field in (
        "logprobs",
        "ref_logprobs",
        "values",
        "rewards",
        "advantages",
        "returns",
        "scores",
    ):
        mask = rollout.mask if getattr(rollout, field).dim() == 2 else ...
        mine, other = getattr(rollout, field)[mask], theirs[field][mask]
        found[field] = float((mine - other).abs().max()), float(mine.abs().max())
    for what, trl_name, size in (
        ("loss/policy_avg", "pg_loss_stats", found["advantages"][1]),
        ("loss/value_avg", "vf_loss_stats", metrics["loss/value_avg"]),
    ):
        found[what] = (
            abs(metrics[what] - float(theirs[trl_name].mean())),
            size,
        )  # the mean of whitened advantages is 0
    found["gradients"] = (
        largest(ours["gradients"], theirs["gradients"]),
        max(float(t.abs().max()) for t in ours["gradients"].values()),
    )
    found["weights"] = (
        largest(ours["weights"], theirs["weights"]),
        largest(ours["weights"], ours["start"]),
    )
    clipped = {
        name: float(theirs[name].mean()) for name in ("pg_clipfrac_stats", "vf_clipfrac_stats")
    }
    print(
        f"\n{case.name}: policy loss clipped at {clipped['pg_clipfrac_stats']:.0%} of the tokens, "
        f"value loss at {clipped['vf_clipfrac_stats']:.0%}"
    )
    return found


def main() -> int:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    print(SWITCHES)
    failed = 0
    for case in CASES:
        for what, (difference, size) in compare(case, resolve("tiny")).items():
            steps, share = (
                (case.epochs, SHARE_OF_CHANGE) if what == "weights" else (1, SHARE)
            )  # what steps differ by adds up
            good = difference <= min(steps * TOLERANCE, size * share)
            failed += not good
            print(
                f"  {what:16} differs by {difference:.1e} at most, largest {size:.3g}{'' if good else '   FAILED'}"
            )
    print(
        f"\nparity: {'all within' if not failed else f'{failed} numbers beyond'} {TOLERANCE:g} and their share"
    )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
