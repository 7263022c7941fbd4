"""No judgement is lost or doubled: threads, processes, a kill -9, an old file, a message that comes twice."""

import multiprocessing
import os
import queue
import random
import signal
import sqlite3
import threading
import time
from contextlib import closing

import pytest
from jupyter_client.manager import start_new_kernel

from rlhf_utils.errors import SettingError
from rlhf_utils.preferences.store import KINDS, SCHEMA_VERSION, LabelStore


def raw_rows(path) -> list[tuple]:
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    rows = db.execute("SELECT * FROM judgements ORDER BY id").fetchall()
    db.close()
    return rows


def test_store_round_trip(tmp_path):
    store = LabelStore(tmp_path / "new" / "labels.sqlite")
    number = store.add(
        "7",
        "ada",
        "Say “é”",
        ['a "b"\n', "日本"],
        [1, 0],
        [2, 1],
        session="s",
        confidence=0.5,
        flags=["unsafe"],
        note="hm",
        shown_at=12.5,
        margin=2.0,
        uid="u",
    )
    (row,) = LabelStore(tmp_path / "new" / "labels.sqlite").rows()  # opened anew
    submitted = row.pop("submitted_at")
    assert submitted > 1.7e9
    assert row == {
        "id": number,
        "item_id": "7",
        "annotator": "ada",
        "session": "s",
        "prompt": "Say “é”",
        "responses": ['a "b"\n', "日本"],
        "shown_order": [1, 0],
        "ranks": [2, 1],
        "confidence": 0.5,
        "flags": ["unsafe"],
        "note": "hm",
        "shown_at": 12.5,
        "kind": "ranking",
        "margin": 2.0,
        "uid": "u",
        "schema_version": SCHEMA_VERSION,
    }


def test_undo_is_a_tombstone(tmp_path):
    path = tmp_path / "labels.sqlite"
    store = LabelStore(path)
    first, second = (store.add(item, "ada", "p", ["a", "b"], [0, 1], [1, 2]) for item in "xy")
    before = raw_rows(path)
    store.undo(first)
    assert [row["id"] for row in store.rows()] == [second]
    assert (
        raw_rows(path)[:2] == before and len(raw_rows(path)) == 3
    )  # append-only: what was there stays as it was
    again = store.add("x", "ada", "p", ["a", "b"], [0, 1], [2, 1])
    assert [row["id"] for row in store.rows()] == [second, again]


def test_undo_of_what_is_not_there_takes_back_nothing(tmp_path):
    """Least of all a judgement that comes later and happens to get the number."""
    store = LabelStore(tmp_path / "labels.sqlite")
    with pytest.raises(ValueError):
        store.undo(2)
    for item in "xyz":
        store.add(item, "ada", "p", ["a", "b"], [0, 1], [1, 2])
    assert [row["item_id"] for row in store.rows()] == ["x", "y", "z"]


def add_many(path, who: str, count: int) -> None:
    store = LabelStore(path)
    for number in range(count):
        store.add(str(number), who, "p", ["a", "b"], [0, 1], [1, 2])


@pytest.mark.parametrize(
    "ranks",
    [
        [1, 2],
        [1, 2, 3, 4],
        [0, 1, 2],
        [1, 2, -1],
        [1, 2, 2.5],
        [1, 2, "3"],
        [1, 2, None],
        [1, 2, True],
    ],
)
def test_invalid_ranks_are_refused(tmp_path, ranks):
    store = LabelStore(tmp_path / "labels.sqlite")
    with pytest.raises(ValueError, match="must be 3 whole numbers"):
        store.add("i", "ada", "p", ["a", "b", "c"], [0, 1, 2], ranks)
    assert store.rows() == []


def test_the_same_message_twice_is_one_judgement(tmp_path):
    store = LabelStore(tmp_path / "labels.sqlite")
    first, second = (
        store.add("7", "ada", "p", ["a", "b"], [0, 1], [1, 2], uid="one") for _ in range(2)
    )
    assert first == second and len(store.rows()) == 1


def test_a_skip_has_no_ranks_and_kinds_are_told_apart(tmp_path):
    store = LabelStore(tmp_path / "labels.sqlite")
    store.add("7", "ada", "p", ["a", "b"], [0, 1], [], kind="skip")
    store.add("7", "ada", "p", ["a", "b"], [0, 1], [1, 2], kind="repeat")
    assert store.rows() == [] and [row["kind"] for row in store.rows(kinds=KINDS)] == [
        "skip",
        "repeat",
    ]
    with pytest.raises(ValueError, match="kind='guess'"):
        store.add("7", "ada", "p", ["a", "b"], [0, 1], [1, 2], kind="guess")
    with pytest.raises(ValueError, match="shown_order"):
        store.add("7", "ada", "p", ["a", "b"], [0, 0], [1, 2])


def test_progress_is_what_stands(tmp_path):
    store = LabelStore(tmp_path / "labels.sqlite")
    numbers = [
        store.add(item, "ada", "p", ["a", "b"], [0, 1], [1, 2], session="s") for item in "xyz"
    ]
    store.undo(numbers[1])
    assert store.progress() == [
        (numbers[0], "x", "ada", "s", "ranking"),
        (numbers[2], "z", "ada", "s", "ranking"),
    ]


OLD = """CREATE TABLE judgements (id INTEGER PRIMARY KEY, undoes INTEGER, item_id TEXT, annotator TEXT, session TEXT, prompt TEXT, responses TEXT,
shown_order TEXT, ranks TEXT, confidence REAL, flags TEXT, note TEXT, shown_at REAL, submitted_at REAL, schema_version INTEGER);
INSERT INTO judgements VALUES (1, NULL, '7', 'ada', 's', 'p', '["a", "é"]', '[1, 0]', '[2, 1]', NULL, '[]', '', 1.0, 2.0, 1);
INSERT INTO judgements (id, undoes) VALUES (2, 1);
INSERT INTO judgements VALUES (3, NULL, '8', 'ada', 's', 'p', '["a", "b"]', '[1, 0]', '[1, 2]', 0.5, '["flagged"]', 'hm', 1.0, 2.0, 1);"""


def test_a_file_of_schema_1_is_brought_up_to_date(tmp_path):
    """As the first version made them: every judgement, tombstone and value stays, and new ones can be added."""
    path = tmp_path / "labels.sqlite"
    db = sqlite3.connect(path)
    db.executescript(OLD)
    db.close()
    before = raw_rows(path)
    store = LabelStore(path)
    assert [row[:15] for row in raw_rows(path)] == before
    (row,) = store.rows()
    assert (
        row["id"],
        row["kind"],
        row["margin"],
        row["uid"],
        row["flags"],
        row["schema_version"],
    ) == (3, "ranking", None, None, ["flagged"], 1)
    store.add("9", "ada", "p", ["a", "b"], [0, 1], [1, 2])
    assert [row["item_id"] for row in LabelStore(path).rows()] == ["8", "9"]


def test_a_file_of_a_later_schema_is_left_alone(tmp_path):
    path = tmp_path / "labels.sqlite"
    LabelStore(path)
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(SettingError, match="schema 99"):
        LabelStore(path)


def test_processes_and_threads_write_at_once(tmp_path):
    """A second notebook is another process; JupyterLab delivers a widget's message on another thread."""
    path = tmp_path / "labels.sqlite"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=add_many, args=(path, f"process{n}", 1000)) for n in range(4)]
    workers += [threading.Thread(target=add_many, args=(path, f"thread{n}", 100)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    assert [worker.exitcode for worker in workers[:4]] == [0] * 4
    rows = LabelStore(path).rows()
    assert len(rows) == len(raw_rows(path)) == 4200
    for name, count in [(f"process{n}", 1000) for n in range(4)] + [
        ("thread0", 100),
        ("thread1", 100),
    ]:
        assert [row["item_id"] for row in rows if row["annotator"] == name] == [
            str(n) for n in range(count)
        ]


def add_in_bulk_and_die(path, acknowledged):
    store = LabelStore(path)
    with store.in_bulk():
        for n in range(500):
            store.add(str(n), "ada", "p", ["a", "b"], [0, 1], [1, 2])
            acknowledged.value = n + 1
        os.kill(os.getpid(), signal.SIGKILL)


def test_kill_9_in_bulk_loses_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    acknowledged = context.Value("i", 0)
    worker = context.Process(
        target=add_in_bulk_and_die, args=(tmp_path / "labels.sqlite", acknowledged)
    )
    worker.start()
    worker.join(120)
    assert worker.exitcode == -signal.SIGKILL and acknowledged.value == 500
    assert [row[2] for row in raw_rows(tmp_path / "labels.sqlite")] == [str(n) for n in range(500)]


def test_only_in_bulk_is_the_disk_not_waited_for(tmp_path):
    store = LabelStore(tmp_path / "labels.sqlite")

    def synchronous() -> int:
        with closing(store._connect()) as db:
            return db.execute("PRAGMA synchronous").fetchone()[0]

    full, normal = 2, 1  # sqlite.org/pragma.html#pragma_synchronous
    with pytest.raises(KeyError), store.in_bulk():
        assert synchronous() == normal
        raise KeyError
    assert synchronous() == full


BURST = """
items = [{{"id": f"{burst}{{n:04d}}", "prompt": "p", "responses": ["a", "b"]}} for n in range(2000)]
ranker = RankingWidget(Desk(LabelQueue(items, LabelStore({path!r}), "me")))
for n in range(2000):
    ranker._received(None, {{"type": "rank", "uid": f"{burst}{{n:04d}}", "turn": n, "ranks": [1, 2]}}, [])
    print(ranker.state["saved"], flush=True)
"""


def test_kill_9_of_the_kernel_twenty_times_loses_no_acknowledged_label(tmp_path):
    """A burst of the widget's messages in a real kernel, killed in its midst: all that were acknowledged are there, in order, the file is whole."""
    path, acknowledged = tmp_path / "labels.sqlite", []
    for burst in "abcdefghijklmnopqrst":
        manager, client = start_new_kernel()
        client.execute(BURST.format(burst=burst, path=str(path)))
        said, killed = "", False
        while True:
            try:
                message = client.get_iopub_msg(timeout=60 if not killed else 1)
            except queue.Empty:
                break
            assert message["msg_type"] != "error", message["content"]
            said += message["content"]["text"] if message["msg_type"] == "stream" else ""
            if said and not killed:
                time.sleep(random.Random(burst).uniform(0.0, 0.1))
                os.kill(manager.provisioner.pid, signal.SIGKILL)
                killed = True
        acknowledged += said.split("\n")[:-1]  # the last line may be cut
        client.stop_channels()
        manager.cleanup_resources()
    found = [row[2] for row in raw_rows(path)]  # checks the file, too
    assert (
        killed
        and len(acknowledged) >= 20
        and [item for item in found if item in set(acknowledged)] == acknowledged
    )
    assert len(found) == len(set(found))
