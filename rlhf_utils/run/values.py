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
from .parameters import (
    TYPES,
    annotated,
    check_ranges,
    check_texts,
    convert,
    declared,
    near,
    short,
)
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
    """Name → (type, default) of its notebook's parameters. Raises RunError without a notebook."""
    path = notebook_path(stage)
    if not path.is_file():
        raise RunError(f"There is no {path}: run rlhf inside the project's folder.")
    try:
        return declared(path)
    except (ValueError, KeyError, SyntaxError) as error:
        raise RunError(
            f"{path} cannot be read ({type(error).__name__}): `git checkout {path.name}` in its "
            "folder brings it back."
        ) from None


@functools.cache
def settings_of(stage: str) -> dict[str, tuple[str, object]]:
    """Name → (type, default) of what its `more` may hold.

    Read from the source, since to import it takes seconds.
    """
    if stage not in SETTINGS:
        return {}
    file, kind = SETTINGS[stage]
    source = Path(__file__).resolve().parents[1] / file
    body = next(
        node.body
        for node in ast.parse(source.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == kind
    )
    return annotated(body)


def parameters_of(stage: str) -> dict[str, tuple[str, object]]:
    """Name → (type, default) of its parameters and of the settings that its `more` may hold."""
    return settings_of(stage) | known(stage)


def takes(stage: str, name: str) -> bool:
    """Whether the stage has this parameter, or this setting in `more`."""
    own, _, parameter = name.rpartition(".")
    return own in ("", stage) and parameter in parameters_of(stage)


# --- one value


def parse_parameters(pairs: list[str], stages: list[str]) -> dict:
    """{"ppo.seed": 1} from ["ppo.seed=1"]. Raises RunError for a wrong form, name, type or range.

    stages: those that will run; at least one must have the parameter.
    """
    parsed = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign or not re.fullmatch(FORM, name):
            raise RunError(
                f"-p {short(pair)} is not of the form name=value or stage.name=value, with one of "
                f"the stages {', '.join(STAGES)}. A setting in `more` is given by its own name."
            )
        parsed[name] = read_value(name, text, stages)
    return parsed


def read_value(name: str, text: str, stages: list[str]):
    """The text as the type that the parameter has in the first of the stages that has it.

    A relative path becomes absolute, because notebooks run in another folder than the shell.
    """
    own, _, parameter = name.rpartition(".")
    if parameter == "run":
        raise RunError("-p run=… would split the run over two folders: use --run.")
    takers = [stage for stage in stages if takes(stage, name)]
    if not takers:
        raise RunError(_unknown(name, stages))
    kind = parameters_of(takers[0])[parameter][0]
    if kind == "str":
        value = absolute(parameter, _unquoted(text))
    elif kind in TYPES:
        value = convert(name, _unquoted(text.strip()), TYPES[kind])
    else:  # of a notebook of the user's own
        value = _as_yaml(name, text)
    check_ranges({parameter: value})
    check_texts({parameter: value}, {parameter: parameters_of(takers[0])[parameter][1]})
    return value


def _unknown(name: str, stages: list[str]) -> str:
    own, _, parameter = name.rpartition(".")
    others = [stage for stage in STAGES if parameter in parameters_of(stage)]
    if others:
        chosen = own or ", ".join(stages)
        return (
            f"No notebook has a parameter {name!r}: {parameter} belongs to {', '.join(others)}, "
            f"not to {chosen}."
        )
    asked = [own] if own in stages else stages
    names = set().union(*map(parameters_of, asked))
    return f"No notebook has a parameter {name!r}{near(parameter, names - {'run', 'more'})}"


def _unquoted(text: str) -> str:
    quoted = re.fullmatch(r"""(["'])(.*)\1""", text)
    return quoted[2] if quoted else text


def _as_yaml(name: str, text: str):
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        raise RunError(f"Parameter {name}={short(text)} cannot be read as YAML.") from None


def absolute(parameter: str, text: str) -> str:
    """The text; a path from the shell's folder if something lies there.

    Behind a folder may stand a classifier's label or a data set's split: toxic#neutral, mine@test.
    """
    if parameter not in SOURCES or text in SOURCES[parameter] or not text.strip():
        return text
    place, rest = text, ""
    if not _exists(text):
        place, sign, rest = text.rpartition("#" if parameter in ("reward", "annotator") else "@")
        rest = sign + rest
    return f"{Path(place).expanduser().absolute()}{rest}" if _exists(place) else text


def _exists(text: str) -> bool:
    try:
        return bool(text) and Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, a link loop, ~nobody
        return False


# --- profiles


def load_profile(profile: str) -> dict:
    """The parameters in notebooks/profiles/<profile>.yaml, or in a file that ends in .yaml.

    demo is the notebooks' defaults. Raises RunError, naming the file and the line.
    """
    folder = project_root() / "notebooks" / "profiles"
    if profile == "demo":
        return {}
    if profile.endswith((".yaml", ".yml")):
        path = Path(os.path.expanduser(profile))  # raises for no name
    else:
        path = folder / f"{profile}.yaml"
        names = ["demo", *sorted(p.stem for p in folder.glob("*.yaml"))]
        if profile not in names:
            raise RunError(f"There is no profile {short(profile)}{_near_profile(profile, names)}")
    return read_profile(path)


def _near_profile(profile: str, names: list[str]) -> str:
    told = near(profile, names)
    if "did you mean" in told:
        return told
    return f"; there are {', '.join(names)}, or give a file that ends in .yaml."


def read_profile(path: Path) -> dict:
    try:
        top = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except FileNotFoundError:
        raise RunError(f"There is no profile file {path.absolute()}.") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise RunError(f"The profile file {path} cannot be read: {reason}.") from None
    except RecursionError:
        raise RunError(f"{path.name} is not YAML: it is nested too deeply.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "a character that YAML does not allow"
        raise RunError(f"{path.name}{line} is not YAML: {problem}.") from None
    if top is None:
        return {}
    if not isinstance(top, yaml.MappingNode):
        raise RunError(f"{path.name} must hold lines of the form `name: value`.")
    values: dict = {}
    for key, node in top.value:
        where = f"{path.name}, line {key.start_mark.line + 1}"
        value = _profile_value(where, key, node)
        if key.value in values:
            raise RunError(f"{where}: {key.value!r} stands there twice.")
        values[key.value] = value
    return values


def _profile_value(where: str, key: yaml.Node, node: yaml.Node):
    if not isinstance(key.value, str) or not re.fullmatch(FORM, key.value):
        raise RunError(f"{where}: {short(key.value)} is not of the form name or stage.name.")
    if not isinstance(node, yaml.ScalarNode):
        raise RunError(f"{where}: {key.value} must have one value, not a list or a table.")
    if not node.value and node.style is None:
        raise RunError(f"{where}: {key.value} has no value.")
    try:
        return read_value(key.value, node.value, list(STAGES))
    except RunError as error:
        raise RunError(f"{where}: {error}") from None


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

    Raises RunError for a wrong type.
    """
    kinds = parameters_of(stage)
    values = {name: default for name, (_, default) in kinds.items() if name != "more"}
    values |= given.get("more", {}) | {k: v for k, v in given.items() if k != "more"}
    for name, value in values.items():
        kind = TYPES.get(kinds[name][0])
        if kind and value is not None:
            values[name] = convert(name, value, kind)
    return values


def check_values(stage: str, given: dict) -> None:
    """Raises RunError for a type or a range of what is given."""
    values = all_values(stage, given)
    check_ranges({name: value for name, value in values.items() if value is not None})
    check_texts(values, {name: default for name, (_, default) in parameters_of(stage).items()})
