"""Held-out prompts are checked against all that any stage was trained on."""

import json

import pytest

from rlhf_utils.data.rows import Prompt
from rlhf_utils.errors import RunError
from rlhf_utils.evaluation.heldout import check_heldout, learned_from
from rlhf_utils.preferences.pair_files import write_items
from rlhf_utils.preferences.pairs import Item


@pytest.fixture
def run(tmp_path):
    """A run with a source of its own for each stage; gives the folder and what was asked."""

    def write(name: str, **row) -> str:
        (tmp_path / name).write_text(json.dumps(row))
        return str(tmp_path / name)

    items = [Item(Prompt("of 02"), ["a", "b"]), Item(Prompt("of the test"), ["a", "b"], "other")]
    write_items(tmp_path / "preferences/items.jsonl", items)
    return tmp_path, {
        "preferences": {},
        "sft": {"demonstrations": write("sft.jsonl", prompt="of 01", completion="Yes.")},
        "reward_model": {
            "preferences": write("pairs.jsonl", prompt="of 03", chosen="a", rejected="b")
        },
        "ppo": {"prompts": write("prompts.jsonl", prompt="of 04")},
    }


@pytest.mark.parametrize(
    "text, source",
    [
        ("of 01", "demonstrations of 01"),
        ("of 02", "prompts of 02"),
        ("of 03", "preferences of 03"),
        ("of 04", "prompts of 04"),
        ("  Of\n04 ", "prompts of 04"),
        ("ＯＦ\u00a004", "prompts of 04"),
    ],
)
def test_every_source_of_training_is_known(run, text, source):
    with pytest.raises(RunError, match=f"1 held-out prompts were trained on.*among the {source}"):
        check_heldout([Prompt("new"), Prompt(text)], learned_from(*run))


def test_new_prompts_pass_and_so_do_those_that_only_test_the_reward_model(run):
    check_heldout([Prompt("new"), Prompt("of the test"), Prompt("of 0")], learned_from(*run))


@pytest.mark.parametrize(
    "source, file",
    [("preferences of 03", "pairs.jsonl"), ("prompts of 02", "preferences/items.jsonl")],
)
def test_a_source_that_is_gone_is_told(run, source, file):
    folder, asked = run
    (folder / file).unlink()
    with pytest.raises(RunError, match=f"the {source} cannot be read again: .*{file}"):
        learned_from(folder, asked)


def test_what_a_stage_has_told_of_its_rows_is_not_told_again(run, capsys):
    folder, asked = run
    rows = [{"prompt": f"of 04, {n}"} for n in range(200)]
    lines = [json.dumps(row) for row in rows] + ["{"]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    assert len(learned_from(folder, asked)["prompts of 04"]) == 200
    assert capsys.readouterr().out == ""


def test_a_run_of_a_reward_of_ones_own_has_no_02_and_no_03(tmp_path):
    (tmp_path / "sft.jsonl").write_text(json.dumps({"prompt": "of 01", "completion": "Yes."}))
    asked = {"sft": {"demonstrations": str(tmp_path / "sft.jsonl")}, "ppo": {"prompts": "builtin"}}
    assert sorted(learned_from(tmp_path, asked)) == ["demonstrations of 01", "prompts of 04"]
