"""What each notebook of a run gets: profile, `-p`, and what the run was given before.

A value is read as its parameter's declared type, from the text as it was typed: YAML would make a
date of 2024-01-01, and a truth of `on`.
"""

import ast
import functools
import os
import re
from pathlib import Path

import yaml

from ..errors import RunError
from ..files import shown_name
from .parameters import TYPES, annotated, check_value, convert, declared, near, short
from .paths import STAGES, notebook_path, project_root

# What a notebook's `more` may hold: the fields of a dataclass, by file and name.
SETTINGS = {
    "sft": ("models/sft.py", "SFTSettings"),
    "preferences": ("preferences/label_queue.py", "CollectionSettings"),
    "ppo": ("ppo/config.py", "PPOConfig"),
}

# parameters that may name a file or folder → names that are no path, whatever lies there
SOURCES = {
    "model": ("smollm2-135m", "tiny"),
    "demonstrations": ("builtin", "crisp"),
    "prompts": ("builtin",),
    "heldout_prompts": ("builtin",),
    "preferences": (),
    "reward": ("reward_model",),
    "annotator": ("simulated", "person", "reward_model"),
}

FORM = rf"(({'|'.join(STAGES)})\.)?(?!more$)[^\W\d]\w*"

# --- which parameters there are


@functools.cache
def known(stage: str) -> dict[str, tuple[str, object]]:
    """Name → (type, default) of its notebook's parameters."""
    return declared(notebook_path(stage))


@functools.cache
def settings_of(stage: str) -> dict[str, tuple[str, object]]:
    """Name → (type, default) of what its `more` may hold.

    Read from the source, since to import it takes seconds.
    """
    if stage not in SETTINGS:
        return {}
    file, kind = SETTINGS[stage]
    source = (Path(__file__).resolve().parents[1] / file).read_text(encoding="utf-8")
    (found,) = (node for node in ast.parse(source).body if getattr(node, "name", "") == kind)
    return annotated(found.body)


def parameters_of(stage: str) -> dict[str, tuple[str, object]]:
    """Name → (type, default) of its parameters and of the settings that its `more` may hold."""
    return settings_of(stage) | known(stage)


def takes(stage: str, name: str) -> bool:
    """Whether the stage has this parameter, or this setting in `more`."""
    own, _, parameter = name.rpartition(".")
    return own in ("", stage) and parameter in parameters_of(stage) and parameter != "more"


# --- one value


def parse_parameters(pairs: list[str], stages: list[str]) -> dict:
    """{"ppo.seed": 1} from ["ppo.seed=1"]. Raises RunError for a wrong form, name, type or range.

    stages: those that will run; at least one must have the parameter.
    """
    parsed = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        name = name.strip()
        if not sign or not re.fullmatch(FORM, name):
            raise RunError(
                f"-p {short(pair)} is not of the form name=value or stage.name=value, with one of "
                f"the stages {', '.join(STAGES)}. A setting in `more` is given by its own name."
            )
        value = read_value(name, text, stages)
        if parsed.setdefault(name, value) != value:
            raise RunError(f"-p gives {name} twice, {parsed[name]!r} and {value!r}: give one.")
    return parsed


def read_value(name: str, text: str, stages: list[str]):
    """The text as the type that the parameter has in the first of the stages that has it.

    A relative path becomes absolute, because notebooks run in another folder than the shell.
    """
    parameter = name.rpartition(".")[2]
    if parameter == "run":
        raise RunError("-p run=… would split the run over two folders: use --run.")
    taker = next((stage for stage in stages if takes(stage, name)), None)
    if not taker:
        raise RunError(_unknown(name, stages))
    kind, default = parameters_of(taker)[parameter]
    kind = kind.removesuffix(" | None")
    if kind not in TYPES:  # in a notebook that was changed
        raise RunError(f"Parameter {name} is of type {kind}: give it in its notebook, not here.")
    text = re.sub(r"""^(["'])(.*)\1$""", r"\2", text.strip())
    value = absolute(parameter, text) if kind == "str" else convert(name, text, TYPES[kind])
    check_value(parameter, value, default)
    return value


def _unknown(name: str, stages: list[str]) -> str:
    own, _, parameter = name.rpartition(".")
    others = [stage for stage in STAGES if parameter in parameters_of(stage)]
    asked = [own] if own in stages else stages
    if others:
        told = f": {parameter} belongs to {', '.join(others)}, not to {own or ', '.join(stages)}."
    else:
        names = set().union(*map(parameters_of, asked))
        told = near(parameter, sorted(names - {"run", "more"}))
    return f"No notebook has a parameter {name!r}{told}"


def absolute(parameter: str, text: str) -> str:
    """The text; a path from the shell's folder if something lies there.

    Behind a folder may stand a classifier's label or a data set's split: toxic#neutral, mine@test.
    """
    if parameter not in SOURCES or text in SOURCES[parameter]:
        return text
    sign = "#" if parameter in ("reward", "annotator") else "@"
    for place, rest in ((text, ""), (text.rpartition(sign)[0], sign + text.rpartition(sign)[2])):
        path = os.path.abspath(os.path.expanduser(place))
        if place and os.path.exists(path):
            return path + rest
    return text


# --- profiles


def load_profile(profile: str) -> dict:
    """The parameters in notebooks/profiles/<profile>.yaml, or in a file that ends in .yaml.

    demo is the notebooks' defaults. Raises RunError, naming the file and the line.
    """
    if profile == "demo":
        return {}
    path = Path(os.path.expanduser(profile))
    if path.suffix.lower() not in (".yaml", ".yml"):
        folder = project_root() / "notebooks" / "profiles"
        names = ["demo", *sorted(path.stem for path in folder.glob("*.yaml"))]
        if profile not in names:
            told = f"; there are {', '.join(names)}, or give a file that ends in .yaml."
            raise RunError(f"There is no profile {short(profile)}{near(profile, names, told)}")
        path = folder / f"{profile}.yaml"
    values: dict = {}
    for key, node in _read_yaml(path):
        where = f"{path.name}, line {key.start_mark.line + 1}"
        if not isinstance(key.value, str) or not re.fullmatch(FORM, key.value):
            raise RunError(f"{where}: {short(key.value)} is not of the form name or stage.name.")
        if not isinstance(node, yaml.ScalarNode):
            raise RunError(f"{where}: {key.value} must have one value, not a list or a table.")
        if node.tag.endswith(":null"):
            raise RunError(f"{where}: {key.value} has no value.")
        if key.value in values:
            raise RunError(f"{where}: {key.value!r} stands there twice.")
        try:
            values[key.value] = read_value(key.value, node.value, list(STAGES))
        except RunError as error:
            raise RunError(f"{where}: {error}") from None
    return values


def _read_yaml(path: Path) -> list[tuple[yaml.Node, yaml.Node]]:
    """The file's keys and values as they are written. Raises RunError."""
    try:
        top = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except FileNotFoundError:
        raise RunError(f"There is no profile file {shown_name(path.absolute())}.") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise RunError(f"The profile file {path} cannot be read: {reason}.") from None
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it holds what YAML does not allow"
        raise RunError(f"{path.name}{line} is not YAML: {problem}.") from None
    if top is None:
        return []
    if not isinstance(top, yaml.MappingNode):
        raise RunError(f"{path.name} must hold lines of the form `name: value`.")
    return top.value


# --- all values of a stage


def values_of(stage: str, layers: list[dict]) -> dict:
    """What one notebook gets, settings in `more`.

    A later layer goes over an earlier one; within one, the stage's own over everybody's.
    """
    values, more = {}, {}
    for layer in layers:
        for name in sorted(layer, key=lambda name: name.count(".")):
            if takes(stage, name):
                parameter = name.rpartition(".")[2]
                place = values if parameter in known(stage) else more
                place[parameter] = layer[name]
    return values | {"more": more} if more else values


def all_values(stage: str, given: dict) -> dict:
    """Every parameter and setting of the stage, of its type: the default, or what is given.

    Raises RunError for a wrong type or what is out of range.
    """
    kinds = parameters_of(stage)
    values = {name: default for name, (_, default) in kinds.items() if name != "more"}
    flat = given.get("more", {}) | {name: value for name, value in given.items() if name != "more"}
    for name, value in flat.items():
        kind, default = kinds[name]
        values[name] = convert(name, value, TYPES[kind.removesuffix(" | None")])
        check_value(name, values[name], default)
    return values
