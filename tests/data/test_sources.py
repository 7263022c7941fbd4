"""Files of every kind are read as they are written; a name that leads nowhere is one sentence."""

import gzip
import json
import os
import re

import pytest

from rlhf_utils.data import sources
from rlhf_utils.data.rows import (
    Demonstration,
    Prompt,
    load_demonstrations,
    load_pairs_rows,
    load_prompts,
)
from rlhf_utils.errors import DataError
from rlhf_utils.records import records

ROWS = [{"prompt": "Hi?", "completion": "Hello."}, {"prompt": "Why?", "completion": "So."}]
READ = [Demonstration(Prompt("Hi?"), "Hello."), Demonstration(Prompt("Why?"), "So.")]
LINES = "\n".join(map(json.dumps, ROWS))
TABLE = "prompt,completion\nHi?,Hello.\nWhy?,So.\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.jsonl", LINES),
        ("x.JSONL", "\ufeff" + LINES.replace("\n", "\r\n\r\n")),
        ("x.jsonl.gz", LINES),
        ("x.ndjson", LINES),
        ("x.json", LINES),
        ("x.json", json.dumps(ROWS, indent=1)),
        ("x.json", json.dumps({"data": ROWS})),
        ("x.Json.GZ", json.dumps({"version": 1, "rows": ROWS}, indent=1)),
        ("x.csv", TABLE),
        ("x.csv.gz", "\ufeff" + TABLE.replace("\n", "\r\n")),
        ("x.csv", TABLE.replace(",", ";")),
        ("x.csv", TABLE.replace("\n", "\r")),
        ("x.csv", TABLE.replace("\n", ",,\r\n") + ",,,\r\n" * 3),  # as spreadsheets leave it
        ("my.data.TSV", '"prompt"\tcompletion\nHi?\t"Hello."\nWhy?\tSo.'),
    ],
)
def test_files_of_every_kind(tmp_path, name, text):
    path = tmp_path / name
    for content in (text.encode(), gzip.compress(text.encode())):  # whatever the name says
        path.write_bytes(content)
        assert load_demonstrations(str(path)) == READ


def test_parquet_and_saved_data_sets(tmp_path):
    from datasets import Dataset, DatasetDict, disable_progress_bars

    disable_progress_bars()
    table, none = Dataset.from_list(ROWS), Dataset.from_list(ROWS[:1])
    table.to_parquet(str(tmp_path / "x.PARQUET"))
    table.save_to_disk(str(tmp_path / "one"))
    DatasetDict(train=table, test=none).save_to_disk(str(tmp_path / "several"))
    for name in ("x.PARQUET", "one", "several", "several@train"):
        assert load_demonstrations(str(tmp_path / name)) == READ
    assert load_demonstrations(f"{tmp_path}/several@test") == READ[:1]
    with pytest.raises(DataError, match="no split 'dev', but 'train', 'test'"):
        load_demonstrations(f"{tmp_path}/several@dev")


def test_cells_stay_the_texts_that_they_are(tmp_path):
    """No guess at numbers, truth or nothing: eight is "8", the agent "007", a keyword "None"."""
    cells = ["8", "3.50", "007", "TRUE", "NA", "None", "null", "1e5", " x "]
    lines = [f"Question {number}?,{cell}" for number, cell in enumerate(cells)]
    (tmp_path / "x.csv").write_text("prompt,completion\n" + "\n".join(lines))
    assert [each.answer for each in load_demonstrations(str(tmp_path / "x.csv"))] == cells
    (tmp_path / "p.csv").write_text("prompt,chosen,rejected,margin\nCode?,NA,NB,\nLegs?,8,6,1.5\n")
    assert [list(row.values()) for row in load_pairs_rows(str(tmp_path / "p.csv"))] == [
        ["Code?", "NA", "NB", None],
        ["Legs?", "8", "6", 1.5],
    ]


def test_lines_of_a_table_are_those_of_the_file(tmp_path):
    """A cell over two lines moves them; a row with a cell too many or too few is a bad row."""
    text = '\nprompt,completion\n"a\nb",c\n\nd,e,f\ng\n"h"i,j\nk,l\n'
    (tmp_path / "x.csv").write_text(text)
    found = list(records(tmp_path / "x.csv"))
    assert [line for line, _ in found] == [3, 6, 7, 8, 9]
    assert [isinstance(record, dict) for _, record in found] == [True, False, False, False, True]
    assert found[0][1] == {"prompt": "a\nb", "completion": "c"}
    assert "3 cells, the header has 2" in str(found[1][1])


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("x.json", b"[{", "x.json cannot be read: not JSON .*column 3"),
        ("x.json", b"[1,\n2", "x.json cannot be read: not JSON .*line 2, column 2"),
        ("x.json", b'{"a": [{"p": 1}],\n "b": [{"p": 1}]}', "holds several lists, 'a', 'b'"),
        ("x.json", b"[" * 100_000, "nested too deeply"),
        ("x.jsonl", b'{"prompt": ' * 100_000, "nested too deeply"),
        ("x.jsonl", b'{"n": 1%s}' % (b"0" * 5000), "value has 5001 digits"),
        ("x.jsonl", b'{"prompt": "a", "prompt": "b"}', "'prompt' twice"),
        ("x.jsonl", b'{"prompt": "caf\xe9"}\n', "not UTF-8 text .* in line 1"),
        ("x.csv", b"", "holds no rows"),
        ("x.csv", b"prompt,a,a\nx,y,z\n", "'a' twice among its columns"),
        ("x.csv", "prompt\nHi?".encode("utf-16"), "not UTF-8 text .* in line 1.: save it as UTF-8"),
        ("x.csv", b"prompt\nWhat is it?,really", "line 2: it has 2 cells, the header has 1"),
        ("x.jsonl", b'{\n "prompt": "a"\n}\n{\n "prompt": "b"\n}', "line 4, .* one object a line"),
        ("x.csv", b'prompt\nx\n"y\nz\n', "x.csv, line 3 cannot be read as a table"),
        ("x.jsonl.gz", gzip.compress(LINES.encode())[:-12], "cannot be unpacked: it is damaged"),
        ("x.parquet", b"PAR1", "x.parquet cannot be read as parquet: Arrow"),
        ("x.xlsx", b"PK", "x.xlsx cannot be read as data: .* .jsonl, .json, .csv or .tsv"),
        ("x.txt", b"Hi?", "x.txt cannot be read as data"),
        ("x.yaml", b"prompt: Hi?", "x.yaml cannot be read as data"),
        ("x.gz", b"", "x.gz cannot be read as data"),
    ],
)
def test_an_unreadable_file_is_one_sentence(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=told) as refused:
        load_prompts(str(tmp_path / name))
    assert "\n" not in str(refused.value)


@pytest.fixture
def nothing_is_asked(monkeypatch):
    """The hub must not be asked."""
    monkeypatch.setattr(sources, "_hub_records", lambda *parts: pytest.fail(f"asked for {parts}"))


@pytest.mark.parametrize(
    "name",
    [
        "my_data.jsonl",
        "data/my_data.CSV",
        "none.parquet",
        "owner/rows.xlsx",
        "notes.yaml",
        "a/b/c",
        "./rows",
        "../no-such-rows",
        "/nowhere",
        "two words",
        "nul\0.jsonl",
        "~nobody-of-that-name/x.jsonl",
        "owner/name@",
        "rows@2024.jsonl",
        "https://example.com/x",
    ],
)
def test_a_name_that_leads_nowhere_is_told_at_once(nothing_is_asked, name):
    with pytest.raises(DataError, match="There is no file .*owner/name@split") as refused:
        load_demonstrations(name)
    assert "\0" not in str(refused.value)


def test_odd_paths_are_told(nothing_is_asked, tmp_path):
    os.symlink(tmp_path / "loop.csv", tmp_path / "loop.csv")
    for name in (f"{tmp_path}/loop.csv", "x" * 5000, "x" * 5000 + ".jsonl"):
        with pytest.raises(DataError, match="There is no file ") as refused:
            load_prompts(name)
        assert len(str(refused.value)) < 500
    with pytest.raises(DataError, match="is a folder without data: .*.parquet"):
        load_prompts(str(tmp_path))
    for name in ("", " ", None, 3):
        with pytest.raises(DataError, match="names no data"):
            load_prompts(name)
    for name in ("bultin", "crisp"):
        with pytest.raises(DataError, match=f"{name}' is no data set here: give 'builtin'"):
            load_prompts(name)


# --- the hub, which the tests never reach


@pytest.mark.parametrize("name", ["nobody/nothing", "nothing", "nobody/nothing.v2:en@test"])
def test_an_unreachable_hub_id_is_one_sentence(name):
    """Offline in the tests, see conftest.py."""
    with pytest.raises(DataError, match=f"{re.escape(repr(name))}: .*Couldn't reach") as refused:
        load_demonstrations(name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("owner/name", ("owner/name", None, "train")),
        ("owner/name:en", ("owner/name", "en", "train")),
        ("owner/name@test", ("owner/name", None, "test")),
        ("owner/name:20240301.en@test", ("owner/name", "20240301.en", "test")),
        ("gsm8k", ("gsm8k", None, "train")),
    ],
)
def test_configuration_and_split_of_a_hub_id(monkeypatch, name, asked):
    import datasets

    def load_dataset(name, config, split):
        assert (name, config, split) == asked
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_demonstrations(name) == READ


def test_the_cause_of_a_failed_load_is_kept(monkeypatch):
    """Here: which splits there are."""
    import datasets

    def load_dataset(*parts, split):
        try:
            raise ValueError(f"Unknown split {split!r}.\nShould be one of ['test', 'dev'].")
        except ValueError as error:
            raise RuntimeError("it failed") from error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"'train'. Should be one of \['test', 'dev'\]"):
        load_demonstrations("owner/name")


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    import datasets
    import huggingface_hub

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    calls = []

    def dataset_info(self, name, timeout):
        calls.append(timeout)
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked again"))
    with pytest.raises(DataError, match="ConnectionError: no route.*HF_HUB_OFFLINE=1"):
        load_demonstrations("owner/name")
    assert calls == [sources.PATIENCE_S]
