"""The critic: a value head that reads frozen states of π_SFT, fitted to the rewards of π_SFT's own answers before PPO starts.

What reward may still come depends on the text so far, not on how the policy represents it: so the states that reference and trunk
have computed anyway will do, and learning values neither moves the policy nor costs a pass. Fitted first, because PPO's
advantages are only as good as its values (value pretraining: Yuan 2025, arXiv 2503.01491).
"""

import torch

from .errors import SettingError
from .heads import mean_over, standardise_by
from .policy import Policy
from .reward import RewardModel
from .rewards import as_scores
from .sampling import Samples


def critic_states(samples: Samples, reference: torch.Tensor) -> torch.Tensor:
    """(B, T, S) what the critic reads before each response token: π_SFT's last state, the trunk's, and the trunk's mean over the prompt.

    reference: (B, T, H) last states of π_SFT, which are all that is read of a family that runs whole.
    """
    if samples.trunk.dim() < 3:
        return reference
    asked, count = samples.query_ids.shape[1], reference.shape[1]
    prompt = mean_over(samples.trunk[:, :asked], samples.query_mask)[:, None].expand(-1, count, -1)
    return torch.cat([reference, samples.trunk[:, asked - 1 : asked - 1 + count].float(), prompt], dim=-1)


def _pick(layers, prompts, before, last) -> list[torch.Tensor]:
    """Each answer's (n, S) states as `critic_states` gives them, from what `RewardModel.read_texts` has read; see `RewardModel.pick`."""
    means = [mean[:, None].expand_as(layer).to(layer.dtype) for mean, layer in zip(prompts[1:], layers[1:])]
    states = torch.cat([*layers, *means], dim=-1)
    return [row[:end].clone() for row, end in zip(states, last.tolist())]


def fit_critic(policy: Policy, tokenizer, rows: list[dict], reward, seed: int, epochs: int = 6, learning_rate: float = 1e-3, batch_size: int = 512,
               track=iter) -> float:
    """Fits the critic to the rewards of π_SFT's answers, before the policy has learned; returns the share of their variance that it explains.

    rows: with `prompt`, `responses`, and columns for the reward, as 02 leaves them. That share is of answers to every tenth prompt,
    from which the critic did not learn. track: wraps the loop over batches of prompts, to show progress. Raises SettingError for fewer than two rows.
    """
    if len(rows) < 2:
        raise SettingError(f"{len(rows)} prompts with answers are too few to fit a critic to: give 2 or more.")
    columns = {key: [row.get(key) for row in rows for _ in row["responses"]] for key in rows[0] if key not in ("prompt", "responses")}
    prompts, answers = [row["prompt"] for row in rows for _ in row["responses"]], [answer for row in rows for answer in row["responses"]]
    scores = as_scores(reward(prompts=prompts, completions=answers, **columns), len(answers))
    read = RewardModel(policy.model, tokenizer).read_texts(list(dict.fromkeys(zip(prompts, answers))), track=track, pick=_pick)
    heldout = {row["prompt"] for row in rows[::10]}
    parts = {True: ([], []), False: ([], [])}
    for text, score in zip(zip(prompts, answers), scores.tolist()):
        states, targets = parts[text[0] in heldout]
        states.append(read[text])
        targets += [score] * len(read[text])
    (unseen, unseen_targets), (states, targets) = ((torch.cat(s), torch.tensor(t, device=s[0].device)) for s, t in (parts[True], parts[False]))
    head = policy.value_head
    standardise_by(head, states.float())
    optimizer = torch.optim.AdamW(head.parameters(), lr=learning_rate, weight_decay=0.1, fused=True)
    generator, total, done = torch.Generator().manual_seed(seed), epochs * -(-len(states) // batch_size), 0
    head.train()
    for _ in range(epochs):
        for few in torch.randperm(len(states), generator=generator).to(states.device).split(batch_size):
            optimizer.param_groups[0]["lr"] = learning_rate * (1 - done / total)
            optimizer.zero_grad()
            ((head(states[few].float())[:, 0] - targets[few]) ** 2).mean().backward()
            optimizer.step()
            done += 1
    optimizer.zero_grad()
    head.eval()
    with torch.no_grad():
        missed = (head(unseen.float())[:, 0] - unseen_targets) ** 2
    return 1 - (missed.mean() / unseen_targets.var(correction=0).clamp(min=1e-9)).item()
