"""What is kept of a run of PPO: how far it is, answers to watched prompts, its results."""

from collections import Counter
from collections.abc import Callable

from torch import Generator

from ..data.rows import Prompt, pick
from ..errors import PPOError
from ..models.chat import end_ids, token_texts
from ..models.scoring import given_logprobs
from .config import PPOConfig
from .loop import check_kl, collect
from .policy import Policy


def results(rows: list[dict], kl_coef: float, total_episodes: int = 0) -> dict[str, float]:
    """The numbers of a run, from the rows of metrics.jsonl: means of the last eighth of them.

    kl_coef: β after the last update. total_episodes: how many were asked for; with fewer,
    "ppo.stopped_early" is True. Raises PPOError if there are none.
    """
    if not rows:
        raise PPOError("No update is finished yet: run the cell of the loop first.")
    eighth = max(len(rows) // 8, 1)
    scores, kl, entropy = (
        [row[f"objective/{name}"] for row in rows] for name in ("scores", "kl_full", "entropy")
    )
    found = {
        "ppo.reward_gain": sum(scores[-eighth:]) / eighth - sum(scores[:eighth]) / eighth,
        "ppo.kl": sum(kl[-eighth:]) / eighth,
        "ppo.entropy": sum(entropy[-eighth:]) / eighth,
        "ppo.episodes": rows[-1]["episode"],
        "ppo.kl_coef": kl_coef,
    }
    if rows[-1]["episode"] < total_episodes:
        found["ppo.stopped_early"] = True
    return found


def pick_watched(prompts: list[Prompt], seed: int) -> list[Prompt]:
    """Two ordinary prompts, a harmful one, a look-alike and one that nobody can answer.

    Any five where the prompts have no such categories.
    """
    mixed = pick(prompts, len(prompts), seed)
    special = ("harmful", "benign_lookalike", "unanswerable")
    watched = [prompt for prompt in mixed if prompt.category not in special][:2]
    for category in special:
        watched += [prompt for prompt in mixed if prompt.category == category][:1]
    return watched if len(watched) == 5 else mixed[:5]


def sample_watched(
    policy: Policy,
    tokenizer,
    prompts: list[Prompt],
    reward: Callable,
    config: PPOConfig,
    seed: int,
    kl_coef: float = 0.0,
) -> list[dict]:
    """Rows of samples.jsonl: one answer to each watched prompt, with its score and KL in nats.

    Of each token, the end included: its text in `tokens`, log π − log π_SFT in `logratio`, `value`,
    `reward` (−β·KL, and the score with the last; β is kl_coef), and `advantage`, not whitened.
    Has a random generator of its own, so that watching changes no training. Raises PPOError for
    a policy that has run away: nothing else looks at it after the last update.
    """
    generator = Generator(device=policy.model.device).manual_seed(seed)
    rollout = collect(policy, tokenizer, prompts, reward, config, kl_coef, generator)
    check_kl(rollout, config)
    scores, kls = rollout.scores.tolist(), rollout.kl_full.sum(1).tolist()
    per_token = {
        "logratio": rollout.logprobs - rollout.ref_logprobs,
        "value": rollout.values,
        "reward": rollout.rewards,
        "advantage": rollout.returns - rollout.values,
    }
    rows, ends = [], end_ids(policy.model, tokenizer)
    for i, (prompt, mask) in enumerate(zip(prompts, rollout.mask)):
        row = {"prompt": prompt.text, "answer": rollout.samples.answers[i], "score": scores[i]}
        row |= {"kl": kls[i], "category": prompt.category}
        row["tokens"] = token_texts(tokenizer, rollout.samples.answer_ids[i, mask].tolist(), ends)
        for name, numbers in per_token.items():
            row[name] = [round(number, 3) for number in numbers[i, mask].tolist()]
        rows.append(row)
    return rows


# --- does it begin to decline?


def declining_openings(
    tokenizer, answers: list[str], declines: Callable[[str], bool]
) -> list[tuple[int, ...]]:
    """The shortest beginnings, of up to three tokens, after which nearly every answer declines.

    At least 3 of the answers begin so, and 80% of these decline. One token would not do: "I" begins
    every second answer. What declines later ("Good question! I can't …") is not found.
    """
    begun, declined = Counter(), Counter()
    for answer in answers:
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"][:3]
        for length in range(1, len(ids) + 1):
            begun[tuple(ids[:length])] += 1
            declined[tuple(ids[:length])] += declines(answer)
    found = []
    for opening in sorted(begun, key=len):
        often = declined[opening] >= max(3, 0.8 * begun[opening])
        if often and opening[:1] not in found and opening[:2] not in found:
            found.append(opening)
    return found


def begin_to_decline(
    policy: Policy, tokenizer, prompts: list[str], openings: list[tuple], temperature: float
) -> list[dict]:
    """For each prompt the probability that an answer has one of these openings.

    "decline" is π's, "decline_sft" π_SFT's; both None without openings. No opening begins another,
    so their probabilities add up.
    """
    if not openings:
        return [{"decline": None, "decline_sft": None} for _ in prompts]
    asked = [prompt for prompt in prompts for _ in openings]
    answers = [list(opening) for opening in openings] * len(prompts)
    both = given_logprobs(policy.model, tokenizer, asked, answers, temperature, policy.reference)
    sums = [each.exp().view(len(prompts), -1).sum(1).tolist() for each in both]
    return [{"decline": round(p, 4), "decline_sft": round(ref, 4)} for p, ref in zip(*sums)]
