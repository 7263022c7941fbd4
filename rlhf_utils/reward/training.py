"""Training the reward model: the pairwise loss, and the heads on states that are read once.

The loss is −log σ(r_chosen − r_rejected) (Bradley and Terry 1952; Stiennon 2020,
arXiv 2009.01325). All pairs of a prompt go into one step (Ouyang 2022, arXiv 2203.02155).
"""

import math
import random
from dataclasses import dataclass, field

import torch
from torch import nn

from ..data.rows import in_parts, split_by_prompt
from ..errors import DataError, RunError, SettingError
from ..preferences.pairs import Pair, check_split
from ..stats import correct
from .model import Heads, RewardModel
from .reader import States

PROMPTS_PER_STEP = 16
SHARES = (0.125, 0.25, 0.5)  # of the prompts, for the learning curve


def pairwise_loss(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """The losses −log σ(r_chosen − r_rejected) of pairs, in the shape of the rewards given."""
    return -nn.functional.logsigmoid(chosen - rejected)


# --- prompts with their pairs


def split_pairs(
    pairs: list[Pair], heldout_fraction: float, validation_fraction: float, seed: int
) -> tuple[list[Pair], list[Pair], list[Pair], list[Pair]]:
    """(train, validation, held out, other categories); a prompt is on one side only.

    A tie is neither right nor wrong: only `train` keeps it. Too few prompts for a share of them
    leave validation empty. Raises DataError where nothing is left to learn from or to judge by.
    """
    own = [pair for pair in pairs if pair.split != "other"]
    learned, heldout = split_by_prompt(own, heldout_fraction, seed)
    train, validation = learned, []
    prompts = len({pair.prompt.text for pair in learned})
    if round(validation_fraction * prompts) >= prompts:
        raise SettingError(
            f"validation_fraction={validation_fraction} of {prompts} prompts leaves none to learn "
            "from: give a share such as 0.05."
        )
    if round(validation_fraction * prompts):
        train, validation = split_by_prompt(learned, validation_fraction, seed + 1)
    other = [pair for pair in pairs if pair.split == "other"]
    check_split(learned, heldout + other)
    for name, few in (("to learn from", train), ("held out", heldout)):
        if all(pair.tie for pair in few):
            raise DataError(
                f"All {len(few)} pairs {name} are ties: give pairs of which one answer is "
                "preferred, or another seed, which draws other prompts."
            )
    judged = [[pair for pair in few if not pair.tie] for few in (validation, heldout, other)]
    return train, *judged


@dataclass
class Group:
    """The answers to one prompt, each once, and the judged pairs among them."""

    prompt: str
    answers: dict[str, int] = field(default_factory=dict)  # answer → its number
    pairs: list[tuple[int, int]] = field(default_factory=list)  # numbers of chosen and rejected
    weights: list[float] = field(default_factory=list)  # of the pairs
    judged: int = 0  # judgements; a tie is one, but gives two pairs

    def add(self, pair: Pair) -> None:
        """Its confidence is its weight, 1 if unknown. A tie counts half each way."""
        chosen = self.answers.setdefault(pair.chosen, len(self.answers))
        rejected = self.answers.setdefault(pair.rejected, len(self.answers))
        weight = 1.0 if pair.confidence is None else pair.confidence
        if pair.tie:
            self.pairs += [(chosen, rejected), (rejected, chosen)]
            self.weights += [weight / 2, weight / 2]
        else:
            self.pairs.append((chosen, rejected))
            self.weights.append(weight)
        self.judged += 1

    @property
    def texts(self) -> list[tuple[str, str]]:
        """(prompt, answer) of each answer."""
        return [(self.prompt, answer) for answer in self.answers]


def group_by_prompt(pairs: list[Pair]) -> list[Group]:
    """The pairs gathered by prompt; one that was judged several times counts as often."""
    groups: dict[str, Group] = {}
    for pair in pairs:
        text = pair.prompt.text
        groups.setdefault(text, Group(text)).add(pair)
    return list(groups.values())


def batches(groups: list[Group], seed: int) -> list[list[Group]]:
    """All groups in random batches of PROMPTS_PER_STEP, with prompts of like length together."""

    def length(group: Group) -> int:
        return len(group.prompt) + max(map(len, group.answers))

    rng = random.Random(seed)
    shuffled = rng.sample(groups, len(groups))
    ordered = []
    for window in in_parts(shuffled, 16 * PROMPTS_PER_STEP):
        ordered += sorted(window, key=length)
    parts = in_parts(ordered, PROMPTS_PER_STEP)
    rng.shuffle(parts)
    return parts


# --- the heads


def stack_states(states: States, groups: list[Group]) -> torch.Tensor:
    """(R, 3·H) states of all R answers of the groups, in order."""
    return torch.stack([states[text] for group in groups for text in group.texts])


def pairs_of(groups: list[Group], device="cpu") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(P,) places of the chosen and of the rejected answers in stack_states' rows, and weights.

    A prompt's weights sum to 1 / the number of groups; to less where confidences are below 1.
    """
    places, weights, first = [], [], 0
    for group in groups:
        places += [(first + chosen, first + rejected) for chosen, rejected in group.pairs]
        weights += [weight / group.judged / len(groups) for weight in group.weights]
        first += len(group.answers)
    chosen, rejected = torch.tensor(places, device=device).T
    return chosen, rejected, torch.tensor(weights, device=device)


def batch_loss(groups: list[Group], rewards: torch.Tensor) -> torch.Tensor:
    """The weighted mean loss of the groups' pairs.

    rewards: (R, m) of all answers of the groups, in order, by m heads, whose losses are averaged.
    """
    chosen, rejected, weights = pairs_of(groups, rewards.device)
    return (weights @ pairwise_loss(rewards[chosen], rewards[rejected])).mean()


def standardise_by(heads: Heads, states: States, groups: list[Group]) -> None:
    """Sets what the heads subtract and divide by to the mean and deviation of these states."""
    table = stack_states(states, groups)
    mean, std = table.mean(0), table.std(0) + 1e-3
    for standardise, *_ in heads:
        standardise.mean.copy_(mean)
        standardise.std.copy_(std)


def make_optimizer(heads: Heads, learning_rate: float, steps: int) -> tuple:
    """AdamW, and a schedule that lets the learning rate fall linearly to 0 over `steps` steps."""
    optimizer = torch.optim.AdamW(
        heads.parameters(), lr=learning_rate, weight_decay=0.1, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    return optimizer, schedule


def check_trained(heads: Heads, loss: float, learning_rate: float) -> None:
    """Raises RunError if the loss or a weight of the heads is no finite number."""
    if math.isfinite(loss) and all(weight.isfinite().all() for weight in heads.parameters()):
        return
    raise RunError(
        f"Training diverged: the loss is {loss:.3g} or a weight is not finite with "
        f"head_learning_rate={learning_rate:g}. Nothing was saved: take a smaller one, such as "
        "0.001."
    )


def fit_heads(
    heads: Heads,
    states: States,
    groups: list[Group],
    epochs: int,
    seed: int,
    learning_rate: float,
) -> None:
    """Trains heads as the loop in 03_reward_model does."""
    standardise_by(heads, states, groups)
    steps = epochs * len(in_parts(groups, PROMPTS_PER_STEP))
    optimizer, schedule = make_optimizer(heads, learning_rate, steps)
    heads.train()
    for epoch in range(epochs):
        for few in batches(groups, seed + epoch):
            loss = batch_loss(few, heads(stack_states(states, few)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    heads.eval()


@torch.no_grad()
def accuracy_of_heads(heads: Heads, states: States, groups: list[Group]) -> float:
    """The share of pairs that the heads' mean orders as labelled; equal rewards count half.

    NaN without pairs.
    """
    right = []
    for group in groups:
        rewards = heads(stack_states(states, [group])).mean(1).cpu()
        chosen, rejected = torch.tensor(group.pairs).T
        right += correct(rewards[chosen] - rewards[rejected]).tolist()
    return sum(right) / len(right) if right else float("nan")


def learning_curve(
    model: RewardModel,
    states: States,
    train: list[Group],
    heldout: list[Group],
    epochs: int,
    seed: int,
    learning_rate: float,
) -> list[dict]:
    """The held-out accuracy of heads that learn from fewer prompts; at last of the model's own."""

    def row(few: list[Group], heads: Heads) -> dict:
        judged = sum(group.judged for group in few)
        accuracy = accuracy_of_heads(heads, states, heldout)
        return {"prompts": len(few), "pairs": judged, "accuracy": accuracy}

    shuffled, rows = random.Random(seed).sample(train, len(train)), []
    for share in SHARES:
        few = shuffled[: max(round(share * len(shuffled)), 1)]
        heads = model.fresh_heads()
        fit_heads(heads, states, few, epochs, seed, learning_rate)
        rows.append(row(few, heads))
    return [*rows, row(train, model.heads)]
