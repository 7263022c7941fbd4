"""The cells of 02 that sample and rank, interrupted like a kernel and run again."""

import functools
import itertools
import json
from pathlib import Path

import pytest
import torch

from rlhf_utils.data import rows
from rlhf_utils.errors import RunError
from rlhf_utils.models import sampling
from rlhf_utils.models.load import load_model
from rlhf_utils.preferences import annotators, label_queue, pairs
from rlhf_utils.preferences.store import LabelStore
from rlhf_utils.run.stage import Stage

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "02_preferences.ipynb"
CELLS = {cell["id"]: "".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"]}
MORE = {"num_other_prompts": 2, "batch_size": 12}


def notebook(tokenizer, run: str) -> dict:
    """The names that 02 has before it samples."""
    space = vars(rows) | vars(sampling) | {"functools": functools, "sampling": sampling}
    space |= {"annotators": annotators, "label_queue": label_queue, "pairs": pairs}
    exec(CELLS["02-04"], space)
    space |= {"run": run, "num_prompts": 7, "response_length": 8, "more": MORE}
    stage = Stage("preferences", space)
    return space | {
        "stage": stage,
        "settings": stage.settings(label_queue.CollectionSettings),
        "generator": torch.Generator().manual_seed(0),
        "tokenizer": tokenizer,
        "policy": load_model("tiny", torch.float32),
        "store": LabelStore(stage.dir / "labels.sqlite"),
    }


def interrupted_after(count: int):
    """A stage.track whose loop is interrupted as item number `count` begins."""

    def track(iterable, description):
        yield from itertools.islice(iterable, count)
        raise KeyboardInterrupt

    return track


def quietly(iterable, description):
    return iterable


def interrupt(space: dict, cell: str, count: int) -> str:
    """What the cell says when it is interrupted."""
    space["stage"].track = interrupted_after(count)
    with pytest.raises(RunError) as stopped:
        exec(CELLS[cell], space)
    assert stopped.value.__suppress_context__  # no traceback of the library's
    space["stage"].track = quietly
    return str(stopped.value)


def test_sampling_that_is_interrupted_goes_on_where_it_was(outputs, tokenizer):
    whole, stopped = (notebook(tokenizer, run) for run in ("whole", "stopped"))
    whole["stage"].track = quietly
    for space in (whole, stopped):
        exec(CELLS["02-09"], space)
    exec(CELLS["02-10"], whole)
    told = interrupt(stopped, "02-10", 2)
    assert told == "Stopped after 24 of 36 answers. Run this cell again to go on."
    exec(CELLS["02-10"], stopped)
    assert stopped["answers"] == whole["answers"] and len(whole["answers"]) == 9


def test_ranking_in_code_that_is_interrupted_goes_on_where_it_was(outputs, tokenizer):
    judged = {}
    for run in ("whole", "stopped"):
        space = notebook(tokenizer, run)
        space["stage"].track = quietly
        prompts = [rows.Prompt(f"p{n}") for n in range(9)]
        space["items"] = [pairs.Item(each, ["A tree.", "No.", "It is so."]) for each in prompts]
        if run == "stopped":
            told = interrupt(space, "02-12", 5)
            assert told == "Stopped after 5 rankings. Run this cell again to go on."
        exec(CELLS["02-12"], space)
        found = space["store"].judgements(kinds=pairs.KINDS)
        judged[run] = [(each.annotator, each.prompt, each.kind, each.ranks) for each in found]
    assert judged["stopped"] == judged["whole"] and len(judged["whole"]) >= 27
