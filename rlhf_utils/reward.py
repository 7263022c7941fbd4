"""The reward model: a transformer without its language-model head, a small head on the last token, and a pairwise loss.

Whether an answer is good depends on what was asked ("I can't help with that."), so the head may also see the states of the token
before the answer and of the answer's third token, and weigh the one by the other in its hidden layer. The head learns first, on the
states of π_SFT, then head and backbone together (Kumar 2022, arXiv 2202.10054): a fresh head would spoil what the backbone knows.

The loss is −log σ(r_chosen − r_rejected) (Bradley and Terry 1952; Stiennon 2020, arXiv 2009.01325), over all pairs of a prompt
in one step, as in Ouyang 2022 (arXiv 2203.02155), so that each response is encoded once. Left out: ensembles.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel

from . import models
from .data import chat_prompt
from .errors import ModelError, SettingError
from .trunk import Trunk


def last_token_index(attention_mask: torch.Tensor) -> torch.Tensor:
    """(B,) index of the last non-padding token, for padding on either side; 0 for a row of padding only."""
    length = attention_mask.shape[1]
    last = length - 1 - attention_mask.long().flip(1).argmax(1)
    return torch.where(attention_mask.bool().any(1), last, torch.zeros_like(last))


class Standardise(nn.Module):
    """x less the mean, over the standard deviation, of the states that the head learns from; does nothing until these are known."""

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


def make_head(hidden_size: int, kind: str, dropout: float = 0.1, tokens: int = 1) -> nn.Module:
    """"mlp": tokens·hidden, standardised → hidden, ReLU, → 1, with dropout before both layers; "linear": hidden → 1.

    The last layer starts with std 1/√(d+1) and bias 0.

    Raises SettingError for another kind, and for a linear head over several tokens.
    """
    if kind not in ("mlp", "linear"):
        raise SettingError(f"head={kind!r} is unknown: give 'mlp' or 'linear'.")
    if kind == "linear" and tokens > 1:
        raise SettingError("head='linear' cannot weigh the answer by the prompt: give read_prompt=False, or head='mlp'.")
    last = nn.Linear(hidden_size, 1)
    nn.init.normal_(last.weight, std=1 / (hidden_size + 1) ** 0.5)
    nn.init.zeros_(last.bias)
    if kind == "linear":
        return last
    size = tokens * hidden_size
    return nn.Sequential(Standardise(size), nn.Dropout(dropout), nn.Linear(size, hidden_size), nn.ReLU(), nn.Dropout(dropout), last)


class RewardModel(nn.Module):
    """Scores sequences; `mean` and `std` of the raw reward on π_SFT samples make `score` read in standard deviations."""

    def __init__(self, backbone: nn.Module, tokenizer, head: str = "mlp", dropout: float = 0.1, max_length: int = 512, question: str = "",
                 read_prompt: bool = False):
        super().__init__()
        self.read_prompt = read_prompt  # whether the head also sees the states before the answer and at its third token
        self.question = question  # asked after the answer; the reward is read where the reply to it would begin
        self.backbone, self.tokenizer, self.kind, self.max_length = backbone, tokenizer, head, max_length
        self.head = make_head(backbone.config.hidden_size, head, dropout, 3 if read_prompt else 1).to(next(backbone.parameters()).device)
        self.mean, self.std = 0.0, 1.0
        self.cache: dict[tuple[str, str], tuple[torch.Tensor, int]] = {}  # (prompt, completion) → (L, H) trunk states, tokens after the prompt

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, after_prompt: torch.Tensor) -> torch.Tensor:
        """(B,) float32 raw rewards of (B, L) token ids, read at the last non-padding token.

        after_prompt: (B,) how many tokens before that the prompt ends; used with `read_prompt` only.
        """
        trunk = Trunk(self.backbone)
        return self.read(trunk.upper(trunk.lower(input_ids, attention_mask), attention_mask), attention_mask, after_prompt)

    def read(self, hidden: torch.Tensor, attention_mask: torch.Tensor, after_prompt: torch.Tensor) -> torch.Tensor:
        """(B,) raw rewards from (B, L, H) last hidden states."""
        return self.head(self.states(hidden, attention_mask, after_prompt))[:, 0]

    def states(self, hidden: torch.Tensor, attention_mask: torch.Tensor, after_prompt: torch.Tensor) -> torch.Tensor:
        """(B, H) or, with `read_prompt`, (B, 3H) float32 states that the head reads."""
        rows, last = torch.arange(len(hidden), device=hidden.device), last_token_index(attention_mask)
        places = [last]
        if self.read_prompt:  # a prompt whose end was cut off is read at the first token left
            before = torch.maximum(last - after_prompt, attention_mask.long().argmax(1))
            places += [before, torch.minimum(before + 3, last)]
        return torch.cat([hidden[rows, place] for place in places], dim=-1).float()

    def encode(self, prompts: list[str], completions: list[str]) -> dict[str, torch.Tensor]:
        """The arguments of `forward` for prompt, completion, end-of-sequence and question; what is too long loses its beginning."""
        if self.question:
            texts = [chat_prompt(self.tokenizer, p, c, self.question) for p, c in zip(prompts, completions)]
        else:
            texts = [chat_prompt(self.tokenizer, p) + c + self.tokenizer.eos_token for p, c in zip(prompts, completions)]
        whole = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        asked = self.tokenizer([chat_prompt(self.tokenizer, p) for p in prompts], add_special_tokens=False)["input_ids"]
        batch = self.tokenizer.pad({"input_ids": [ids[-self.max_length :] for ids in whole]}, return_tensors="pt").to(self.head_device)
        after = torch.tensor([len(ids) - len(before) for ids, before in zip(whole, asked)], device=self.head_device)
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "after_prompt": after}

    def cached(self, prompts: list[str], completions: list[str]) -> torch.Tensor:
        """(B,) raw rewards with gradients, from trunk states that are computed once."""
        return self.read(*self.cached_hidden(prompts, completions))

    def cached_hidden(self, prompts: list[str], completions: list[str]) -> tuple[torch.Tensor, ...]:
        """The arguments of `read`, with gradients; a text's trunk states are computed at its first visit and kept, in the trunk's dtype."""
        trunk = Trunk(self.backbone)
        texts = list(zip(prompts, completions))
        if fresh := [text for text in dict.fromkeys(texts) if text not in self.cache]:
            batch = self.encode([p for p, _ in fresh], [c for _, c in fresh])
            lower = trunk.lower(batch["input_ids"], batch["attention_mask"])
            for text, states, mask, after in zip(fresh, lower, batch["attention_mask"].bool(), batch["after_prompt"].tolist()):
                self.cache[text] = states[mask].clone(), after
        rows, after = zip(*(self.cache[text] for text in texts))
        states = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.arange(states.shape[1], device=states.device) < torch.tensor([[len(row)] for row in rows], device=states.device)
        return trunk.upper(states, mask), mask, torch.tensor(after, device=states.device)

    def train(self, mode: bool = True):
        """Only the head's dropout follows `mode`: the backbone's would make what is cached of it one noisy draw for all epochs."""
        super().train(mode)
        self.backbone.eval()
        return self

    @property
    def head_device(self) -> torch.device:
        return next(self.head.parameters()).device

    @torch.no_grad()
    def raw(self, prompts: list[str], completions: list[str], batch_size: int = 32) -> torch.Tensor:
        """(B,) raw rewards on the CPU, computed without dropout over batches of like length; equal texts are computed once."""
        was_training = self.training
        self.eval()
        texts = sorted(dict.fromkeys(zip(prompts, completions)), key=lambda text: len(text[0]) + len(text[1]))
        found: dict[tuple[str, str], float] = {}
        for start in range(0, len(texts), batch_size):
            few = texts[start : start + batch_size]
            asked, given = [p for p, _ in few], [c for _, c in few]
            known = all(text in self.cache for text in few)
            found |= zip(few, (self.cached(asked, given) if known else self(**self.encode(asked, given))).tolist())
        self.train(was_training)
        return torch.tensor([found[text] for text in zip(prompts, completions)])

    def score(self, prompts: list[str], completions: list[str], **columns) -> list[float]:
        """Normalised rewards, with the signature of TRL's reward functions."""
        return ((self.raw(prompts, completions) - self.mean) / self.std).tolist()

    def normalise(self, prompts: list[str], completions: list[str]) -> None:
        """Sets `mean` and `std` so that `score` has mean 0 and standard deviation 1 on these samples of π_SFT."""
        raw = self.raw(prompts, completions)
        self.mean, self.std = raw.mean().item(), max(raw.std().item(), 1e-6)

    def save(self, directory: Path) -> None:
        """Writes the backbone (adapters folded in) as a plain transformers directory, and the head and its settings beside it."""
        models.save_merged(self.backbone, self.tokenizer, directory)
        self.cache.clear()  # folding in moved the cut that the states belong to
        save_file(self.head.state_dict(), Path(directory) / "head.safetensors")
        settings = {"head": self.kind, "mean": self.mean, "std": self.std, "max_length": self.max_length, "question": self.question,
                    "read_prompt": self.read_prompt}
        (Path(directory) / "reward_config.json").write_text(json.dumps(settings, indent=1))


def load_reward_model(directory: Path, dtype: torch.dtype = torch.float32, device="cpu") -> RewardModel:
    """A saved reward model, in evaluation mode."""
    settings = json.loads((Path(directory) / "reward_config.json").read_text())
    backbone = models.load_model(str(directory), dtype, device, AutoModel)
    model = RewardModel(backbone, models.load_tokenizer(str(directory)), settings["head"], max_length=settings["max_length"],
                        question=settings.get("question", ""), read_prompt=settings.get("read_prompt", False))
    try:
        model.head.load_state_dict(load_file(Path(directory) / "head.safetensors"))
    except RuntimeError:
        raise ModelError(f"The head in {Path(directory).name}/ is not of the shape that this version makes: run 03_reward_model again.") from None
    model.mean, model.std = settings["mean"], settings["std"]
    return model.eval()


def pairwise_loss(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """(N,) losses −log σ(r_chosen − r_rejected)."""
    return -nn.functional.logsigmoid(chosen - rejected)


@dataclass
class Group:
    """The responses to one prompt, each once, and its judged pairs as indices (chosen, rejected) into them."""

    prompt: str
    responses: list[str]
    pairs: list[tuple[int, int]]


def group_by_prompt(pairs: list[dict]) -> list[Group]:
    """Preference rows gathered by prompt; a pair that several annotators judged stays as often as it was judged."""
    groups: dict[str, Group] = {}
    for row in pairs:
        group = groups.setdefault(row["prompt"], Group(row["prompt"], [], []))
        for text in (row["chosen"], row["rejected"]):
            if text not in group.responses:
                group.responses.append(text)
        group.pairs.append((group.responses.index(row["chosen"]), group.responses.index(row["rejected"])))
    return list(groups.values())


def group_loss(model: RewardModel, groups: list[Group]) -> torch.Tensor:
    """The mean pairwise loss of a few prompts; every prompt weighs the same, however many pairs it has."""
    return loss_of_rewards(groups, model.cached([g.prompt for g in groups for _ in g.responses], [r for g in groups for r in g.responses]))


def loss_of_rewards(groups: list[Group], rewards: torch.Tensor) -> torch.Tensor:
    """`group_loss` from the (R,) rewards of all responses of the groups, in order."""
    losses = []
    for group, own in zip(groups, rewards.split([len(g.responses) for g in groups])):
        chosen, rejected = torch.tensor(group.pairs, device=own.device).T
        losses.append(pairwise_loss(own[chosen], own[rejected]).mean())
    return torch.stack(losses).mean()


def fit_head(model: RewardModel, groups: list[Group], epochs: int, seed: int, learning_rate: float = 1e-3, weight_decay: float = 0.1,
             track=iter) -> None:
    """Trains the head alone on states that are computed once, and sets by what they are standardised; seconds for an epoch.

    To be called before the backbone has learned anything, so that the states are those of π_SFT.
    track: wraps the loop over the texts, which takes most of the time, to show progress.
    """
    texts = sorted(dict.fromkeys((g.prompt, r) for g in groups for r in g.responses), key=lambda text: len(text[0]) + len(text[1]))
    states: dict[tuple[str, str], torch.Tensor] = {}
    with torch.no_grad():
        for start in track(range(0, len(texts), 32)):
            few = texts[start : start + 32]
            states |= zip(few, model.states(*model.cached_hidden([p for p, _ in few], [c for _, c in few])))
    if isinstance(model.head, nn.Sequential):
        table = torch.stack(list(states.values()))
        model.head[0].mean, model.head[0].std = table.mean(0), table.std(0) + 1e-3
    optimizer = torch.optim.AdamW(model.head.parameters(), lr=learning_rate, weight_decay=weight_decay)
    steps = [few for epoch in range(epochs) for few in batches(groups, 16, seed + epoch)]
    model.train()
    for number, few in enumerate(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - number / len(steps))
        rewards = model.head(torch.stack([states[g.prompt, r] for g in few for r in g.responses]))[:, 0]
        optimizer.zero_grad()
        loss_of_rewards(few, rewards).backward()
        optimizer.step()
    optimizer.zero_grad()


def batches(groups: list[Group], size: int, seed: int) -> list[list[Group]]:
    """All groups in random batches; those of one batch are of like length, so that little is padded."""
    rng = random.Random(seed)
    shuffled, near, window = rng.sample(groups, len(groups)), [], 16 * size
    for start in range(0, len(groups), window):
        near += sorted(shuffled[start : start + window], key=lambda g: len(g.prompt) + max(map(len, g.responses)))
    parts = [near[start : start + size] for start in range(0, len(near), size)]
    rng.shuffle(parts)
    return parts


def pair_rewards(model: RewardModel, pairs: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) raw rewards of the chosen and (N,) of the rejected answers of preference rows; each different answer is read once."""
    both = model.raw([row["prompt"] for row in pairs] * 2, [row[side] for side in ("chosen", "rejected") for row in pairs])
    return both[: len(pairs)], both[len(pairs) :]


def margins(model: RewardModel, pairs: list[dict]) -> torch.Tensor:
    """(N,) r_chosen − r_rejected of preference rows; positive where the model agrees with the label."""
    chosen, rejected = pair_rewards(model, pairs)
    return chosen - rejected
