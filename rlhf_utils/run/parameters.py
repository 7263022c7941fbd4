"""A notebook's parameters: their names, types and ranges.

papermill injects any name with any value. Here a value becomes what the notebook's parameters cell
declares, or the notebook ends with one sentence.
"""

import ast
import difflib
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import BeforeValidator, FiniteFloat, StrictBool, TypeAdapter, ValidationError

from ..errors import RunError
from ..files import printable, read_json

LARGEST = 2**31 - 1  # of a number that has no range of its own
LONGEST = 4000  # characters of a text; no path is longer
TINY = 1e-300

ABOVE_ZERO = (
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
)
# name → (lowest, highest, how the sentence says it)
RANGES = dict.fromkeys(ABOVE_ZERO, (TINY, LARGEST, f"above 0 and at most {LARGEST}")) | {
    "seed": (0, 2**32 - 1, "from 0 to 4294967295"),
    "answers_per_prompt": (2, 6, "from 2 to 6"),
    "overlap": (0, 1, "a share from 0 to 1"),
    "repeat": (0, 1, "a share from 0 to 1"),
    "gamma": (0, 1, "from 0 to 1"),
    "lam": (0, 1, "from 0 to 1"),
    "heldout_fraction": (TINY, 1 - 1e-9, "a share above 0 and below 1"),
    "validation_fraction": (TINY, 1 - 1e-9, "a share above 0 and below 1"),
    "dropout": (0, 1 - 1e-9, "at least 0 and below 1"),
}
CHOICES = {
    "dtype": ("auto", "float32", "bfloat16"),
    "combine": ("mean", "min", "uncertainty"),
    "kl_estimator": ("k1", "k3"),
}
TYPES = {"str": str, "int": int, "float": float, "bool": bool, "dict": dict}


# --- one value


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
        wanted = {float: "float (a finite number)", bool: "bool (true or false)"}.get(kind)
        raise RunError(
            f"Parameter {name}={short(value)} should be of type {wanted or kind.__name__}, "
            f"but is {type(value).__name__}."
        ) from None


def short(value) -> str:
    """The value as Python writes it, cut after 100 characters."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]}… ({len(text)} characters)"


def check_value(name: str, value, default=None) -> None:
    """Raises RunError for a value out of range; for a text, if it is empty and the default is not.

    Half a surrogate pair cannot be written to a file, and a control character plays tricks on a
    terminal.
    """
    told = ""
    if name in CHOICES and value not in CHOICES[name]:
        told = f"be {' or '.join(map(repr, CHOICES[name]))}"
    elif isinstance(value, str):
        if not value.strip() and default:
            told = "not be empty"
        elif printable(value) != value:
            told = "hold only characters that print"
        elif len(value) > LONGEST:
            told = f"have at most {LONGEST} characters"
    elif isinstance(value, (int, float)):
        low, high, words = RANGES.get(name, (0, LARGEST, f"from 0 to {LARGEST}"))
        told = "" if low <= value <= high else f"be {words}"
    if told:
        raise RunError(f"Parameter {name}={short(value)} must {told}.")


# --- the parameters cell


def declared(notebook: Path) -> dict[str, tuple[str, Any]]:
    """Name → (declared type, default) of every parameter: what the parameters cell annotates.

    papermill's own inspect_notebook loses a parameter whose comment or default has a "=". Raises
    DataError for a file that is missing or damaged.
    """
    names = {}
    for cell in read_json(notebook)["cells"]:
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
    kinds = {name: (kind, None) for name, kind in annotations.items() if kind in TYPES.values()}
    if notebook.is_file():
        for name, (kind, default) in declared(notebook).items():
            kinds[name] = TYPES.get(kind, Any), default
    _refuse_unknown(namespace.get("In", []), kinds, notebook.parent)
    values = {}
    for name, (kind, default) in kinds.items():
        if name in namespace:  # a copied notebook may have dropped some
            values[name] = convert(name, namespace[name], kind)
            check_value(name, values[name], default)
    namespace.update(values)
    return values


def _refuse_unknown(cells: list[str], kinds: dict, folder: Path) -> None:
    """Looks at what papermill's cells assign, of all cells that the kernel has executed."""
    unknown = set()
    for cell in cells:
        if cell.startswith("# Parameters\n"):
            for node in ast.walk(ast.parse(cell)):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    unknown.add(node.id)
    unknown -= kinds.keys()
    if unknown:
        for notebook in folder.glob("0*.ipynb"):
            unknown -= declared(notebook).keys()
    if unknown:
        name = min(unknown)
        raise RunError(
            f"There is no parameter {name!r} in this notebook{near(name, sorted(kinds))}"
        )


def near(name: str, names: Iterable[str], otherwise: str = "") -> str:
    """The end of a sentence about an unknown name: the nearest known one, or all of them."""
    names = list(names)
    close = difflib.get_close_matches(name.lower(), names, n=1)
    if close:
        return f": did you mean {close[0]}?"
    return otherwise or f"; there are {', '.join(names)}."


# --- the parameter `more`


def fill_settings(kind: type, parameters: dict):
    """The dataclass `kind` with values from the parameters and from the parameter `more`.

    Raises RunError for a name in `more` that is a parameter itself, or none of the settings, and
    as convert and check_value do.
    """
    more = parameters.get("more", {})
    types = get_type_hints(kind)
    for name in more:
        if name in parameters:
            raise RunError(f"{name} is a parameter of its own: give it outside `more`.")
        if name not in types:
            known = sorted(types.keys() - parameters.keys())
            raise RunError(f"`more` has no setting {name!r}{near(name, known)}")
    given = parameters | more
    values = {name: convert(name, given[name], types[name]) for name in types if name in given}
    for name, value in values.items():
        check_value(name, value)
    return kind(**values)
