"""Name → reward: a callable reward(prompts=…, completions=…, **columns) → one score an answer.

That is the signature of TRL's reward functions. A reward has a name: `reward_model` (the one of
03), the folder or hub id of a sequence classifier, or `module:function`.
Left out: rewards for single tokens.
"""

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ..data.rows import in_parts
from ..errors import ModelError, SettingError
from ..files import digest
from ..models.load import load_from
from .model import load_reward_model

Reward = Callable[..., list[float]]

LONGEST = 1024  # tokens of prompt and answer that a classifier reads
TEXTS_PER_PASS = 16


class ClassifierReward:
    """A sequence classifier with its own tokenizer and chat template.

    Its one logit is the score; of two logits, the second (good) less the first (bad).
    """

    def __init__(self, name: str, dtype: torch.dtype = torch.float32, device="cpu"):
        self.tokenizer = load_from(AutoTokenizer, name)
        self.model, loaded = load_from(
            AutoModelForSequenceClassification, name, dtype=dtype, output_loading_info=True
        )
        self.model.to(device).eval()
        config = self.model.config
        if config.pad_token_id is None:
            config.pad_token_id = self.tokenizer.pad_token_id
        _check_classifier(name, config, loaded["missing_keys"])
        self.tokenizer.pad_token_id = config.pad_token_id
        self.tokenizer.padding_side = "right"  # positions count from the left
        positions = getattr(config, "max_position_embeddings", LONGEST)
        self.max_length = min(self.tokenizer.model_max_length, positions, LONGEST)

    @torch.no_grad()
    def __call__(self, prompts: list[str], completions: list[str], **columns) -> list[float]:
        scores = []
        for few in in_parts(list(zip(prompts, completions)), TEXTS_PER_PASS):
            encoded = encode_conversations(
                self.tokenizer, *zip(*few), self.max_length, padding=True, return_tensors="pt"
            )
            logits = self.model(**encoded.to(self.model.device)).logits.float()
            bad = logits[:, 0] if logits.shape[1] == 2 else 0
            scores += (logits[:, -1] - bad).tolist()
        return scores


def _check_classifier(name: str, config, missing_keys) -> None:
    if missing_keys:  # transformers would go on with a random head
        raise ModelError(
            f"{name!r} is no sequence classifier: it has no weights for "
            f"{', '.join(sorted(missing_keys))}."
        )
    if config.num_labels > 2:
        raise ModelError(
            f"{name!r} tells {config.num_labels} classes apart: a reward needs one logit, or two "
            "(bad, good)."
        )
    if config.pad_token_id is None:
        raise ModelError(
            f"{name!r} has no padding token, so answers cannot be scored together: set "
            "pad_token_id in its config."
        )


def encode_conversations(
    tokenizer, prompts: list[str], answers: list[str], max_length: int, **options
):
    """Each prompt and answer under the tokenizer's chat template; without one, as a pair of texts.

    What is longer than `max_length` tokens loses its beginning, never the answer's end.
    """
    tokenizer.truncation_side = "left"
    options |= {"truncation": True, "max_length": max_length}
    if tokenizer.chat_template is None:
        return tokenizer(list(prompts), list(answers), **options)
    conversations = []
    for prompt, answer in zip(prompts, answers):
        asked = {"role": "user", "content": prompt}
        conversations.append([asked, {"role": "assistant", "content": answer}])
    texts = tokenizer.apply_chat_template(conversations, tokenize=False)
    return tokenizer(texts, add_special_tokens=False, **options)


# --- from a name


def load_reward(
    name: str,
    trained: Callable[[], Path],
    dtype: torch.dtype = torch.float32,
    device="cpu",
) -> Reward:
    """The reward of this name. trained: gives the folder of `reward_model`, if that is asked for.

    Raises SettingError for a name that cannot be imported, and ModelError for a model that is
    missing, has no trained classification head, more than two classes or no padding token.
    """
    found = _find(name, trained)
    if callable(found):
        return found
    if (found / "reward_config.json").is_file():
        return load_reward_model(found, dtype, device)
    return ClassifierReward(str(found) if found.is_dir() else name, dtype, device)


def digest_of(name: str, trained: Callable[[], Path]) -> str:
    """SHA-256 of the folder or of the function's file, because what is there may change.

    What is not on this disk is known by its name alone.
    """
    found = _find(name, trained)
    if callable(found):
        try:
            found = Path(inspect.getfile(inspect.unwrap(found)))
        except (TypeError, OSError):  # not written in Python
            return name
    return digest(found) if found.exists() else name


def _find(name: str, trained: Callable[[], Path]) -> Path | Reward:
    """The function of this name, or where the model would be on disk."""
    if not name.strip():
        raise SettingError(
            f"reward={name!r} is no reward: give reward_model, the folder or hub id of a "
            "classifier, or module:function."
        )
    path = Path(trained() if name == "reward_model" else name).expanduser()
    return _function(name) if ":" in name and not path.exists() else path


def _function(name: str) -> Reward:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # importing runs the user's module, which may do anything
        raise SettingError(
            f"reward={name!r} cannot be imported: {type(error).__name__}: {error}."
        ) from error
    if not callable(found):
        raise SettingError(f"reward={name!r} is no function but {type(found).__name__}.")
    return found
