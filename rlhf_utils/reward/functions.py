"""Name → reward: a callable reward(prompts=…, completions=…, **columns) → one score an answer.

That is the signature of TRL's reward functions. A reward has a name: `reward_model` (the one of
03), the folder or hub id of a sequence classifier, with `#LABEL` for the label that is paid for, or
`module:function`, whose module may be a file `my_rewards.py`.
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
from .model import load_reward_model
from .wrapped import RewardFunction, apart, in_words, last_line, source_of

IMPORT_LIMIT_S = 300
ROOT = Path(__file__).resolve().parents[2]  # the project's, if it is not installed elsewhere
_imported: dict[Path, tuple[str, types.ModuleType]] = {}  # file → its digest, and the module


def load_reward(
    name: str,
    trained: Callable[[], Path],
    dtype: torch.dtype = torch.float32,
    device="cpu",
) -> Callable[..., list[float]]:
    """The reward of this name. trained: gives the folder of `reward_model`, if that is asked for.

    Prints what a function or a classifier is. Raises SettingError for a name that is no reward, and
    ModelError for a model that cannot be one.
    """
    found, label = _find(name, trained)
    if _is_reward_model(found):
        return load_reward_model(found, dtype, device)
    function = callable(found)
    reward = RewardFunction(name, found) if function else _classifier(found, label, dtype, device)
    print(f"The reward is the {reward}.")
    return reward


def check_reward(name: str, trained: Callable[[], Path] | None) -> str:
    """What the reward of this name is, in a few words; loads no weights.

    trained: None while there is no `reward_model` yet. Raises what load_reward would raise, as far
    as that can be known.
    """
    if name == "reward_model" and trained is None:
        return "reward model of 03_reward_model"
    found, label = _find(name, trained)
    if _is_reward_model(found):
        return f"reward model in {found}"
    return str(RewardFunction(name, found) if callable(found) else _classifier(found, label))


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


def _is_reward_model(found: Path | str | Callable) -> bool:
    return isinstance(found, Path) and (found / "reward_config.json").is_file()


def _classifier(found: Path | str, label: str, dtype=torch.float32, device="meta"):
    return ClassifierReward(str(found), dtype, device, label)


# --- what a name means


def _find(name: str, trained: Callable[[], Path] | None) -> tuple[Path | str | Callable, str]:
    """(the function, or the model's folder or hub id; the label after #, or "")."""
    if name == "reward_model":
        return Path(trained()), ""
    place, label = name, ""
    if "#" in name and not _locate(name):
        place, _, label = name.rpartition("#")
    if not place.strip():
        raise SettingError(
            f"reward={name!r} is no reward: give reward_model, the folder or hub id of a "
            "classifier, or module:function."
        )
    if " + " in place or "*" in place:
        raise SettingError(f"reward={name!r} is a sum: add rewards up in a function of your own.")
    path = _locate(place)
    if path is None and ":" in place:
        return _function(name), ""
    if not (path and path.is_dir()):
        file = Path(place).with_suffix(".py")  # my_rewards, my_rewards.py or my_rewards.polite
        if _locate(str(file)):
            raise SettingError(
                f"reward={name!r} is a file: name a function in it, such as {file}:polite."
            )
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
    """The function. Raises SettingError, whatever its module does when it is imported."""
    module, _, function = name.rpartition(":")
    file, folders = _locate(module.removesuffix(".py") + ".py"), list(map(str, _folders()))
    try:
        with apart(IMPORT_LIMIT_S):
            sys.path += [folder for folder in folders if folder not in sys.path]
            found = _import_file(file) if file else importlib.import_module(module)
            found = operator.attrgetter(function)(found)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        line = last_line(error, file)
        place = f" ({file.name}, line {line})" if line else ""
        if isinstance(error, ModuleNotFoundError) and not file:
            place = f" in {', '.join(dict.fromkeys(folders))} or among what is installed"
        raise SettingError(
            f"reward={name!r} cannot be imported: {in_words(error)}{place}."
        ) from error
    if not callable(found):
        raise SettingError(f"reward={name!r} is no function but {type(found).__name__}.")
    return found


def _import_file(file: Path) -> types.ModuleType:
    """The module in this file, run anew if the file has changed.

    It goes before an installed module of its name, and leaves that one to everybody else.
    """
    content = digest(file)
    if file in _imported and _imported[file][0] == content:
        return _imported[file][1]
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))  # for what lies beside it
    name = file.stem.replace(".", "_")
    known = importlib.util.find_spec(name)
    if known and known.origin != str(file):
        name = f"reward_of_{name}"
    module = importlib.util.module_from_spec(importlib.util.spec_from_file_location(name, file))
    sys.modules[name] = module
    try:
        exec(compile(file.read_bytes(), str(file), "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    _imported[file] = content, module
    return module
