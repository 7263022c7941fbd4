"""Name → reward: a callable reward(prompts=…, completions=…, **columns) → one score an answer.

That is the signature of TRL's reward functions. A reward has a name: `reward_model` (the one of
03), the folder or hub id of a sequence classifier, with `#LABEL` for the label that is paid for, or
`module:function`, whose module may be a file `my_rewards.py`.
Left out: rewards for single tokens.
"""

import importlib
import importlib.util
import operator
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path

import torch

from ..errors import SettingError
from ..files import digest
from .classifier import ClassifierReward
from .labels import describe_classifier
from .model import load_reward_model
from .wrapped import RewardFunction, TimeUp, in_words, last_line, source_of, time_limit

Reward = Callable[..., list[float]]

IMPORT_LIMIT_S = 300
ROOT = Path(__file__).resolve().parents[2]  # the project's, if it is not installed elsewhere
_imported: dict[Path, tuple[str, types.ModuleType]] = {}  # file → its digest, and the module


def load_reward(
    name: str,
    trained: Callable[[], Path],
    dtype: torch.dtype = torch.float32,
    device="cpu",
) -> Reward:
    """The reward of this name. trained: gives the folder of `reward_model`, if that is asked for.

    Prints what a function or a classifier is. Raises SettingError for a name that is no reward, and
    ModelError for a model that cannot be one.
    """
    found, label = _find(name, trained)
    if _is_reward_model(found):
        return load_reward_model(found, dtype, device)
    print(f"The reward is the {_describe(name, found, label)}.")
    if callable(found):
        return RewardFunction(name, found)
    return ClassifierReward(str(found), dtype, device, label)


def check_reward(name: str, trained: Callable[[], Path] | None) -> str:
    """What the reward of this name is, in a few words; loads no weights.

    trained: None while there is no `reward_model` yet. Raises what load_reward would raise, as far
    as that can be known.
    """
    if name == "reward_model" and trained is None:
        return "reward model of 03_reward_model"
    return _describe(name, *_find(name, trained))


def _describe(name: str, found: Path | str | Callable, label: str) -> str:
    if callable(found):
        reward = RewardFunction(name, found)
        return f"function {name} of {reward.file}" if reward.file else f"function {name}"
    if _is_reward_model(found):
        return f"reward model in {found}"
    return describe_classifier(str(found), label)


def digest_of(name: str, trained: Callable[[], Path] | None) -> str:
    """SHA-256 of the folder or the function's file; the name itself if neither is on this disk.

    With the label that is paid for, if the name says it.
    """
    found, label = _find(name, trained)
    if callable(found):
        found, _ = source_of(found)
    if not isinstance(found, Path) or not found.exists():
        return name
    return digest(found) + (f"#{label}" if label else "")


def _is_reward_model(found: Path | str) -> bool:
    return isinstance(found, Path) and (found / "reward_config.json").is_file()


# --- what a name means


def _find(name: str, trained: Callable[[], Path] | None) -> tuple[Path | str | Callable, str]:
    """(the function, or the model's folder or hub id; the label after #, or "")."""
    if not name.strip():
        raise SettingError(
            f"reward={name!r} is no reward: give reward_model, the folder or hub id of a "
            "classifier, or module:function."
        )
    if name == "reward_model":
        return Path(trained()), ""
    place, label = name, ""
    if "#" in name and not _locate(name):
        place, _, label = name.rpartition("#")
    if " + " in place or "*" in place:
        raise SettingError(f"reward={name!r} is a sum: add rewards up in a function of your own.")
    path = _locate(place)
    if path is None and ":" in place:
        return _function(name), ""
    if path and path.is_file():
        raise SettingError(f"reward={name!r} is a file: name a function in it, {place}:polite.")
    return path or place, label


def _folders() -> list[Path]:
    """Where a relative path may begin: the shell's folder, this process's, the project's root."""
    folders = [Path(os.environ.get("RLHF_CWD") or Path.cwd()), Path.cwd()]
    return folders + [ROOT] * (ROOT / "pyproject.toml").is_file()


def _locate(path: str) -> Path | None:
    """The file or folder of this path; None if there is none."""
    for folder in _folders():
        try:
            found = folder / Path(path).expanduser()
            if found.exists():
                return found.resolve()
        except (OSError, RuntimeError, ValueError):  # too long, NUL, nobody's home
            return None
    return None


# --- functions


def _function(name: str) -> Callable:
    module, _, function = name.rpartition(":")
    try:
        with time_limit(IMPORT_LIMIT_S):
            found = operator.attrgetter(function)(_module(module))
    except KeyboardInterrupt:
        raise
    except TimeUp:
        raise SettingError(
            f"reward={name!r} cannot be imported: its module took more than {IMPORT_LIMIT_S} s."
        ) from None
    except BaseException as error:  # importing runs the user's module, which may do anything
        raise SettingError(
            f"reward={name!r} cannot be imported: {in_words(error)}{_place(module, error)}."
        ) from error
    if not callable(found):
        raise SettingError(f"reward={name!r} is no function but {type(found).__name__}.")
    return found


def _place(module: str, error: BaseException) -> str:
    """Where the error came up in the user's file, or where a missing module was looked for."""
    if isinstance(error, ModuleNotFoundError) and error.name == module.removesuffix(".py"):
        return f" in {', '.join(dict.fromkeys(map(str, _folders())))} or among what is installed"
    file = _locate(module.removesuffix(".py") + ".py")
    line = last_line(error, file)
    return f" ({file.name}, line {line})" if line else ""


def _module(name: str) -> types.ModuleType:
    """The module; a file in one of our folders goes before an installed package of its name."""
    sys.path += [str(folder) for folder in _folders() if str(folder) not in sys.path]
    stem = name.removesuffix(".py")
    file = _locate(f"{stem}.py")
    if file is None and name != stem:
        raise ModuleNotFoundError(f"there is no file {name}", name=stem)
    return _import_file(file) if file else importlib.import_module(name)


def _import_file(file: Path) -> types.ModuleType:
    """The module in this file, run anew if the file has changed."""
    content = digest(file)
    if file in _imported and _imported[file][0] == content:
        return _imported[file][1]
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))  # for what lies beside it
    name = file.stem if _is_free(file) else f"reward_of_{file.stem}"
    module = types.ModuleType(name)
    module.__file__ = str(file)
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        exec(compile(file.read_bytes(), str(file), "exec"), vars(module))
    except BaseException:
        sys.modules.pop(name)
        if before:
            sys.modules[name] = before
        raise
    _imported[file] = content, module
    return module


def _is_free(file: Path) -> bool:
    """Whether no other module has the name of this file."""
    if file.stem in sys.modules:
        return getattr(sys.modules[file.stem], "__file__", None) == str(file)
    spec = importlib.util.find_spec(file.stem)
    return spec is None or spec.origin == str(file)
