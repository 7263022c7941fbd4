"""A notebook's parameters: their names, types and ranges.

papermill injects any name with any value. Here a value becomes what the notebook's parameters cell
declares, or the notebook ends with one sentence.
"""

import ast
import difflib
import json
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import BeforeValidator, FiniteFloat, StrictBool, TypeAdapter, ValidationError

from ..errors import RunError

ABOVE_ZERO = {
    "num_train_epochs",
    "head_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_mini_batches",
    "num_ppo_epochs",
    "total_episodes",
    "save_every",
    "batch_size",
    "ensemble",
    "response_length",
    "max_length",
    "learning_rate",
    "head_learning_rate",
    "max_grad_norm",
    "kl_horizon",
    "temperature",
}

# (lowest, highest, how the sentence says it); what stands here no other rule is asked about
RANGES = {
    "seed": (0, 2**32 - 1, "from 0 to 4294967295"),
    "answers_per_prompt": (2, 6, "from 2 to 6"),
    "overlap": (0, 1, "a share from 0 to 1"),
    "repeat": (0, 1, "a share from 0 to 1"),
    "gamma": (0, 1, "from 0 to 1"),
    "lam": (0, 1, "from 0 to 1"),
}
# (above, below, how the sentence says it): open intervals
BETWEEN = {
    "heldout_fraction": (0, 1, "a share above 0 and below 1"),
    "validation_fraction": (0, 1, "a share above 0 and below 1"),
    "dropout": (-1e-300, 1, "at least 0 and below 1"),
}
CHOICES = {
    "dtype": ("auto", "float32", "bfloat16"),
    "combine": ("mean", "min", "uncertainty"),
    "kl_estimator": ("k1", "k3"),
}
LARGEST = 2**31 - 1  # of a whole number that has no range of its own
LONGEST = 4000  # characters of a text; no path is longer

TYPES = {"str": str, "int": int, "float": float, "bool": bool, "dict": dict}


# --- types


def _number(value):
    """A text as the exact number, so that "1e3" can be an int; no bool, though True equals 1."""
    if isinstance(value, bool):
        raise ValueError("a bool is no number")
    if not isinstance(value, str):
        return value
    number = TypeAdapter(Decimal).validate_python(value)
    if number.is_finite() and abs(number.adjusted()) > 400:  # 1e999999999 would fill the memory
        raise ValueError("out of all range")
    return number


def _true_or_false(value):
    return {"true": True, "false": False}.get(str(value).lower(), value)


ADAPTERS = {
    int: TypeAdapter(Annotated[int, BeforeValidator(_number)]),
    float: TypeAdapter(Annotated[FiniteFloat, BeforeValidator(_number)]),
    bool: TypeAdapter(Annotated[StrictBool, BeforeValidator(_true_or_false)]),
}


def convert(name: str, value, kind: type):
    """The value as `kind`, if nothing is lost: "1e-4" is a float, "true" a bool, 3 a float.

    Raises RunError naming the parameter, its value and both types.
    """
    adapter = ADAPTERS.get(kind) or TypeAdapter(kind)
    try:
        return adapter.validate_python(value)
    except ValidationError:
        wanted = "float (a finite number)" if kind is float else kind.__name__
        raise RunError(
            f"Parameter {name}={short(value)} should be of type {wanted}, "
            f"but is {type(value).__name__}."
        ) from None


def short(value) -> str:
    """The value as Python writes it, cut after 100 characters."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]}… ({len(text)} characters)"


# --- the parameters cell


def parameter_types(notebook: Path) -> dict[str, str]:
    """Name → declared type of every parameter: what the parameters cell assigns and annotates.

    papermill's own inspect_notebook loses a parameter whose comment or default has a "=".
    """
    return {name: kind for name, (kind, _) in declared(notebook).items()}


def declared(notebook: Path) -> dict[str, tuple[str, Any]]:
    """Name → (declared type, default) of every parameter."""
    names = {}
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        if "parameters" in cell["metadata"].get("tags", []):
            names |= annotated(ast.parse("".join(cell["source"])).body)
    return names


def annotated(body: list[ast.stmt]) -> dict[str, tuple[str, Any]]:
    """Name → (type, default) of what the statements annotate; None where no plain value stands."""
    found = {}
    for node in body:
        if isinstance(node, ast.AnnAssign):
            try:
                default = ast.literal_eval(node.value) if node.value else None
            except ValueError:
                default = None
            found[node.target.id] = ast.unparse(node.annotation), default
    return found


def check_parameters(notebook: Path, namespace: dict) -> dict:
    """The notebook's parameters, converted to their declared types, also in the namespace.

    Annotated names of the namespace count as parameters, too: a copy may add some, and a notebook
    of a user's own has no file that is known here. Raises RunError for a wrong type, a value out
    of range, or an injected name that is no parameter of this notebook nor of its neighbours,
    because a profile serves all of them.
    """
    annotations = namespace.get("__annotations__", {})
    kinds = {name: kind for name, kind in annotations.items() if kind in TYPES.values()}
    defaults = {}
    if notebook.is_file():
        for name, (kind, default) in declared(notebook).items():
            kinds[name], defaults[name] = TYPES.get(kind, Any), default
    _refuse_unknown(namespace.get("In", []), kinds, notebook.parent)
    values = {}
    for name, kind in kinds.items():
        if name in namespace:  # a copied notebook may have dropped some
            values[name] = convert(name, namespace[name], kind)
    check_ranges(values)
    check_texts(values, defaults)
    namespace.update(values)
    return values


def _refuse_unknown(cells: list[str], kinds: dict, folder: Path) -> None:
    """Looks at what papermill's cells assign, of all cells that the kernel has executed."""
    injected = set()
    for cell in cells:
        if cell.startswith("# Parameters\n"):
            for node in ast.walk(ast.parse(cell)):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    injected.add(node.id)
    unknown = injected - kinds.keys()
    if unknown:
        for notebook in folder.glob("0*.ipynb"):
            unknown -= parameter_types(notebook).keys()
    if unknown:
        name = min(unknown)
        raise RunError(f"There is no parameter {name!r} in this notebook{near(name, kinds)}")


def near(name: str, names: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known ones, or all of them."""
    close = difflib.get_close_matches(name, sorted(names), n=2, cutoff=0.7)
    if close:
        return f": did you mean {' or '.join(close)}?"
    return f"; there are {', '.join(sorted(names))}."


def check_ranges(values: dict) -> None:
    """Raises RunError for a number out of range, and for a text that is none of the choices."""
    for name, value in values.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            told = _outside(name, value)
            if told:
                raise RunError(f"Parameter {name}={short(value)} must {told}.")
        elif name in CHOICES and value not in CHOICES[name]:
            *others, last = map(repr, CHOICES[name])
            known = f"{', '.join(others)} or {last}"
            raise RunError(f"Parameter {name}={short(value)} must be {known}.")


def _outside(name: str, value: float) -> str:
    """What the number would have to be; empty if it is good."""
    if name in RANGES:
        low, high, told = RANGES[name]
        return "" if low <= value <= high else f"be {told}"
    if name in BETWEEN:
        above, below, told = BETWEEN[name]
        return "" if above < value < below else f"be {told}"
    if name in ABOVE_ZERO and value <= 0:
        return "be above 0"
    if value < 0:
        return "not be negative"
    if isinstance(value, int) and value > LARGEST:
        return f"be at most {LARGEST}"
    return ""


def check_texts(values: dict, defaults: dict) -> None:
    """Raises RunError for a text that is empty though its default is not, or that no path can be.

    Half a surrogate pair cannot be written to a file, and a control character plays tricks on a
    terminal.
    """
    for name, value in values.items():
        if not isinstance(value, str):
            continue
        if not value.strip() and defaults.get(name):
            raise RunError(f"Parameter {name}={value!r} must not be empty.")
        if not value.isprintable():
            raise RunError(f"Parameter {name}={short(value)} holds characters that do not print.")
        if len(value) > LONGEST:
            raise RunError(f"Parameter {name}={short(value)} is longer than {LONGEST} characters.")


# --- the parameter `more`


def fill_settings(kind: type, parameters: dict):
    """The dataclass `kind` with values from the parameters and from the parameter `more`.

    Raises RunError for a name in `more` that is a parameter itself, or none of the settings, and
    as convert and check_ranges do.
    """
    more = parameters.get("more", {})
    types = get_type_hints(kind)
    for name in more:
        if name in parameters:
            raise RunError(f"{name} is a parameter of its own: give it outside `more`.")
        if name not in types:
            raise RunError(
                f"`more` has no setting {name!r}{near(name, types.keys() - parameters.keys())}"
            )
    given = parameters | more
    values = {name: convert(name, given[name], types[name]) for name in types if name in given}
    check_ranges(values)
    return kind(**values)
