"""A notebook's parameters get their declared types, or one sentence says which value is wrong."""

import re
from dataclasses import dataclass

import nbformat
import pytest
from helpers_run import write_notebook
from papermill.parameterize import parameterize_notebook

from rlhf_utils.errors import RunError, SettingError
from rlhf_utils.run.parameters import (
    check_parameters,
    check_value,
    convert,
    declared,
    fill_settings,
)

PARAMETERS_CELL = """run: str = "demo"  # folder
seed: int = 0  # of everything random
learning_rate: float = (
    1e-3  # of AdamW; try 2e-5 where lora_r=0
)
resume: bool = False  # go on
dtype: str = "auto"  # of the weights
more: dict = {}  # other settings"""

DEFAULTS = {
    "run": "demo",
    "seed": 0,
    "learning_rate": 1e-3,
    "resume": False,
    "dtype": "auto",
    "more": {},
}


@pytest.fixture
def notebook(tmp_path):
    """A notebook with these parameters, beside one that has another."""
    for name, source in (("01_a", PARAMETERS_CELL), ("02_b", "kl_coef: float = 0.1  # beta")):
        write_notebook(tmp_path / f"{name}.ipynb", source)
    return tmp_path / "01_a.ipynb"


def executed(injected: dict | None = None, **values) -> dict:
    """A namespace in which a parameters cell, and then papermill's injected one, were executed."""
    cells = ["", "import torch", PARAMETERS_CELL]
    if injected:
        blank = nbformat.v4.new_notebook(metadata={"papermill": {}})
        made = parameterize_notebook(blank, injected, kernel_name="python3", language="python")
        cells.append(made.cells[0].source)
    return {"In": cells} | DEFAULTS | (injected or {}) | values


# --- types


@pytest.mark.parametrize(
    ("value", "kind", "wanted"),
    [
        ("1e-4", float, 1e-4),
        (3, float, 3.0),
        ("3", float, 3.0),
        (0.5, float, 0.5),
        ("-2", int, -2),
        (3.0, int, 3),
        ("2", int, 2),
        ("1e3", int, 1000),
        ("true", bool, True),
        ("False", bool, False),
        (True, bool, True),
        ("x", str, "x"),
        ("", str, ""),
        ({"gamma": 1}, dict, {"gamma": 1}),
        (9007199254740993, int, 9007199254740993),
        ("9007199254740993", int, 9007199254740993),  # more digits than a float holds
    ],
)
def test_convert_loses_nothing(value, kind, wanted):
    converted = convert("x", value, kind)
    assert converted == wanted and type(converted) is type(wanted)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("many", int),
        (2.5, int),
        ("2.5", int),
        (True, int),
        (True, float),
        (1, bool),
        ("yes", bool),
        ("1", bool),
        (None, str),
        (3, str),
        ([1], float),
        (None, float),
        ("", int),
        ("inf", int),
        ("nan", int),
        ("nan", float),
        (10**400, float),
        (float("nan"), float),
        (float("inf"), float),
        ("gamma: 0.99", dict),
        ([], dict),
    ],
)
def test_convert_refuses_with_name_value_and_type(value, kind):
    with pytest.raises(RunError) as error:
        convert("my_parameter", value, kind)
    told = str(error.value)
    assert f"my_parameter={value!r}"[:60] in told and "\n" not in told and len(told) < 250
    assert f"type {kind.__name__}" in told and type(value).__name__ in told


# --- the parameters cell


def test_names_and_types_of_a_parameters_cell(notebook):
    kinds = ("str", "int", "float", "bool", "str", "dict")
    assert declared(notebook) == dict(zip(DEFAULTS, zip(kinds, DEFAULTS.values())))


def test_parameters_are_converted_in_the_namespace(notebook):
    injected = {"learning_rate": "1e-4", "resume": "true", "seed": 7.0, "more": {"gamma": 0.9}}
    namespace = executed(injected, other="not a parameter")
    values = check_parameters(notebook, namespace)
    wanted = {"learning_rate": 1e-4, "resume": True, "seed": 7, "more": {"gamma": 0.9}}
    assert values == DEFAULTS | wanted
    assert {name: namespace[name] for name in values} == values
    assert namespace["resume"] is True and namespace["other"] == "not a parameter"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("lerning_rate", "'lerning_rate' in this notebook: did you mean learning_rate?"),
        ("zzz", "'zzz' in this notebook; there are dtype, learning_rate, more, resume, run, seed."),
    ],
)
def test_a_name_that_nobody_knows_is_an_error(notebook, name, told):
    with pytest.raises(RunError, match=re.escape(told)):
        check_parameters(notebook, executed({"seed": 1, name: 0.1}))


def test_a_profile_serves_all_notebooks(notebook):
    values = check_parameters(notebook, executed({"kl_coef": 0.1}))  # a parameter of 02_b
    assert values == DEFAULTS


def test_a_wrong_type_is_named(notebook):
    with pytest.raises(RunError, match="seed='many' should be of type int, but is str"):
        check_parameters(notebook, executed({"seed": "many"}))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be above 0"),
        ({"seed": -1}, "seed=-1 must be from 0 to 4294967295"),
        ({"seed": 2**32}, "seed=4294967296 must be from 0 to 4294967295"),
        ({"run": ""}, "run='' must not be empty"),
        ({"run": "a\x1b[31m"}, "hold only characters that print"),
        ({"dtype": "float16"}, "dtype='float16' must be 'auto' or 'float32' or 'bfloat16'"),
    ],
)
def test_what_is_out_of_range_is_named(notebook, changes, told):
    with pytest.raises(RunError, match=told):
        check_parameters(notebook, executed(**changes))


def test_a_copy_may_add_and_drop_parameters(notebook):
    namespace = executed({"mine": "4"}, __annotations__={"seed": int, "mine": int, "later": list})
    del namespace["resume"]
    values = check_parameters(notebook, namespace)
    assert values["mine"] == namespace["mine"] == 4 and "resume" not in values


def test_without_the_notebooks_file_the_annotations_count(tmp_path):
    """Also without IPython's history, as under nbval."""
    annotations = {"run": str, "seed": int, "learning_rate": float, "found": list, "more": dict}
    namespace = DEFAULTS | {"seed": "3", "found": [], "__annotations__": annotations}
    values = check_parameters(tmp_path / "01_sft.ipynb", namespace)
    assert values == {"run": "demo", "seed": 3, "learning_rate": 1e-3, "more": {}}
    namespace |= {"In": ["", "# Parameters\nlerning_rate = 0.1\n"], "lerning_rate": 0.1}
    with pytest.raises(RunError, match="'lerning_rate'"):
        check_parameters(tmp_path / "01_sft.ipynb", namespace)


# --- the parameter `more`


@dataclass
class Settings:
    learning_rate: float = 5.0
    gamma: float = 1.0
    num_parts: int = 2
    whiten: bool = False
    kind: str = "k1"
    temperature: float = 0.7

    def __post_init__(self):
        if self.kind not in ("k1", "k3"):
            raise SettingError(f"kind={self.kind!r} must be 'k1' or 'k3'.")


def test_settings_are_filled_from_parameters_and_from_more():
    more = {"gamma": "0.9", "num_parts": 3.0, "whiten": "true", "kind": "k3"}
    filled = fill_settings(Settings, {"run": "x", "seed": 1, "learning_rate": 1e-3, "more": more})
    assert filled == Settings(1e-3, 0.9, 3, True, "k3")
    assert type(filled.num_parts) is int and filled.whiten is True
    assert fill_settings(Settings, {"learning_rate": 2.0}) == Settings(2.0)


@pytest.mark.parametrize(
    ("more", "error", "told"),
    [
        (
            {"gama": 0.9},
            RunError,
            "`more` has no setting 'gama': did you mean gamma?",
        ),
        (
            {"zzz": 0.9},
            RunError,
            "`more` has no setting 'zzz'; there are gamma, kind, num_parts, temperature, whiten.",
        ),
        (
            {"learning_rate": 0.1},
            RunError,
            "learning_rate is a parameter of its own: give it outside `more`",
        ),
        ({"run": "x"}, RunError, "run is a parameter of its own"),
        ({"gamma": "much"}, RunError, "Parameter gamma='much' should be of type float"),
        ({"num_parts": True}, RunError, "Parameter num_parts=True should be of type int"),
        ({"num_parts": -1}, RunError, "num_parts=-1 must be from 0"),
        ({"temperature": 0}, RunError, "temperature=0.0 must be above 0"),
        ({"gamma": 1.5}, RunError, "gamma=1.5 must be from 0 to 1"),
        ({"kind": "k2"}, SettingError, "kind='k2' must be 'k1' or 'k3'"),
    ],
)
def test_what_is_wrong_in_more_is_one_sentence(more, error, told):
    with pytest.raises(error, match=re.escape(told)):
        fill_settings(Settings, {"run": "demo", "learning_rate": 1e-3, "more": more})


# --- ranges


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("seed", (0, 2**32 - 1), (-1, 2**32)),
        ("answers_per_prompt", (2, 6), (1, 7)),
        ("overlap", (0.0, 1.0), (-0.1, 1.1)),
        ("heldout_fraction", (0.01, 0.99), (0.0, 1.0)),
        ("dropout", (0.0, 0.99), (-0.01, 1.0)),
        ("ensemble", (1, 8), (0, -1)),
        ("temperature", (0.01, 5.0), (0.0, -1.0)),
        ("num_prompts", (0, 10**6), (-1, 10**12)),
        ("combine", ("mean", "min", "uncertainty"), ("max", "")),
    ],
)
def test_the_ends_of_a_range(name, good, bad):
    for value in good:
        check_value(name, value)
    for value in bad:
        with pytest.raises(RunError, match=f"Parameter {name}={value!r} must"):
            check_value(name, value)
