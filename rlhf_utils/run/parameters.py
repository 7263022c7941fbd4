"""A notebook's parameters: their names, types and ranges.

papermill injects any name with any value. Here a value becomes what the notebook's parameters cell
declares, or the notebook ends with one sentence.
"""

import ast
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import nbformat
from pydantic import BeforeValidator, FiniteFloat, StrictBool, TypeAdapter, ValidationError

from ..errors import RunError

ABOVE_ZERO = {
    "num_train_epochs",
    "head_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "batch_size",
    "answers_per_prompt",
    "response_length",
    "max_length",
    "learning_rate",
    "head_learning_rate",
    "temperature",
}

TYPES = {"str": str, "int": int, "float": float, "bool": bool, "dict": dict}


# --- types


def _number(value):
    """A text as the exact number, so that "1e3" can be an int; no bool, though True equals 1."""
    if isinstance(value, bool):
        raise ValueError("a bool is no number")
    return TypeAdapter(Decimal).validate_python(value) if isinstance(value, str) else value


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
            f"Parameter {name}={value!r} should be of type {wanted}, but is {type(value).__name__}."
        ) from None


# --- the parameters cell


def parameter_types(notebook: Path) -> dict[str, str]:
    """Name → declared type of every parameter: what the parameters cell assigns and annotates.

    papermill's own inspect_notebook loses a parameter whose comment or default has a "=".
    """
    names = {}
    for cell in nbformat.read(notebook, 4).cells:
        if "parameters" in cell.metadata.get("tags", []):
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.AnnAssign):
                    names[node.target.id] = ast.unparse(node.annotation)
    return names


def check_parameters(notebook: Path, namespace: dict) -> dict:
    """The notebook's parameters, converted to their declared types, also in the namespace.

    Annotated names of the namespace count as parameters, too: a copy may add some, and a notebook
    of a user's own has no file that is known here. Raises RunError for a wrong type, a value out
    of range, or an injected name that is no parameter of this notebook nor of its neighbours,
    because a profile serves all of them.
    """
    annotations = namespace.get("__annotations__", {})
    kinds = {name: kind for name, kind in annotations.items() if kind in TYPES.values()}
    if notebook.is_file():
        for name, kind in parameter_types(notebook).items():
            kinds[name] = TYPES.get(kind, Any)
    _refuse_unknown(namespace.get("In", []), kinds, notebook.parent)
    values = {}
    for name, kind in kinds.items():
        if name in namespace:  # a copied notebook may have dropped some
            values[name] = convert(name, namespace[name], kind)
    check_ranges(values)
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
        raise RunError(
            f"There is no parameter {min(unknown)!r} in this notebook; "
            f"it has {', '.join(sorted(kinds))}."
        )


def check_ranges(values: dict) -> None:
    """Raises RunError for a negative number, a zero that makes no sense, or an unknown dtype."""
    for name, value in values.items():
        if not isinstance(value, (int, float)):
            continue
        if name in ABOVE_ZERO and value <= 0:
            raise RunError(f"Parameter {name}={value} must be above 0.")
        if value < 0:
            raise RunError(f"Parameter {name}={value} must not be negative.")
    if values.get("dtype", "auto") not in ("auto", "float32", "bfloat16"):
        raise RunError(
            f"Parameter dtype={values['dtype']!r} must be 'auto', 'float32' or 'bfloat16'."
        )


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
                f"`more` has no setting {name!r}; "
                f"it may have {', '.join(sorted(types.keys() - parameters.keys()))}."
            )
    given = parameters | more
    values = {name: convert(name, given[name], types[name]) for name in types if name in given}
    check_ranges(values)
    return kind(**values)
