"""Training the reward model: the pairwise loss, prompts in batches, the heads alone, and when to stop.

The loss is −log σ(r_chosen − r_rejected) (Bradley and Terry 1952; Stiennon 2020, arXiv 2009.01325), over all pairs of a prompt
in one step, as in Ouyang 2022 (arXiv 2203.02155), so that each response is encoded once. The heads learn first, on the states of
π_SFT, then with the adapters (Kumar 2022, arXiv 2202.10054): fresh heads would spoil what the backbone knows. Options of the loss
have TRL's names. Left out: the loop itself, which stands in the notebook.
"""

import random
from dataclasses import dataclass, field

import torch
from torch import nn

from ..data.rows import in_parts
from ..errors import SettingError
from ..fast.memory import release_freed_memory
from ..preferences.rubric import admits_unknown, refuses
from ..stats import correct
from .model import Heads, RewardModel, Standardise, States


def pairwise_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    margin: torch.Tensor | float = 0.0,
    label_smoothing: float = 0.0,
    center_rewards_coefficient: float = 0.0,
) -> torch.Tensor:
    """Losses −log σ(r_chosen − r_rejected) of pairs, in the shape given.

    margin: the lead that the chosen one should have (Touvron 2023, arXiv 2307.09288); label_smoothing: the chance that a label is
    wrong; center_rewards_coefficient: the price of (r_chosen + r_rejected)² (Eisenstein 2023, arXiv 2312.09244).

    Raises SettingError for a label_smoothing outside 0 to ½.
    """
    if not 0 <= label_smoothing < 0.5:
        raise SettingError(
            f"label_smoothing={label_smoothing} must be at least 0 and below 0.5, where labels would say nothing."
        )
    lead = chosen - rejected - margin
    loss = -nn.functional.logsigmoid(lead)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * nn.functional.logsigmoid(-lead)
    return loss + center_rewards_coefficient * (chosen + rejected) ** 2


@dataclass
class Group:
    """The responses to one prompt, each once, and its judged pairs as indices (chosen, rejected) into them."""

    prompt: str
    responses: list[str]
    pairs: list[tuple[int, int]]
    weights: list[float] = field(
        default_factory=list
    )  # of the pairs: how confident the annotator was, ½ each way for a tie; empty: 1
    gaps: list[float] = field(
        default_factory=list
    )  # the pairs' `margin` column, a difference in rank or rating; empty: 1
    judged: int = 0  # judgements, of which a tie gives two pairs; 0: as many as pairs


def group_by_prompt(rows: list[dict]) -> list[Group]:
    """Preference rows gathered by prompt; a pair that several annotators judged stays as often as it was judged.

    A row's `confidence` is its pairs' weight, `margin` its gap; a row marked `tie` counts half each way, without a gap.
    """
    groups: dict[str, Group] = {}
    for row in rows:
        group = groups.setdefault(row["prompt"], Group(row["prompt"], [], []))
        for text in (row["chosen"], row["rejected"]):
            if text not in group.responses:
                group.responses.append(text)
        pair = group.responses.index(row["chosen"]), group.responses.index(row["rejected"])
        weight, gap = (
            1.0 if row.get(name) is None else float(row[name]) for name in ("confidence", "margin")
        )
        tie = bool(row.get("tie"))
        group.pairs += [pair, pair[::-1]] if tie else [pair]
        group.weights += [weight / 2] * 2 if tie else [weight]
        group.gaps += [0.0] * 2 if tie else [gap]
        group.judged += 1
    return list(groups.values())


def pairs_of_demonstrations(rows: list[dict], weight: float) -> list[dict]:
    """Preference rows on when to decline: a demonstration that declines and the most similar one that does not, on the prompts of both, each over the other.

    Similar: by the words of the prompts (TF-IDF), so that the answers fit both prompts as well as may be. weight: what such a pair counts beside one that
    was judged. Empty where no demonstration declines, or all do.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    told = [
        row for row in rows if not admits_unknown(row["completion"])
    ]  # "I can't know" is neither
    declining, others = (
        [row for row in told if refuses(row["completion"]) == declines]
        for declines in (True, False)
    )
    if not declining or not others:
        return []
    words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+|[^\w\s]").fit(
        [row["prompt"] for row in rows]
    )
    asked, near = (words.transform([row["prompt"] for row in few]) for few in (declining, others))
    couples = [
        (row, others[nearest])
        for row, nearest in zip(declining, (asked @ near.T).toarray().argmax(1))
    ]
    return [
        {
            "prompt": right["prompt"],
            "chosen": right["completion"],
            "rejected": wrong["completion"],
            "confidence": weight,
        }
        for one, other in couples
        for right, wrong in ((one, other), (other, one))
    ]


def group_loss(model: RewardModel, groups: list[Group], **options) -> torch.Tensor:
    """The mean pairwise loss of a few prompts; every prompt weighs the same, however many pairs it has."""
    return loss_of_rewards(
        groups,
        model.cached(
            [g.prompt for g in groups for _ in g.responses],
            [r for g in groups for r in g.responses],
        ),
        **options,
    )


def add_gradients(
    model: RewardModel, groups: list[Group], prompts_at_once: int = 2, **options
) -> float:
    """Adds the gradients of `group_loss` and returns it; only `prompts_at_once` prompts' graph is held, so that memory depends on these."""
    total = 0.0
    for few in in_parts(groups, prompts_at_once):
        loss = group_loss(model, few, **options) * (len(few) / len(groups))
        loss.backward()
        total += loss.item()
    return total


def loss_of_rewards(
    groups: list[Group], rewards: torch.Tensor, margin: float = 0.0, **options
) -> torch.Tensor:
    """`group_loss` from the (R,) or (R, m) rewards of all responses of the groups, in order; of m heads, the mean of their losses.

    margin: the lead asked for at each step of a pair's gap; options: those of `pairwise_loss`.
    """
    losses = []
    for group, own in zip(
        groups, rewards.view(len(rewards), -1).split([len(g.responses) for g in groups])
    ):
        chosen, rejected = torch.tensor(group.pairs, device=own.device).T
        gaps, weights = (
            torch.tensor(values or [1.0] * len(group.pairs), device=own.device)[:, None]
            for values in (group.gaps, group.weights)
        )
        pairs = weights * pairwise_loss(own[chosen], own[rejected], margin * gaps, **options)
        losses.append(pairs.sum(0).mean() / (group.judged or len(group.pairs)))
    return torch.stack(losses).mean()


def batches(groups: list[Group], size: int, seed: int) -> list[list[Group]]:
    """All groups in random batches; those of one batch are of like length, so that little is padded."""
    rng = random.Random(seed)
    near = []
    for window in in_parts(rng.sample(groups, len(groups)), 16 * size):
        near += sorted(window, key=lambda g: len(g.prompt) + max(map(len, g.responses)))
    parts = in_parts(near, size)
    rng.shuffle(parts)
    return parts


@torch.no_grad()
def read_states(model: RewardModel, groups: list[Group], track=iter) -> States:
    """What the heads read of every response, before the adapters have learned: the states of π_SFT, which the model remembers.

    Where the model may keep trunk states for the adapters, these are computed on the way; else what answers share is read once.

    track: wraps the loop over batches of texts, to show progress. Raises SettingError once the adapters have learned something.
    """
    if model.adapters_learned:
        raise SettingError(
            "The adapters have learned already, so these would not be the states of π_SFT: make the model anew first."
        )
    texts, states = list(dict.fromkeys((g.prompt, r) for g in groups for r in g.responses)), {}
    if not model.cache_bytes:
        states = model.read_texts(texts, track=track)
    else:
        texts = sorted(
            texts, key=lambda text: -len(text[0]) - len(text[1])
        )  # the longest first: what they leave of memory holds the others
        for few in track(in_parts(texts, 32)):
            states |= zip(few, model.cached_states(*zip(*few)))
        release_freed_memory()
    model.first_states = states
    return states


def fit_heads(
    heads: Heads,
    states: States,
    groups: list[Group],
    epochs: int,
    seed: int,
    learning_rate: float = 1e-3,
    prompts_per_step: int = 16,
    on_epoch=None,
    **options,
) -> None:
    """Trains the heads alone on states that are computed once, and sets by what they are standardised; seconds for an epoch.

    on_epoch: is called after each epoch, with the heads in evaluation mode, with the number of epochs and the losses of all steps so far.
    """
    table = torch.stack([states[g.prompt, r] for g in groups for r in g.responses])
    for layer in heads.modules():
        if isinstance(layer, Standardise):
            read = table[:, : len(layer.mean)]  # all but the length
            layer.mean, layer.std = read.mean(0), read.std(0) + 1e-3
    optimizer = torch.optim.AdamW(
        heads.parameters(), lr=learning_rate, weight_decay=0.1, fused=True
    )
    losses, total = [], epochs * -(-len(groups) // prompts_per_step)
    for epoch in range(epochs):
        heads.train()
        for few in batches(groups, prompts_per_step, seed + epoch):
            optimizer.param_groups[0]["lr"] = learning_rate * (1 - len(losses) / total)
            few_states = torch.stack([states[g.prompt, r] for g in few for r in g.responses])
            optimizer.zero_grad()
            loss = loss_of_rewards(few, heads(few_states), **options)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        heads.eval()
        if on_epoch:
            on_epoch(epoch + 1, losses)
    optimizer.zero_grad()


@torch.no_grad()
def accuracy_of_heads(heads: Heads, states: States, groups: list[Group]) -> float:
    """The share of pairs that the mean of the heads orders as they were labelled, equal rewards counting half."""
    right = []
    for group in groups:
        rewards = (
            heads(torch.stack([states[group.prompt, r] for r in group.responses])).mean(1).cpu()
        )
        chosen, rejected = torch.tensor(group.pairs).T
        right += correct(rewards[chosen] - rewards[rejected]).tolist()
    return sum(right) / len(right)


def learning_curve(
    model: RewardModel,
    states: States,
    train: list[Group],
    heldout: list[Group],
    shares: tuple[float, ...],
    epochs: int,
    seed: int,
    **fitting,
) -> list[dict]:
    """Held-out accuracy of fresh heads, on the states of π_SFT, that learn from a share of the prompts: how much more labels would bring.

    fitting: the further arguments of `fit_heads`.
    """
    rows, order = [], random.Random(seed).sample(train, len(train))
    for share in shares:
        few = order[: max(round(share * len(order)), 1)]
        heads = model.fresh_heads()
        fit_heads(heads, states, few, epochs, seed, **fitting)
        rows.append(
            {
                "prompts": len(few),
                "pairs": sum(len(g.pairs) for g in few),
                "accuracy": accuracy_of_heads(heads, states, heldout),
            }
        )
    return rows


class EarlyStopping:
    """Keeps the weights of the lowest loss on validation prompts. `patience`: how many checks without a new lowest one end training."""

    def __init__(self, parameters: list[nn.Parameter], patience: int = 1):
        if patience < 1:
            raise SettingError(
                f"early_stopping_patience={patience} must be at least 1: without a check training cannot end early."
            )
        self.parameters, self.patience, self.best, self.since = (
            parameters,
            patience,
            float("inf"),
            0,
        )
        self.kept: list[torch.Tensor] = []

    def __call__(self, loss: float) -> bool:
        """Whether to stop, after a check that gave this loss. A loss that is not a number is never the best."""
        self.since += 1
        if loss < self.best:
            self.best, self.since, self.kept = (
                loss,
                0,
                [p.detach().clone() for p in self.parameters],
            )
        return self.since >= self.patience

    @torch.no_grad()
    def restore(self) -> None:
        """Puts the best weights back."""
        for parameter, kept in zip(self.parameters, self.kept):
            parameter.copy_(kept)


def validation_loss(model: RewardModel, groups: list[Group]) -> float:
    """The plain pairwise loss without dropout, in nats a pair (0.69 is guessing)."""
    rewards = model.raw(
        [g.prompt for g in groups for _ in g.responses], [r for g in groups for r in g.responses]
    )
    return loss_of_rewards(groups, rewards).item()
