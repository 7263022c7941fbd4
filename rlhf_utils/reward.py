"""The reward model: a transformer without its language-model head, a small head on the last token, and a pairwise loss.

Whether an answer is good depends on what was asked ("I can't help with that."), so the head may also see the state of the token
before the answer and weigh the one by the other in its hidden layer.

The loss is −log σ(r_chosen − r_rejected) (Bradley and Terry 1952; Stiennon 2020, arXiv 2009.01325), over all pairs of a prompt
in one step, as in Ouyang 2022 (arXiv 2203.02155), so that each response is encoded once. Left out: ensembles.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel

from . import models
from .data import chat_prompt
from .errors import SettingError
from .trunk import Trunk


def last_token_index(attention_mask: torch.Tensor) -> torch.Tensor:
    """(B,) index of the last non-padding token, for padding on either side; 0 for a row of padding only."""
    length = attention_mask.shape[1]
    last = length - 1 - attention_mask.long().flip(1).argmax(1)
    return torch.where(attention_mask.bool().any(1), last, torch.zeros_like(last))


def make_head(hidden_size: int, kind: str, dropout: float = 0.1, tokens: int = 1) -> nn.Module:
    """"mlp": tokens·hidden → hidden, ReLU, dropout, → 1; "linear": hidden → 1. The last layer starts with std 1/√(d+1) and bias 0.

    Raises SettingError for another kind, and for a linear head over several tokens.
    """
    if kind not in ("mlp", "linear"):
        raise SettingError(f"head={kind!r} is unknown: give 'mlp' or 'linear'.")
    if kind == "linear" and tokens > 1:
        raise SettingError("head='linear' cannot weigh the answer by the prompt: give read_prompt=False, or head='mlp'.")
    last = nn.Linear(hidden_size, 1)
    nn.init.normal_(last.weight, std=1 / (hidden_size + 1) ** 0.5)
    nn.init.zeros_(last.bias)
    return last if kind == "linear" else nn.Sequential(nn.Linear(tokens * hidden_size, hidden_size), nn.ReLU(), nn.Dropout(dropout), last)


class RewardModel(nn.Module):
    """Scores sequences; `mean` and `std` of the raw reward on π_SFT samples make `score` read in standard deviations."""

    def __init__(self, backbone: nn.Module, tokenizer, head: str = "mlp", dropout: float = 0.1, max_length: int = 512, question: str = "",
                 read_prompt: bool = False):
        super().__init__()
        self.read_prompt = read_prompt  # whether the head also sees the state before the answer
        self.question = question  # asked after the answer; the reward is read where the reply to it would begin
        self.backbone, self.tokenizer, self.kind, self.max_length = backbone, tokenizer, head, max_length
        self.head = make_head(backbone.config.hidden_size, head, dropout, 1 + read_prompt).to(next(backbone.parameters()).device)
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
        rows, last = torch.arange(len(hidden), device=hidden.device), last_token_index(attention_mask)
        states = hidden[rows, last]
        if self.read_prompt:  # a prompt whose end was cut off is read at the first token left
            first = attention_mask.long().argmax(1)
            states = torch.cat([states, hidden[rows, torch.maximum(last - after_prompt, first)]], dim=-1)
        return self.head(states.float())[:, 0]

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
        """(B,) raw rewards with gradients; a text's trunk states are computed at its first visit and kept, in the trunk's dtype."""
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
        return self.read(trunk.upper(states, mask), mask, torch.tensor(after, device=states.device))

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
    model.head.load_state_dict(load_file(Path(directory) / "head.safetensors"))
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


def group_rewards(model: RewardModel, groups: list[Group]) -> list[torch.Tensor]:
    """Raw rewards of every group's responses from one pass over all of them."""
    prompts = [g.prompt for g in groups for _ in g.responses]
    rewards = model.cached(prompts, [r for g in groups for r in g.responses])
    return list(rewards.split([len(g.responses) for g in groups]))


def group_loss(model: RewardModel, groups: list[Group]) -> torch.Tensor:
    """The mean pairwise loss of a few prompts; every prompt weighs the same, however many pairs it has."""
    losses = []
    for group, rewards in zip(groups, group_rewards(model, groups)):
        chosen, rejected = torch.tensor(group.pairs, device=rewards.device).T
        losses.append(pairwise_loss(rewards[chosen], rewards[rejected]).mean())
    return torch.stack(losses).mean()


def pair_rewards(model: RewardModel, pairs: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) raw rewards of the chosen and (N,) of the rejected answers of preference rows; each different answer is read once."""
    both = model.raw([row["prompt"] for row in pairs] * 2, [row[side] for side in ("chosen", "rejected") for row in pairs])
    return both[: len(pairs)], both[len(pairs) :]


def margins(model: RewardModel, pairs: list[dict]) -> torch.Tensor:
    """(N,) r_chosen − r_rejected of preference rows; positive where the model agrees with the label."""
    chosen, rejected = pair_rewards(model, pairs)
    return chosen - rejected
