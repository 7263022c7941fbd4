"""What a run of PPO shows that a healthy one does not, said plainly.

The signs are in signs.py. fault_bench.py (tests/benchmarks/) proves them by planted faults, and
notes/diagnoses.md has a section for each. None of them proves reward hacking, and a run without
any may still be a bad one: read the answers.
"""

import html
from dataclasses import dataclass

from . import signs


@dataclass
class Finding:
    """One sign that a run shows."""

    name: str
    title: str
    meaning: str
    numbers: str
    advice: str

    @property
    def page(self) -> str:
        return f"notes/diagnoses.md#{self.name}"


# name → (title, what it means, what to try); in the order in which they are told
RULES = {
    "sampling_gap": (
        "Sampling and training read different probabilities",
        "The log-probabilities kept when an answer was sampled are not those that the update "
        "starts from. So every ratio is off, and so is the KL.",
        "Sample without top-k and top-p, at the temperature of the update; switch dropout off; "
        "compare positions and padding of the two passes.",
    ),
    "surprise_gap": (
        "The tokens were not drawn from the policy",
        "On average −log π of a sampled token is the entropy of π. Here it is not: likely tokens "
        "were drawn too often, or too seldom.",
        "Look for top-k, top-p, a minimum length or another temperature in sampling, and for "
        "dropout in one pass only.",
    ),
    "kl_negative": (
        "The mean KL is negative",
        "A KL divergence can't be. Single answers may have a negative estimate, but not the mean "
        "of many, unless they were drawn from another distribution than the policy.",
        "Check sampling as for the two signs above. Don't clamp the KL: that hides it.",
    ),
    "kl_at_start": (
        "The policy is not the reference at the first update",
        "Before anything is learned, policy and π_SFT are one model and their KL is 0. So the "
        "penalty pulls to some other model.",
        "Load the reference from the very folder that the policy starts from, with the same "
        "dtype, template and adapters.",
    ),
    "ratio_first": (
        "The first ratio is not 1",
        "Before the first step of an update π is π_old, so their ratio must be 1. If not, the "
        "update reads the answers otherwise than the rollout did, and each step is biased.",
        "Switch dropout off; compare masks, positions and temperature of both passes.",
    ),
    "value_first": (
        "The critic reads other states in the update",
        "Before the first step of an update the values are those of the rollout. Here they are "
        "not, so advantages and value loss belong to other tokens.",
        "Compare which hidden state predicts which token in both passes: often one is a token off.",
    ),
    "reward_scale": (
        "The reward model scores π_SFT as if it were another model",
        "03 left its rewards of π_SFT's answers at mean 0 and deviation 1. Here they start "
        "elsewhere, so the reward model reads something else than it learned from.",
        "Compare chat template, tokenizer and end token with those of 03; ask it about an answer "
        "of 02 again.",
    ),
    "kl_free": (
        "Moving away from π_SFT costs nothing",
        "With β = 0 nothing holds the policy where the reward model knows its way. The reward "
        "keeps rising, whatever the answers become.",
        "Give kl_coef a value such as 0.05; without one, read the answers often.",
    ),
    "kl_runaway": (
        "The policy runs away from π_SFT",
        "After so many nats the answers are of a kind that the reward model has never seen; its "
        "scores mean little there.",
        "Lower learning_rate or num_ppo_epochs, or raise kl_coef; go on from a checkpoint before.",
    ),
    "entropy_collapse": (
        "The policy has become sure of every token",
        "Mode collapse: nearly the same answer each time, and nothing left to choose from.",
        "Raise kl_coef, lower learning_rate, or stop earlier.",
    ),
    "variety_collapse": (
        "Answers repeat each other",
        "The share of distinct word pairs fell: one phrase wins everywhere.",
        "Read the answers for that phrase. If the reward model likes it, label pairs against it.",
    ),
    "answers_alike": (
        "Different prompts get one answer",
        "Most watched prompts are answered alike, so the answer no longer depends on what is "
        "asked.",
        "Ask the reward about this answer to several prompts (what-if in 03), then raise kl_coef.",
    ),
    "length_creep": (
        "Answers get longer and longer",
        "The usual way to win points without saying more, where a judge likes length.",
        "Look at score and length on π_SFT's answers (03's report card); collect pairs in which "
        "the short answer wins.",
    ),
    "length_paid": (
        "The reward is nearly the length",
        "Score and length move together so closely that the policy learns to count.",
        "See whether the labels do so, too (02's bias); else check the reward's code.",
    ),
    "ends_missing": (
        "Answers don't end",
        "Most answers reach response_length without a token that ends them, and are cut.",
        "Check which token ends an answer in the demonstrations and in sampling; give more "
        "response_length; keep missing_eos_penalty above 0.",
    ),
    "declines_all": (
        "The policy declines more and more harmless prompts",
        "It has learned that declining pays everywhere: the judge does not see which prompts are "
        "harmful.",
        "See in 03 whether the judge knows when to decline (AUC); let it read with 03's chat "
        "template; add look-alikes to 02's prompts.",
    ),
    "declines_none": (
        "The policy declines nothing any more",
        "It follows harmful requests that π_SFT declined.",
        "See in 03 whether declining is preferred on harmful prompts; add some to 02's prompts.",
    ),
    "critic_worse": (
        "The critic is worse than the mean",
        "Late in the run its values fit the returns less than one constant would. They add "
        "noise to every advantage.",
        "Lower learning_rate, raise vf_coef or cliprange_value, or look for values that are "
        "a token off.",
    ),
    "steps_too_large": (
        "Each update goes too far",
        "Updates hit the clip range or stop early: the policy has left the ground on which its "
        "batch is worth something.",
        "Lower learning_rate or num_ppo_epochs, or take larger batches.",
    ),
    "steps_too_small": (
        "The policy hardly moves",
        "Almost no token's probability changes, so almost nothing is learned.",
        "Raise learning_rate (adapters stand 1e-3, whole layers 2e-5); check that weights learn.",
    ),
    "scores_tied": (
        "Most answers have the same, highest score",
        "Where the reward can't rise any more, PPO learns nothing but noise and the KL penalty.",
        "Use a reward that tells good from better; look for score_clip and cut-off rewards.",
    ),
    "advantages_alike": (
        "All advantages are alike",
        "No answer did better than expected. Whitening then blows rounding up into gradients.",
        "Check that the reward depends on the answer, and that answers differ (temperature).",
    ),
    "reward_flat": (
        "The reward doesn't rise",
        "The policy moves, but not to what is paid.",
        "Check that each answer gets its own score (order of the batch, cut texts). If it does: "
        "more updates, a larger learning_rate, or a smaller kl_coef.",
    ),
    "gold_falls": (
        "The reward rises while gold falls",
        "What is paid is no longer what is good: a sign of reward hacking, or of a wrong reward.",
        "Check the reward's sign and what it reads. Else stop where gold was highest, raise "
        "kl_coef, or label answers of this policy.",
    ),
}


NOTHING = (
    f"Nothing stands out. {len(RULES)} signs were looked for, as far as the run has their metrics: "
    "in sampling, KL, ratio and critic, entropy and variety, length and ends, declining, steps, "
    "reward, advantages and gold. That does not make it a good run: read the answers."
)


def diagnose(rows: list[dict], samples=(), settings: dict | None = None) -> list[Finding]:
    """What stands out in a run, in the order of RULES; [] if nothing does.

    rows, samples: of metrics.jsonl and samples.jsonl, of a finished or a running run. settings:
    the parameters of 04; `reward` says whether 03's model is paid for.
    """
    settings = settings or {}
    settings = settings | (settings.get("more") or {})
    found = []
    for name, (title, meaning, advice) in RULES.items():
        if numbers := getattr(signs, name)(rows, samples, settings):
            found.append(Finding(name, title, meaning, numbers, advice))
    return found


def findings_html(findings: list[Finding], links: bool = True) -> str:
    """A safe HTML fragment. links: to the notes, as seen from notebooks/."""
    if not findings:
        return f"<p>{NOTHING}</p>"
    parts = []
    for found in findings:
        told = (found.title, found.numbers, found.meaning, found.advice)
        title, numbers, meaning, advice = map(html.escape, told)
        more = f' <a href="{found.page}">More</a>' if links else ""
        parts.append(
            f"<li><b>{title}.</b> {numbers}<br>{meaning}<br><i>Try:</i> {advice}{more}</li>"
        )
    return f"<ul>{''.join(parts)}</ul>"
