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

from ..errors import SettingError
from ..files import digest
from .classifier import ClassifierReward
from .model import load_reward_model

Reward = Callable[..., list[float]]


def load_reward(
    name: str,
    trained: Callable[[], Path],
    dtype: torch.dtype = torch.float32,
    device="cpu",
) -> Reward:
    """The reward of this name. trained: gives the folder of `reward_model`, if that is asked for.

    Raises SettingError for a name that is no reward, and ModelError for a model that cannot be one.
    """
    found = _find(name, trained)
    if callable(found):
        return found
    if (found / "reward_config.json").is_file():
        return load_reward_model(found, dtype, device)
    return ClassifierReward(str(found) if found.is_dir() else name, dtype, device)


def digest_of(name: str, trained: Callable[[], Path]) -> str:
    """SHA-256 of the folder or the function's file; the name itself if neither is on this disk."""
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
    if " + " in name or "*" in name:
        raise SettingError(f"reward={name!r} is a sum: add rewards up in a function of your own.")
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
