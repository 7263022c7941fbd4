"""Faults that fault_bench.py plants in a run of PPO: patches of the bench, none of the package.

A fault changes the run (its policy, reward or settings) or one function that the loop calls, and
says which findings of lab/diagnose.py it is expected to show.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from unittest import mock

import torch

from rlhf_utils.models import adapters, drawing, sampling
from rlhf_utils.models.load import load_model
from rlhf_utils.models.scoring import answer_logprobs, score_tokens
from rlhf_utils.ppo import loop
from rlhf_utils.ppo.formulas import shape_rewards
from rlhf_utils.preferences.rubric import refuses

OTHER_TEMPLATE = (
    "{% for message in messages %}{{ '### ' + message['role'] + ':\n' + message['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '\n### assistant:\n' }}{% endif %}"
)
TOP_P = 0.9
draw_tokens, score = drawing.draw_tokens, loop.score


@dataclass
class Fault:
    """expected: the findings of which at least one must show. plant: changes a run, and gives what
    is to be patched while it runs. settings: changed fields of PPOConfig.
    """

    what: str
    expected: tuple[str, ...]
    plant: Callable = lambda run: contextlib.nullcontext()
    settings: dict = field(default_factory=dict)


def narrowed(logits):
    """The logits with all but the likeliest tokens, of TOP_P together, at −∞."""
    ordered, places = logits.softmax(1).sort(1, descending=True)
    drop = ordered.cumsum(1) - ordered > TOP_P
    return logits.masked_fill(torch.zeros_like(drop).scatter(1, places, drop), -torch.inf)


def top_p(run):
    def draw(logits, generator):
        return draw_tokens(narrowed(logits), generator)

    return mock.patch.object(sampling, "draw_tokens", draw)


def top_p_unrecorded(run):
    def draw(logits, generator):
        tokens, _ = draw_tokens(narrowed(logits), generator)
        return tokens, logits.log_softmax(1).gather(1, tokens[:, None])[:, 0]

    return mock.patch.object(sampling, "draw_tokens", draw)


def paid(reward: Callable) -> Callable:
    """A plant: the run is paid by reward(run's own reward, prompts, answers, columns)."""

    def plant(run):
        own = run.reward
        run.reward = lambda prompts, completions, **columns: reward(
            own, prompts, completions, columns
        )
        return contextlib.nullcontext()

    return plant


def wrong_sign(own, prompts, answers, columns):
    return [-score for score in own(prompts, answers, **columns)]


def length(own, prompts, answers, columns):
    return [(len(answer.split()) - 17) / 6 for answer in answers]


def neighbours(own, prompts, answers, columns):
    scores = own(prompts, answers, **columns)
    return scores[1:] + scores[:1]


def saturated(own, prompts, answers, columns):
    return [min(score, -1.0) for score in own(prompts, answers, **columns)]


def declining(own, prompts, answers, columns):
    return [2.0 * refuses(answer) - 1 for answer in answers]


def other_template(run):
    run.reward.reader.tokenizer.chat_template = OTHER_TEMPLATE
    return contextlib.nullcontext()


def shifted_values(run):
    def scored(*args):
        found = score(*args)
        found.values = found.values.roll(1, 1).masked_fill(~found.mask, 0.0)
        found.values[:, 0] = 0.0
        return found

    return mock.patch.object(loop, "score", scored)


def stale_reference(run):
    earlier = adapters.unfreeze_top(load_model(str(run.world / "earlier")), run.layers)
    other = {name: p.detach() for name, p in earlier.named_parameters() if p.requires_grad}
    learned = run.policy.model
    learned = {name: p for name, p in learned.named_parameters() if p.requires_grad}

    @contextlib.contextmanager
    def reference():
        now = {name: p.data for name, p in learned.items()}
        for name, p in learned.items():
            p.data = other[name]
        yield
        for name, p in learned.items():
            p.data = now[name]

    run.policy.reference = reference
    return contextlib.nullcontext()


def no_end(run):
    return mock.patch.object(sampling, "end_ids", lambda *args: [-1])


def dropout(run):
    for block in run.policy.model.model.layers:
        block.self_attn.attention_dropout = 0.1
    run.policy.train()
    return contextlib.nullcontext()


def penalty_pays(run):
    def shaped(scores, kl, mask, kl_coef):
        return shape_rewards(scores, kl, mask, -kl_coef)

    return mock.patch.object(loop, "shape_rewards", shaped)


def peeking_critic(run):
    """Each value is read from the state after its token, if there is one, in both passes."""

    def after(hidden, mask):
        follows = mask.clone()
        follows[:, :-1] &= mask[:, 1:]
        follows[:, -1] = False
        return hidden.where(~follows[..., None], hidden.roll(-1, 1))

    def scored(model, samples, *args):
        found = score_tokens(model, samples, *args)
        return found | {"hidden": after(found["hidden"], samples.answer_mask)}

    def read(model, samples, rows, temperature):
        logprobs, entropy, hidden = answer_logprobs(model, samples, rows, temperature)
        mask = samples.answer_mask[rows]
        table = hidden.new_zeros(*mask.shape, hidden.shape[-1])
        table[mask] = hidden
        return logprobs, entropy, after(table, mask)[mask]

    return mock.patch.multiple(loop, score_tokens=scored, answer_logprobs=read)


UNLIKE = ("sampling_gap", "surprise_gap")
FAULTS = {
    "top-p": Fault("top-p 0.9 in sampling only", UNLIKE, top_p),
    "top-p, unrecorded": Fault(
        "top-p 0.9 in sampling only; log-probabilities are of the whole distribution",
        ("surprise_gap", "kl_negative"),
        top_p_unrecorded,
    ),
    "learning rate": Fault(
        "learning rate × 10", ("steps_too_large", "kl_runaway"), settings={"learning_rate": 10}
    ),
    "no penalty": Fault("β = 0", ("kl_free", "kl_runaway"), settings={"kl_coef": 0}),
    "wrong sign": Fault("the reward has the wrong sign", ("gold_falls",), paid(wrong_sign)),
    "other template": Fault(
        "the reward model reads with another chat template",
        ("reward_scale", "gold_falls", "declines_all"),
        other_template,
    ),
    "length": Fault(
        "the reward counts words", ("length_creep", "length_paid", "gold_falls"), paid(length)
    ),
    "values shifted": Fault(
        "the value head reads one token off in the rollout", ("value_first",), shifted_values
    ),
    "stale reference": Fault(
        "the reference is an earlier model than π_SFT", ("kl_at_start",), stale_reference
    ),
    "no end": Fault("no token ends an answer", ("ends_missing",), no_end),
    "dropout": Fault("dropout of 0.1 in the policy's attention", (*UNLIKE, "ratio_first"), dropout),
    "neighbour's score": Fault(
        "each answer gets the score of its neighbour in the batch",
        ("reward_flat",),
        paid(neighbours),
    ),
    "saturated": Fault(
        "scores are cut at −1, which most answers reach", ("scores_tied",), paid(saturated)
    ),
    "declining pays": Fault(
        "the reward is paid for declining", ("declines_all", "gold_falls"), paid(declining)
    ),
    "tiny steps": Fault(
        "learning rate / 100", ("steps_too_small",), settings={"learning_rate": 0.01}
    ),
}
# Faults that we expected to stay unseen, before they were run: no metric is far from healthy.
HIDDEN = {
    "penalty pays": Fault("the KL penalty has the wrong sign", ("kl_runaway",), penalty_pays),
    "peeking critic": Fault(
        "the value head reads the state after its token, in both passes",
        ("value_first", "critic_worse"),
        peeking_critic,
    ),
    "discount": Fault(
        "γ = 0.8, so that little reward reaches the first tokens",
        ("reward_flat", "critic_worse"),
        settings={"gamma": 0.8},
    ),
}
