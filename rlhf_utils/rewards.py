"""Rewards for PPO: whatever is called as reward(prompts=…, completions=…, **columns) → one score an answer (TRL's signature).

A reward is named in one line: `reward_model` (the one of 03), the folder or hub id of a sequence classifier, `module:function`,
or a weighted sum of these, such as `0.8*reward_model + 0.2*my_rewards:politeness`. Left out: rewards for single tokens.
"""

import re
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from . import models
from .annotators import load_function
from .errors import ModelError
from .reward import load_reward_model

Reward = Callable[..., list[float]]


class ClassifierReward:
    """A sequence classifier with its own tokenizer and chat template; its one logit is the score, or the second's lead over the first."""

    def __init__(self, name: str, dtype: torch.dtype = torch.float32, device="cpu", batch_size: int = 16, max_length: int = 1024):
        self.tokenizer = models.load_from(AutoTokenizer, name)
        self.model = models.load_model(name, dtype, device, AutoModelForSequenceClassification)
        self.batch_size, self.max_length = batch_size, max_length
        if self.model.config.num_labels not in (1, 2):
            raise ModelError(f"{name!r} tells {self.model.config.num_labels} classes apart: a reward needs one logit, or two (bad, good).")
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        self.model.config.pad_token_id = self.tokenizer.pad_token_id

    @torch.no_grad()
    def __call__(self, prompts: list[str], completions: list[str], **columns) -> list[float]:
        scores = []
        for start in range(0, len(prompts), self.batch_size):
            batch = self.encode(prompts[start : start + self.batch_size], completions[start : start + self.batch_size])
            logits = self.model(**batch.to(self.model.device)).logits.float()
            scores += (logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]).tolist()
        return scores

    def encode(self, prompts: list[str], completions: list[str]):
        options = {"return_tensors": "pt", "padding": True, "truncation": True, "max_length": self.max_length}
        if self.tokenizer.chat_template is None:  # a pair of texts, as classifiers without a template are trained
            return self.tokenizer(prompts, completions, **options)
        turns = [[{"role": "user", "content": p}, {"role": "assistant", "content": c}] for p, c in zip(prompts, completions)]
        texts = self.tokenizer.apply_chat_template(turns, tokenize=False)
        return self.tokenizer(texts, add_special_tokens=False, **options)


class WeightedRewards:
    """The weighted sum of several rewards."""

    def __init__(self, parts: list[tuple[float, Reward]]):
        self.parts = parts

    def __call__(self, **columns) -> list[float]:
        found = [[weight * score for score in reward(**columns)] for weight, reward in self.parts]
        return [sum(scores) for scores in zip(*found, strict=True)]


def load_reward(spec: str, reward_dir: Path, dtype: torch.dtype = torch.float32, device="cpu") -> Reward:
    """The reward that `spec` names; `reward_dir` is what `reward_model` stands for. Raises ModelError or ValueError with the part at fault."""
    parts = []
    for term in spec.split(" + "):
        weight, _, name = term.strip().rpartition("*")
        if not name or not re.fullmatch(r"([+-]?\d+(\.\d*)?)?", weight.strip()):
            raise ValueError(f"reward={spec!r}: {term!r} is no reward; write for example '0.8*reward_model + 0.2*my_rewards:politeness'.")
        parts.append((float(weight or 1), _load_one(name.strip(), reward_dir, dtype, device)))
    return parts[0][1] if len(parts) == 1 and parts[0][0] == 1 else WeightedRewards(parts)


def _load_one(name: str, reward_dir: Path, dtype: torch.dtype, device) -> Reward:
    folder = Path(reward_dir if name == "reward_model" else name).expanduser()
    if (folder / "reward_config.json").is_file():
        return load_reward_model(folder, dtype, device).score
    if ":" in name and not folder.exists():
        return load_function("reward", name)
    return ClassifierReward(str(folder) if folder.is_dir() else name, dtype, device)
