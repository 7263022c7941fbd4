"""Reward functions that a user writes, and whatever may be wrong with them."""

import os
import random
import sys
import threading
import time

import numpy as np
import pytest
import torch

from rlhf_utils.data.rows import Prompt, columns_of, conversation
from rlhf_utils.errors import ExplainedError, PPOError, RunError, SettingError
from rlhf_utils.reward import functions
from rlhf_utils.reward.functions import check_reward, digest_of, load_reward

CALL = {"prompts": ["Hi?", "Why?"], "completions": ["Hello.", "So."]}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a module into the shell's folder; gives the name of the reward in it."""
    monkeypatch.setenv("RLHF_CWD", str(tmp_path))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(functions, "_imported", {})
    before = set(sys.modules)

    def write(body: str, name: str = "mine_own", head: str = "") -> str:
        indented = "\n".join("    " + line for line in body.splitlines())
        text = f"{head}def polite(prompts, completions, **columns):\n{indented}\n"
        (tmp_path / f"{name}.py").write_text(text)
        return f"{name}:polite"

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


# --- what goes wrong in a call


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("x = 0\nreturn [1 / x]", "line 3) raised ZeroDivisionError: division by zero."),
        ("exit(3)", "line 2) raised SystemExit: 3."),
        ("import sys\nsys.exit('bye')", "line 3) raised SystemExit: bye."),
        ("raise ValueError('a\\n\\x1b[31mb')", "line 2) raised ValueError: a [31mb."),
        ("return int('x')", "raised ValueError: invalid literal"),
        ("return [c[0]['content'] for c in completions]", "are plain texts, not lists of messages"),
        ("return polite(prompts, completions)", "raised RecursionError"),
        ("import asyncio\nraise asyncio.CancelledError", "line 3) raised CancelledError."),
    ],
)
def test_an_error_names_function_file_and_line(write, body, told):
    with pytest.raises(RunError) as error:
        load_reward(write(body), None)(**CALL)
    assert str(error.value).startswith("mine_own:polite (mine_own.py, line ")
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ("None", "None"),
        ("{'a': 1.0, 'b': 2.0}", "{'a': 1.0, 'b': 2.0}"),
        ("{1.0, 2.0}", "{1.0, 2.0}"),
        ("'12'", "'12'"),
        ("['1', '2']", "'1' for answer 1"),
        ("[1.0, float('nan')]", "nan for answer 2"),
        ("[1.0]", "1 of them"),
        ("prompts", "'Hi?' for answer 1"),
        ("__import__('itertools').repeat(1.0)", "more"),
        ("[[1.0], [2.0]]", "[1.0] for answer 1"),
    ],
)
def test_what_is_no_score_names_the_function(write, returned, told):
    with pytest.raises(PPOError) as error:
        load_reward(write(f"return {returned}"), None)(**CALL)
    assert str(error.value) == (
        "The reward mine_own:polite (mine_own.py, line 1) must give one finite number for each of "
        f"2 answers, but gave {told}."
    )


def test_tensors_arrays_and_generators_are_scores(write):
    for number, returned in enumerate(
        ["torch.ones(2, requires_grad=True)", "numpy.ones(2)", "(1 for _ in prompts)"]
    ):
        name = write(f"import numpy, torch\nreturn {returned}", f"mine{number}")
        assert load_reward(name, None)(**CALL) == [1.0, 1.0]


@pytest.mark.parametrize(
    "body",
    [
        "import time\ntime.sleep(60)",
        "while True:\n    pass",
        "while True:\n    try:\n        1 / 0\n    except Exception:\n        pass",
    ],
)
def test_a_function_that_blocks_is_stopped(write, body):
    reward, began = load_reward(write(body + "\nreturn [1.0, 1.0]"), None), time.monotonic()
    reward.limit_s = 0.2
    with pytest.raises(RunError, match=r"line [2-6]\) took more than 0.2 s for 2 answers"):
        reward(**CALL)
    assert time.monotonic() - began < 20
    time.sleep(1.2)  # nothing rings later


def test_a_function_may_have_a_limit_of_its_own_and_need_not_be_in_the_main_thread(write):
    reward = load_reward(write("return [1.0, 2.0]"), None)
    assert reward.limit_s == 300
    reward.function.time_limit_s = 7
    assert functions.RewardFunction("mine", reward.function).limit_s == 7
    found = []
    thread = threading.Thread(target=lambda: found.append(reward(**CALL)))
    thread.start()
    thread.join()
    assert found == [[1.0, 2.0]]


def test_a_function_cannot_change_the_lists_it_gets(write):
    body = "completions.clear()\nprompts[0] = ''\ncolumns['tags'][0].append(1)\nreturn [1.0, 1.0]"
    given = {"prompts": ["a", "b"], "completions": ["c", "d"], "tags": [["x"], ["y"]]}
    assert load_reward(write(body), None)(**given) == [1.0, 1.0]
    assert given == {"prompts": ["a", "b"], "completions": ["c", "d"], "tags": [["x"], ["y"]]}


def test_what_a_function_seeds_or_sets_is_undone(write, tmp_path):
    """Else all seeds of a run would be the function's: in its module, and in each call."""
    (tmp_path / "words.txt").write_text("So")
    name = write(
        "os.chdir('/')\ntorch.manual_seed(0)\nrandom.seed(0)\nnumpy.random.seed(0)\n"
        "return [float(word in text) for text in completions]",
        head="import numpy, os, random, torch\nfrom transformers import set_seed\nset_seed(42)\n"
        "torch.set_grad_enabled(False)\nword = open('words.txt').read()\nos.chdir('/tmp')\n",
    )

    def state() -> tuple:
        words = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        return *words, random.getstate(), os.getcwd(), torch.is_grad_enabled()

    before = state()
    assert load_reward(name, None)(**CALL) == [0.0, 1.0]
    assert state() == before


def test_random_rewards_depend_on_the_answers_alone(write):
    reward = load_reward(
        write("import random\nreturn [random.random() for _ in completions]"), None
    )
    first = reward(**CALL)
    assert reward(**CALL) == first != reward(["Hi?"] * 2, ["Ho.", "So."])


def test_an_interrupt_stays_an_interrupt(write):
    with pytest.raises(KeyboardInterrupt):
        load_reward(write("raise KeyboardInterrupt"), None)(**CALL)


def test_a_function_reads_conversations_without_invisible_marks(write):
    turns = [{"role": "system", "content": "Count."}, {"role": "user", "content": "One?"}]
    name = write("assert prompts == ['System: Count.\\n\\nUser: One?'], prompts\nreturn [1.0]")
    assert load_reward(name, None)([conversation(turns)], ["Two."]) == [1.0]


# --- what is told before a call


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "def f(prompts, completions): return []",
            r"takes \(prompts, completions\), but is called",
        ),
        ("def f(x, /, **columns): return []", "write def reward"),
        ("f = lambda *texts: []", r"takes \(\*texts\)"),
        ("async def f(prompts, completions, **columns): return []", "is an async function"),
        ("class f:\n    def __call__(self, **columns): return []", "is a class: name an object"),
        ("f = 3", "is no function but int"),
        ("f = len", "write def reward"),
    ],
)
def test_what_cannot_be_called_is_told_before_anything_runs(write, tmp_path, line, told):
    (tmp_path / "odd.py").write_text(line)
    for load in (load_reward, check_reward):
        with pytest.raises(SettingError, match=told) as error:
            load("odd:f", None)
        assert "'odd:f'" in str(error.value)


@pytest.mark.parametrize(
    "lines",
    [
        "f = lambda completions, **columns: [1.0 for _ in completions]",
        "import functools\ndef g(n, completions, **_): return [n] * 2\nf = functools.partial(g, 1)",
        "class F:\n    def __call__(self, prompts, completions, **_): return [1.0, 1.0]\nf = F()",
        "class F:\n    @staticmethod\n    def g(completions, **_): return [1.0, 1.0]\nf = F.g",
    ],
)
def test_lambdas_objects_and_partials_are_functions_too(write, tmp_path, lines):
    (tmp_path / "kinds.py").write_text(lines)
    assert load_reward("kinds:f", None)(**CALL, category=["", ""]) == [1.0, 1.0]
    assert check_reward("kinds:f", None) == f"function kinds:f of {tmp_path / 'kinds.py'}"


# --- columns that the user's prompts have


def test_a_column_that_a_prompt_lacks_is_none_and_the_error_says_which(write, tmp_path, capsys):
    (tmp_path / "sums.py").write_text(
        "def right(prompts, completions, answer, **columns):\n"
        "    return [float(gold in text) for gold, text in zip(answer, completions)]\n"
        "def kind(prompts, completions, answer, **columns):\n"
        "    return [float(gold is None) for gold in answer]\n"
    )
    asked = [Prompt("2+2?", columns={"answer": "4"}), Prompt("3+4?", columns={"answer": "7"})]
    plain = Prompt("And 5?")
    right = load_reward("sums:right", None)
    assert right(["2+2?", "3+4?"], ["It is 4.", "8"], **columns_of(asked)) == [1.0, 0.0]
    for prompts in ([*asked, plain], [plain]):
        texts = [prompt.text for prompt in prompts]
        with pytest.raises(RunError) as error:
            right(texts, ["4 7"] * len(texts), **columns_of(prompts))
        assert "sums:right (sums.py, line 2) raised TypeError" in str(error.value)
        assert "The column 'answer' is None for the prompt 'And 5?'." in str(error.value)
    capsys.readouterr()
    kind = load_reward("sums:kind", None)
    for _ in range(2):
        assert kind(["And 5?"], ["x"], **columns_of([plain])) == [1.0]
    out = capsys.readouterr().out
    assert out.count("sums:kind gets None for answer: no prompt has such a column.") == 1


# --- where a module lies


def test_a_module_is_found_beside_the_shell_by_name_by_path_and_before_a_package(write, tmp_path):
    for name in ("beside", "torch", "wave"):
        write("from helper_of_mine import number\nreturn [number] * 2", name)
    (tmp_path / "helper_of_mine.py").write_text("number = 5.0")
    torch_before = sys.modules["torch"]
    for name, file in (
        ("beside:polite", "beside.py"),
        ("beside.py:polite", "beside.py"),
        (f"{tmp_path}/beside.py:polite", "beside.py"),
        ("torch:polite", "torch.py"),
        ("wave:polite", "wave.py"),
    ):
        assert load_reward(name, None)(**CALL) == [5.0, 5.0]
        assert check_reward(name, None) == f"function {name} of {tmp_path / file}"
    assert sys.modules["torch"] is torch_before is torch
    import wave

    assert not str(wave.__file__).startswith(str(tmp_path))


def test_an_edited_module_is_run_again(write):
    name = write("return [1.0, 1.0]")
    first, digest = load_reward(name, None), digest_of(name, None)
    write("return [2.0, 2.0]")
    assert load_reward(name, None)(**CALL) == [2.0, 2.0] and first(**CALL) == [1.0, 1.0]
    assert digest_of(name, None) != digest


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ("1 / 0\n", r"ZeroDivisionError: division by zero \(mine_own.py, line 1\)"),
        ("import sys\nsys.exit()\n", r"SystemExit \(mine_own.py, line 2\)"),
        ("def (\n", "SyntaxError: .*mine_own.py, line 1"),
        ("import no_such_thing\n", r"No module named 'no_such_thing' \(mine_own.py, line 1\)"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_with_its_line(write, head, told):
    with pytest.raises(SettingError, match=told):
        load_reward(write("return []", head=head), None)


def test_a_module_that_is_nowhere_is_told_with_where_it_was_sought(write, tmp_path):
    for name in ("nowhere_at_all:polite", "nowhere_at_all.py:polite"):
        with pytest.raises(SettingError, match=f"nowhere_at_all.* in {tmp_path}, ") as error:
            check_reward(name, None)
        assert isinstance(error.value, ExplainedError)


def test_a_relative_folder_of_a_model_is_looked_up_beside_the_shell(write, tmp_path):
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "reward_config.json").write_text("{}")
    assert check_reward("judge", None) == f"reward model in {tmp_path / 'judge'}"
    assert check_reward("reward_model", None) == "reward model of 03_reward_model"
