"""Parity with trl 1.12.0: its real PPOTrainer.train() and this engine make the same updates.

Of the same tiny model, in float32, all blocks learning. Only the sampling is replaced, by fixed
answers, on both sides; policy, reference and value head have weights of their own. Run by
`ppo_vs_trl.py --parity` in the benchmark's environment. Exits with 1 if a number differs by more
than 1e-5.
"""

import sys
from unittest import mock

import torch
from common import BATCH, KL_COEF, chat_texts, prompt_texts
from our_side import settings
from parity_case import PENALTY, Case, fixed_answers, shake, value_weight
from parity_trl import run_trl, watch_gradients
from transformers.utils import logging

from rlhf_utils.data.rows import Prompt
from rlhf_utils.fast.trunk import Trunk
from rlhf_utils.models import adapters
from rlhf_utils.models.load import load_model, load_tokenizer
from rlhf_utils.models.sampling import Samples
from rlhf_utils.models.source import resolve
from rlhf_utils.ppo import loop
from rlhf_utils.ppo.policy import Policy

TOLERANCE = 1e-5  # of any number, and of weights for each optimizer step
SHARE = 1e-4  # of the largest number of its kind, because some are small
SHARE_OF_CHANGE = 1e-2  # of weights' largest change: Adam makes much of gradients near 0
SWITCHES = """Documented differences, and how each is switched to match:
 1. TRL's score lands one place after the last token, whose value TRL also learns; ours on the last
    token, V = 0 after it.
    -> TRL: one line of train() set to `sequence_lengths_p1 = sequence_lengths` (not where all
       answers have full length)
 2. TRL whitens advantages and rewards by the unbiased variance; we by the biased one.
    -> TRL: masked_var(unbiased=False)
 3. TRL has a value network of its own, whose head has no bias; we have a head on the policy.
    -> TRL: the value model is given the policy's backbone and the same Linear head, with a bias
 4. TRL never clips gradients; we do, to norm 1.                   -> ours: max_grad_norm=1e6
 5. TRL's updates never stop early; ours do at target_kl, ratio_threshold and max_kl.
    -> ours: all out of reach
 6. TRL's embeddings and head learn; ours are frozen.              -> TRL: frozen
 7. TRL takes AdamW with eps 1e-8; 04 takes Adam with eps 1e-5.
    -> TRL: adam_epsilon=1e-5, no weight decay
 8. TRL divides by temperature + 1e-7; we by the temperature.      -> as it is: below the tolerance
Not compared, statistics only: TRL's approxkl, entropy and ratio average over padding too (ours over
real tokens); its clip fractions count where the clipped loss is the larger (ours where the ratio or
value left its range); its objective/entropy is -log pi of the sampled tokens (ours exact); its
ratio_var is over minibatches (ours over tokens)."""

CASES = [
    Case("answers of full length: TRL's train() as it is", ends_early=False),
    Case("answers of many lengths", ends_early=True),
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
    """What `sample` would give, had it drawn the fixed answers."""
    texts = chat_texts(tokenizer)
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    prompt_mask = batch["attention_mask"].bool()
    ids = fixed_answers(tokenizer, ends_early)
    mask = ids != tokenizer.pad_token_id
    whole = torch.cat([batch["input_ids"], ids], 1)
    whole_mask = torch.cat([prompt_mask, mask], 1)
    return Samples(
        prompts=prompt_texts(),
        prompt_ids=batch["input_ids"],
        prompt_mask=prompt_mask,
        answer_ids=ids,
        answer_mask=mask,
        logprobs=torch.zeros(ids.shape),
        ended=(ids == tokenizer.eos_token_id).any(1),
        answers=[""] * BATCH,
        trunk=Trunk(model).lower(whole[:, :-1], whole_mask[:, :-1]),
        cut=Trunk(model).cut,
    )


def run_ours(case: Case, name: str, raw_scores: torch.Tensor) -> dict:
    """The same update by this engine, its answers scored as TRL's reward model scored them."""
    tokenizer, model = load_tokenizer(name), load_model(name)
    shake(model, 1, 0.05)
    policy = Policy(adapters.unfreeze_top(model))  # copies the reference
    shake(model, 2, 0.02)
    policy.value_head.weight.data = value_weight(model.config.hidden_size)
    config = settings(
        BATCH,
        1,
        num_ppo_epochs=case.epochs,
        kl_estimator=case.kl_estimator,
        lam=0.95,
        whiten_rewards=case.whiten_rewards,
        missing_eos_penalty=PENALTY,
        learning_rate=case.learning_rate,
        max_grad_norm=1e6,
        ratio_threshold=0,
    )
    optimizer = torch.optim.Adam(policy.trainable().values(), lr=case.learning_rate, eps=1e-5)
    gradients: dict[str, torch.Tensor] = {}
    watch_gradients(optimizer, policy.trainable(), gradients)
    generator = torch.Generator().manual_seed(0)
    start = {name: p.detach().clone() for name, p in policy.trainable().items()}
    prompts = [Prompt(text) for text in prompt_texts()]
    samples = fixed_samples(model, tokenizer, case.ends_early)
    with mock.patch.object(loop, "sample", lambda *_: samples):
        rollout = loop.collect(
            policy, tokenizer, prompts, lambda **_: raw_scores, config, KL_COEF, generator
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


FIELDS = ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns", "scores")


def compare(case: Case, name: str) -> dict[str, tuple[float, float]]:
    """(largest difference, largest size of ours) of every number compared; over real tokens only.

    The size of weights is that of their change.
    """
    theirs = run_trl(case, name)
    ours = run_ours(case, name, theirs["raw_scores"])
    rollout, metrics, found = ours["rollout"], ours["metrics"], {}
    for field in FIELDS:
        mask = rollout.mask if getattr(rollout, field).dim() == 2 else ...
        mine, other = getattr(rollout, field)[mask], theirs[field][mask]
        found[field] = float((mine - other).abs().max()), float(mine.abs().max())
    for what, trl_name, size in (
        # The mean of whitened advantages is 0, so the policy loss is measured by their size.
        ("loss/policy_avg", "pg_loss_stats", found["advantages"][1]),
        ("loss/value_avg", "vf_loss_stats", metrics["loss/value_avg"]),
    ):
        found[what] = abs(metrics[what] - float(theirs[trl_name].mean())), size
    sizes = [float(gradient.abs().max()) for gradient in ours["gradients"].values()]
    found["gradients"] = largest(ours["gradients"], theirs["gradients"]), max(sizes)
    change = largest(ours["weights"], ours["start"])
    found["weights"] = largest(ours["weights"], theirs["weights"]), change
    policy_share, value_share = (
        float(theirs[name].mean()) for name in ("pg_clipfrac_stats", "vf_clipfrac_stats")
    )
    print(
        f"\n{case.name}: policy loss clipped at {policy_share:.0%} of the tokens, "
        f"value loss at {value_share:.0%}"
    )
    return found


def main() -> int:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    print(SWITCHES)
    failed = 0
    for case in CASES:
        for what, (difference, size) in compare(case, resolve("tiny")).items():
            steps, share = 1, SHARE
            if what == "weights":
                steps, share = case.epochs, SHARE_OF_CHANGE  # the steps' differences add up
            good = difference <= min(steps * TOLERANCE, size * share)
            failed += not good
            end = "" if good else "   FAILED"
            print(f"  {what:16} differs by {difference:.1e} at most, largest {size:.3g}{end}")
    result = f"{failed} numbers beyond" if failed else "all within"
    print(f"\nparity: {result} {TOLERANCE:g} and their share")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
