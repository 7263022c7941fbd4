"""Files are written whole or not at all, and read back as they were written."""

import json
import os
import threading
from pathlib import Path

import pytest

from rlhf_utils import files
from rlhf_utils.errors import DataError
from rlhf_utils.files import digest


def folder_of(path: Path, contents: dict[str, str]) -> Path:
    for name, content in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    return path


def test_digest_changes_with_names_contents_and_number_of_files(tmp_path):
    cases = [
        {"a": "x"},
        {"a": "y"},
        {"b": "x"},
        {"a": "x", "b": "x"},
        {"a": "x", "b": "y"},
        {"a": "y", "b": "x"},
    ]
    folders = [folder_of(tmp_path / str(number), files) for number, files in enumerate(cases)]
    assert len({digest(folder) for folder in folders}) == len(cases)
    assert digest(folders[0] / "a") == digest(folders[3] / "a") != digest(folders[1] / "a")
    assert digest(folder_of(tmp_path / "again", {"b": "x", "a": "x"})) == digest(
        folders[3]
    )  # not with the order of writing


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": "xb"}, {"ax": "b"}),
        ({"a": "x", "b": ""}, {"a": "xb"}),
        ({"a": "x", "b": "x"}, {"a": "x", "c/b": "x"}),
    ],
)
def test_digest_knows_where_names_end_and_in_which_folder_they_are(tmp_path, one, other):
    assert digest(folder_of(tmp_path / "1", one)) != digest(folder_of(tmp_path / "2", other))


def test_write_json_is_never_met_half_written(tmp_path):
    path, stop, met, broken = tmp_path / "new" / "x.json", threading.Event(), [], []
    files.write_json(path, {"n": 0, "text": "x" * 200_000})

    def read():
        while not stop.is_set():
            try:
                met.append(json.loads(path.read_text())["n"])
            except ValueError as error:
                broken.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(100):
        files.write_json(path, {"n": n, "text": "x" * 200_000})
    stop.set()
    reader.join()
    assert met and met == sorted(met) and not broken


def test_write_json_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    files.write_json(path, {"old": 1})
    with pytest.raises((AttributeError, ValueError)):
        files.write_json(path, {"new": object()})
    monkeypatch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError):
        files.write_json(path, {"new": 1})
    assert files.read_json(path) == {"old": 1}


def test_jsonl_log_keeps_and_cuts(tmp_path):
    path = tmp_path / "new" / "metrics.jsonl"
    log = files.JsonlLog(path)
    rows = [{"n": n, "text": "é\n"} for n in range(4)]
    for row in rows:
        log.add(row)
    log.cut(9)
    assert log.rows == rows
    log.cut(3)
    assert len(path.read_text().strip("\n").split("\n")) == 3
    assert files.read_file(path) == rows[:3]
    again = files.JsonlLog(path, rows[:2])
    again.add({"n": 9})
    assert [row["n"] for row in files.read_file(path)] == [0, 1, 9]
    assert files.JsonlLog(path).rows == [] and path.read_text() == ""


def test_jsonl_log_keeps_what_a_model_may_write(tmp_path):
    """str.splitlines ends a line at U+2028, JSON does not."""
    files.JsonlLog(tmp_path / "samples.jsonl").add({"answer": "a\u2028b"})
    assert files.read_file(tmp_path / "samples.jsonl") == [{"answer": "a\u2028b"}]


def test_digest_leaves_out_what_a_stage_notes_on_itself(tmp_path):
    folder = folder_of(tmp_path / "1", {"a": "x"})
    before = digest(folder)
    folder_of(folder, {"manifest.json": "{}", "deep/progress.json": "{}"})
    assert digest(folder) == before


def test_strict_json_has_no_nan_and_plain_numbers(tmp_path):
    import numpy as np

    content = {"nan": float("nan"), "inf": [float("-inf")], "n": np.int64(3), "x": np.float32(0.5)}
    files.write_json(tmp_path / "x.json", content)
    assert files.read_json(tmp_path / "x.json") == {"nan": None, "inf": [None], "n": 3, "x": 0.5}


def test_hidden_files_do_not_make_a_folder_another(tmp_path):
    """What Finder and JupyterLab leave behind."""
    folder = folder_of(tmp_path / "1", {"a": "x", "deep/b": "y"})
    before = digest(folder)
    folder_of(folder, {".DS_Store": "z", "deep/.ipynb_checkpoints/a-checkpoint": "x"})
    assert digest(folder) == before
    folder_of(folder, {"deep/c": ""})
    assert digest(folder) != before
    hidden = folder_of(tmp_path / ".cache", {"a": "x", "deep/b": "y"})
    assert digest(hidden) == before, "only what lies below the folder may be hidden"


def test_two_processes_never_write_to_one_temporary_file(tmp_path, monkeypatch):
    aside, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (aside.append(old), replace(old, new)))
    for process in (1, 2, 2):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        files.write_text(tmp_path / "x.json", "{}")
    assert len(set(aside)) == 3 and os.listdir(tmp_path) == ["x.json"]
    monkeypatch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        files.write_text(tmp_path / "x.json", "[]")
    assert os.listdir(tmp_path) == ["x.json"] and files.read_json(tmp_path / "x.json") == {}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "There is no file .*x.json"),
        (b"", "x.json is damaged: not JSON"),
        (b'{"a": 1', "x.json is damaged: not JSON"),
        (b'{"a": "\xff"}', "x.json is damaged: .*utf-8"),
        (b"[]", "x.json is damaged: it holds no object but list"),
        (b"{}" + b"\0" * 9, "x.json is damaged: not JSON"),
        (b'{"a": ' * 100_000, "x.json is damaged: not JSON .nested too deeply"),
    ],
)
def test_a_damaged_json_file_is_one_sentence(tmp_path, content, told):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=told) as refused:
        files.read_json(path)
    assert "\n" not in str(refused.value) and isinstance(refused.value, ValueError)


def test_a_log_of_one_row_that_holds_lists_is_one_row(tmp_path):
    row = {"update": 1, "samples": [{"prompt": "Hi?"}]}
    files.JsonlLog(tmp_path / "x.jsonl").add(row)
    assert files.read_file(tmp_path / "x.jsonl") == [row]


def test_printable():
    """Escapes, bidirectional marks and halves of characters show; scripts and emojis stay."""
    assert files.printable("\x1b[31m\r\n\u202e\ud83d") == r"\x1b[31m\r\n\u202e\ud83d"
    for text in ("Grüße, 日本\u3000語", "👩\u200d👧", "a b"):
        assert files.printable(text) == text
    assert files.printable("x" * 9, 3) == "xxx…"
