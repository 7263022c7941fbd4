"""What is kept of a run of PPO: how far it is, answers to watched prompts, its results."""

from collections.abc import Callable

from torch import Generator

from ..data.rows import Prompt, pick
from ..errors import PPOError
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
    policy: Policy, tokenizer, prompts: list[Prompt], reward: Callable, config: PPOConfig, seed: int
) -> list[dict]:
    """Rows of samples.jsonl: one answer to each watched prompt, with its score and KL in nats.

    Has a random generator of its own, so that watching changes no training. Raises PPOError for
    a policy that has run away: nothing else looks at it after the last update.
    """
    generator = Generator(device=policy.model.device).manual_seed(seed)
    rollout = collect(policy, tokenizer, prompts, reward, config, 0.0, generator)
    check_kl(rollout, config)
    scores, kls = rollout.scores.tolist(), rollout.kl_full.sum(1).tolist()
    return [
        {"prompt": prompt.text, "answer": answer, "score": score, "kl": kl}
        for prompt, answer, score, kl in zip(prompts, rollout.samples.answers, scores, kls)
    ]
