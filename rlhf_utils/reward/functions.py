"""Rewards for PPO: whatever is called as reward(prompts=…, completions=…, **columns) → one score an answer (TRL's signature).

A reward is named in one line: `reward_model` (the one of 03), the folder or hub id of a sequence classifier, `module:function`,
or a weighted sum of these, such as `0.8*reward_model + 0.2*my_rewards:politeness`. Left out: rewards for single tokens.
"""

import contextlib
import hashlib
import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ..data.rows import in_parts
from ..errors import ModelError, SettingError
from ..files import digest
from ..models.load import load_from
from ..models.sampling import Samples
from ..stats import as_scores
from .model import load_reward_model

Reward = Callable[..., list[float]]


def score_samples(reward: Reward, samples: Samples, **columns) -> list[float]:
    """A reward's scores of sampled answers; one that has `score_samples` may go on from the states that sampling left."""
    if hasattr(reward, "score_samples"):
        return reward.score_samples(samples, **columns)
    return reward(prompts=samples.prompts, completions=samples.responses, **columns)


class ClassifierReward:
    """A sequence classifier with its own tokenizer and chat template; its one logit is the score, or the second's lead over the first.

    Raises ModelError for a model without a trained classification head, of more than two classes, or without a padding token.
    """

    def __init__(
        self, name: str, dtype: torch.dtype = torch.float32, device="cpu", batch_size: int = 16
    ):
        self.tokenizer, self.batch_size = load_from(AutoTokenizer, name), batch_size
        self.model, loaded = load_from(
            AutoModelForSequenceClassification, name, dtype=dtype, output_loading_info=True
        )
        self.model.to(device).eval()
        config = self.model.config
        if loaded["missing_keys"]:  # transformers would go on with a random head
            raise ModelError(
                f"{name!r} is no sequence classifier: it has no weights for {', '.join(sorted(loaded['missing_keys']))}."
            )
        if config.num_labels > 2:
            raise ModelError(
                f"{name!r} tells {config.num_labels} classes apart: a reward needs one logit, or two (bad, good)."
            )
        if config.pad_token_id is None:
            config.pad_token_id = self.tokenizer.pad_token_id
        if config.pad_token_id is None:
            raise ModelError(
                f"{name!r} has no padding token, so answers cannot be scored together: set pad_token_id in its config."
            )
        self.tokenizer.pad_token_id = config.pad_token_id
        # What is too long loses its beginning, never the answer's end; positions count from the left.
        self.tokenizer.truncation_side, self.tokenizer.padding_side = "left", "right"
        self.max_length = min(
            self.tokenizer.model_max_length, getattr(config, "max_position_embeddings", 1024), 1024
        )

    @torch.no_grad()
    def __call__(self, prompts: list[str], completions: list[str], **columns) -> list[float]:
        scores = []
        for few in in_parts(list(zip(prompts, completions)), self.batch_size):
            logits = self.model(**self.encode(*zip(*few)).to(self.model.device)).logits.float()
            scores += (
                logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
            ).tolist()
        return scores

    def encode(self, prompts: tuple[str, ...], completions: tuple[str, ...]):
        """The conversation under the model's own template; a pair of texts where it has none, as such classifiers are trained."""
        options = {
            "return_tensors": "pt",
            "padding": True,
            "truncation": True,
            "max_length": self.max_length,
        }
        if self.tokenizer.chat_template is None:
            return self.tokenizer(list(prompts), list(completions), **options)
        turns = [
            [{"role": "user", "content": p}, {"role": "assistant", "content": c}]
            for p, c in zip(prompts, completions)
        ]
        texts = self.tokenizer.apply_chat_template(turns, tokenize=False)
        return self.tokenizer(texts, add_special_tokens=False, **options)


@dataclass
class WeightedRewards:
    """The weighted sum of several rewards."""

    parts: list[tuple[float, str, Reward]]  # (weight, name, reward)

    def __call__(self, prompts: list[str], completions: list[str], **columns) -> list[float]:
        return self._sum(
            len(prompts), lambda reward: reward(prompts=prompts, completions=completions, **columns)
        )

    def score_samples(self, samples: Samples, **columns) -> list[float]:
        return self._sum(
            len(samples.prompts), lambda reward: score_samples(reward, samples, **columns)
        )

    def _sum(self, count: int, score: Callable[[Reward], list[float]]) -> list[float]:
        return sum(
            weight * as_scores(score(reward), count, f"The reward {name!r}")
            for weight, name, reward in self.parts
        ).tolist()


def load_reward(
    spec: str,
    trained: Callable[[], Path],
    dtype: torch.dtype = torch.float32,
    device="cpu",
    trunk_of=None,
) -> Reward:
    """The reward that `spec` names; `trained` gives the folder of `reward_model`, and is asked for only where that is named.

    trunk_of: the policy that will sample what is scored; a reward model made on the same π_SFT then shares its lower blocks.

    Raises SettingError for a term that cannot be read or imported, and ModelError for a model that is none.
    """
    parts = [
        (weight, name, _load_one(name, path, dtype, device, trunk_of))
        for weight, name, path in _terms(spec, trained)
    ]
    return parts[0][2] if len(parts) == 1 and parts[0][0] == 1 else WeightedRewards(parts)


def load_function(name: str) -> Reward:
    """The function that `module:function` names. Raises SettingError with what was given."""
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # whatever the user's module does while it is imported
        raise SettingError(
            f"reward={name!r} cannot be imported: {type(error).__name__}: {error}."
        ) from error
    if not callable(found):
        raise SettingError(f"reward={name!r} is no function but {type(found).__name__}.")
    return found


def digest_of(spec: str, trained: Callable[[], Path]) -> str:
    """SHA-256 of the folders and of the functions' files that `spec` names: with another one, the same name scores otherwise."""
    found = hashlib.sha256()
    for _, name, path in _terms(spec, trained):
        if ":" in name and not path.exists():
            with contextlib.suppress(
                TypeError, OSError
            ):  # what was not written in Python does not change
                path = Path(inspect.getfile(inspect.unwrap(load_function(name))))
        found.update((digest(path) if path.exists() else name).encode())
    return found.hexdigest()


def _terms(spec: str, trained: Callable[[], Path]) -> list[tuple[float, str, Path]]:
    """(weight, name, where that would be on disk) of each reward in the sum."""
    terms = []
    for term in spec.split(" + "):
        weight, _, name = term.strip().rpartition("*")
        if not name or not re.fullmatch(r"([+-]?\d+(\.\d*)?)?", weight.strip()):
            raise SettingError(
                f"reward={spec!r}: {term!r} is no reward; write for example '0.8*reward_model + 0.2*my_rewards:politeness'."
            )
        terms.append((float(weight or 1), name.strip()))
    return [
        (weight, name, Path(trained() if name == "reward_model" else name).expanduser())
        for weight, name in terms
    ]


def _load_one(name: str, path: Path, dtype: torch.dtype, device, trunk_of) -> Reward:
    if (path / "reward_config.json").is_file():
        return load_reward_model(path, dtype, device, trunk_of)
    if ":" in name and not path.exists():
        return load_function(name)
    return ClassifierReward(str(path) if path.is_dir() else name, dtype, device)
