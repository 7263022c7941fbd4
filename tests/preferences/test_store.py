"""No judgement is lost or doubled: threads, processes, kill -9, old files, messages sent twice."""

import hashlib
import json
import multiprocessing
import os
import queue
import random
import signal
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import replace

import pytest
from judged import make_item, said
from jupyter_client.manager import start_new_kernel

from rlhf_utils.errors import DataError, SettingError
from rlhf_utils.preferences.pairs import KINDS, Judgement
from rlhf_utils.preferences.store import LabelStore


def raw_rows(path) -> list[tuple]:
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    rows = db.execute("SELECT * FROM judgements ORDER BY id").fetchall()
    db.close()
    return rows


def judged(number) -> Judgement:
    """Of an item of its own."""
    return said(make_item(str(number)), [1, 2])


def prompts(judgements) -> list[str]:
    return [judgement.prompt for judgement in judgements]


ABOUT = {"shown_order": [1, 0], "session": "s", "confidence": 0.5, "note": "hm", "shown_at": 1.0}


def test_store_round_trip(tmp_path):
    item = make_item("Say “é”", ['a "b"\n', "日本"])
    judgement = said(item, [2, 1], **ABOUT, flags=["unsafe"], strength=2.0, uid="u")
    number = LabelStore(tmp_path / "new" / "labels.sqlite").add(judgement)
    (found,) = LabelStore(tmp_path / "new" / "labels.sqlite").judgements()  # opened anew
    assert found.submitted_at > 1.7e9
    assert found == replace(judgement, id=number, submitted_at=found.submitted_at)


def test_undo_is_a_tombstone(tmp_path):
    path = tmp_path / "labels.sqlite"
    store = LabelStore(path)
    first, second = store.add(judged("x")), store.add(judged("y"))
    before = raw_rows(path)
    store.undo(first)
    assert [judgement.id for judgement in store.judgements()] == [second]
    # append-only: what was there stays as it was
    assert raw_rows(path)[:2] == before and len(raw_rows(path)) == 3
    again = store.add(said(make_item("x"), [2, 1]))
    assert [judgement.id for judgement in store.judgements()] == [second, again]


def test_undo_of_what_is_not_there_takes_back_nothing(tmp_path):
    """Least of all a judgement that comes later and happens to get the number."""
    store = LabelStore(tmp_path / "labels.sqlite")
    with pytest.raises(ValueError):
        store.undo(2)
    for name in "xyz":
        store.add(judged(name))
    assert prompts(store.judgements()) == ["x", "y", "z"]


def add_many(path, who: str, count: int) -> None:
    store = LabelStore(path)
    for number in range(count):
        store.add(replace(judged(number), annotator=who))


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
        store.add(said(make_item("p", "abc"), ranks))
    assert store.judgements() == []


def test_the_same_message_twice_is_one_judgement(tmp_path):
    store = LabelStore(tmp_path / "labels.sqlite")
    message = replace(judged(7), uid="one")
    assert store.add(message) == store.add(message) and len(store.judgements()) == 1


def test_a_skip_has_no_ranks_and_kinds_are_told_apart(tmp_path):
    store, item = LabelStore(tmp_path / "labels.sqlite"), make_item()
    store.add(said(item, [], kind="skip"))
    store.add(said(item, [1, 2], kind="repeat"))
    assert store.judgements() == []
    assert [judgement.kind for judgement in store.judgements(kinds=KINDS)] == ["skip", "repeat"]
    with pytest.raises(ValueError, match="kind='guess'"):
        store.add(said(item, [1, 2], kind="guess"))
    with pytest.raises(ValueError, match="shown_order"):
        store.add(said(item, [1, 2], shown_order=[0, 0]))


def test_progress_is_what_stands(tmp_path):
    store = LabelStore(tmp_path / "labels.sqlite")
    made = [replace(judged(name), session="s") for name in "xyz"]
    numbers = [store.add(judgement) for judgement in made]
    store.undo(numbers[1])
    assert store.progress() == [
        (numbers[0], made[0].item_id, "ada", "s", "ranking"),
        (numbers[2], made[2].item_id, "ada", "s", "ranking"),
    ]


OLD = """CREATE TABLE judgements (id INTEGER PRIMARY KEY, undoes INTEGER, item_id TEXT,
annotator TEXT, session TEXT, prompt TEXT, responses TEXT, shown_order TEXT, ranks TEXT,
confidence REAL, flags TEXT, note TEXT, shown_at REAL, submitted_at REAL, schema_version INTEGER);
INSERT INTO judgements VALUES (1, NULL, '7', 'ada', 's', 'p', '["a", "é"]', '[1, 0]', '[2, 1]',
NULL, '[]', '', 1.0, 2.0, 1);
INSERT INTO judgements (id, undoes) VALUES (2, 1);
INSERT INTO judgements VALUES (3, NULL, '8', 'ada', 's', 'p', '["a", "b"]', '[1, 0]', '[1, 2]',
0.5, '["flagged"]', 'hm', 1.0, 2.0, 1);"""


def test_a_file_of_schema_1_is_brought_up_to_date(tmp_path):
    """As the first version made them: every judgement, tombstone and value stays; new ones come."""
    path = tmp_path / "labels.sqlite"
    db = sqlite3.connect(path)
    db.executescript(OLD)
    db.close()
    before = raw_rows(path)
    store = LabelStore(path)
    after = [row[:15] for row in raw_rows(path)]
    names = [make_item("p", ["a", "é"]).id, None, make_item().id]
    assert [row[2] for row in after] == names  # only the items' names are new
    assert [row[:2] + row[3:] for row in after] == [row[:2] + row[3:] for row in before]
    third = said(make_item(), [1, 2], **ABOUT, flags=["flagged"], submitted_at=2.0, id=3)
    assert store.judgements() == [third]
    store.add(judged("q"))
    assert prompts(LabelStore(path).judgements([make_item(), make_item("q")])) == ["p", "q"]


SCHEMA_2 = """CREATE TABLE judgements (id INTEGER PRIMARY KEY, undoes INTEGER, item_id TEXT,
annotator TEXT, session TEXT, prompt TEXT, responses TEXT, shown_order TEXT, ranks TEXT,
confidence REAL, flags TEXT, note TEXT, shown_at REAL, submitted_at REAL, schema_version INTEGER,
kind TEXT NOT NULL DEFAULT 'ranking', margin REAL, uid TEXT);
CREATE UNIQUE INDEX one_uid ON judgements (uid);
INSERT INTO judgements VALUES (1, NULL, '8', 'ada', 'widget', 'p', '["a", "b"]', '[1, 0]', '[1, 2]',
NULL, '[]', '', 1.0, 2.0, 2, 'repeat', 3.0, 'u');
PRAGMA user_version = 2;"""


def test_columns_keep_their_names_on_disk(tmp_path):
    """A store made before answers and strength had these names in Python."""
    path = tmp_path / "labels.sqlite"
    db = sqlite3.connect(path)
    db.executescript(SCHEMA_2)
    db.close()
    (found,) = LabelStore(path).judgements(kinds=KINDS)
    assert (found.answers, found.strength, found.kind) == (["a", "b"], 3.0, "repeat")
    LabelStore(path).add(replace(found, uid="v"))
    db = sqlite3.connect(path)
    told = "SELECT responses, margin, kind, item_id FROM judgements"
    assert len(set(db.execute(told).fetchall())) == 1  # both rows
    db.close()


def old_id(prompt: str, answers: list[str]) -> str:
    """As schema 2 had it: another order of the answers was another item."""
    return hashlib.sha256("\0".join([prompt, *answers]).encode()).hexdigest()[:16]


def test_no_label_of_schema_2_is_lost(tmp_path):
    """Two people saw the same answers in two orders: now they judged the same item."""
    path = tmp_path / "labels.sqlite"
    db = sqlite3.connect(path)
    db.executescript(SCHEMA_2)
    insert = "INSERT INTO judgements (item_id, annotator, session, prompt, responses, shown_order, "
    insert += "ranks, flags, uid) VALUES (?, ?, '', 'q', ?, '[1, 0]', '[1, 2]', '[]', ?)"
    for who, answers in (("ann", ["x", "é"]), ("bob", ["é", "x"])):
        db.execute(insert, (old_id("q", answers), who, json.dumps(answers), who))
    db.commit()
    db.close()
    item = make_item("q", ["é", "x"])
    assert len(LabelStore(path).progress()) == 3
    first, second = LabelStore(path).judgements([item])
    assert (first.annotator, first.ranks, first.shown_order) == ("ann", [2, 1], [0, 1])
    assert (second.annotator, second.ranks, second.shown_order) == ("bob", [1, 2], [1, 0])
    (as_stored,) = [found for found in LabelStore(path).judgements() if found.annotator == "ann"]
    assert as_stored.answers == ["x", "é"] and as_stored.ranks == [1, 2]


def test_a_file_of_a_later_schema_is_left_alone(tmp_path):
    path = tmp_path / "labels.sqlite"
    LabelStore(path)
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(SettingError, match="schema 99"):
        LabelStore(path)


# --- all or none, and files that cannot be used


def test_all_are_stored_or_none(tmp_path):
    store = LabelStore(tmp_path / "labels.sqlite")
    known = replace(judged("x"), uid="x")
    store.add(known)
    assert store.add_all([known, judged("y"), replace(judged("z"), uid="z")]) == 2
    with pytest.raises(ValueError, match="whole numbers"):
        store.add_all([judged("v"), replace(judged("w"), ranks=[0, 1])])
    with pytest.raises(DataError, match="uid='z' of 'ada' on 'w' .* nothing was stored"):
        store.add_all([judged("v"), replace(judged("w"), uid="z")])
    assert prompts(store.judgements()) == ["x", "y", "z"]


@pytest.mark.parametrize("content", [b"{}" * 999, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file_is_told_and_left_as_it_is(tmp_path, content):
    path = tmp_path / "labels.sqlite"
    path.write_bytes(content)
    with pytest.raises(DataError, match="labels.sqlite is damaged, or no label store"):
        LabelStore(path)
    assert path.read_bytes() == content


def test_a_file_damaged_later_is_told(tmp_path):
    path = tmp_path / "labels.sqlite"
    store = LabelStore(path)
    store.add_all([judged(number) for number in range(200)])
    size = path.stat().st_size
    with path.open("r+b") as file:  # all but the first pages
        file.seek(8192)
        file.write(b"\xaa" * (size - 8192))
    with pytest.raises(DataError, match="labels.sqlite is damaged"):
        store.judgements()


def test_a_data_base_of_something_else_is_left_alone(tmp_path):
    path = tmp_path / "labels.sqlite"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE songs (title TEXT)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(DataError, match="no label store: it holds 'songs'"):
        LabelStore(path)
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="The folder .*file/below for the labels cannot be made"):
        LabelStore(tmp_path / "file" / "below" / "labels.sqlite")
    with pytest.raises(DataError, match="cannot be opened"):
        LabelStore(tmp_path)


@pytest.mark.parametrize(
    ("pragma", "told"),
    [("max_page_count = 8", "the disk is full. Make room"), ("query_only = 1", "read-only")],
)
def test_what_cannot_be_written_is_told_and_all_is_kept(tmp_path, monkeypatch, pragma, told):
    store = LabelStore(tmp_path / "labels.sqlite")
    store.add(judged("x"))
    connect = store._connect

    def limited():
        db = connect()
        db.execute(f"PRAGMA {pragma}")
        return db

    monkeypatch.setattr(store, "_connect", limited)
    for save in (store.add_all, lambda judgements: [store.add(each) for each in judgements]):
        with pytest.raises(DataError, match=told):
            save([judged("y" * 5000 + str(number)) for number in range(50)])
    monkeypatch.undo()
    assert prompts(store.judgements())[:1] == ["x"]


def test_processes_and_threads_write_at_once(tmp_path):
    """A second notebook is another process; a widget's message comes on another thread."""
    path = tmp_path / "labels.sqlite"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=add_many, args=(path, f"process{n}", 1000)) for n in range(4)]
    workers += [threading.Thread(target=add_many, args=(path, f"thread{n}", 100)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    assert [worker.exitcode for worker in workers[:4]] == [0] * 4
    found = LabelStore(path).judgements()
    assert len(found) == len(raw_rows(path)) == 4200
    counts = {f"process{n}": 1000 for n in range(4)} | {"thread0": 100, "thread1": 100}
    for name, count in counts.items():
        own = [judgement for judgement in found if judgement.annotator == name]
        assert prompts(own) == [str(n) for n in range(count)]


def add_in_bulk_and_die(path, acknowledged):
    store = LabelStore(path)
    with store.in_bulk():
        for n in range(500):
            store.add(judged(n))
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
    raw_rows(tmp_path / "labels.sqlite")  # checks the file
    found = LabelStore(tmp_path / "labels.sqlite").judgements()
    assert prompts(found) == [str(n) for n in range(500)]


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
from rlhf_utils.data.rows import Prompt
from rlhf_utils.preferences.label_queue import LabelQueue
from rlhf_utils.preferences.pairs import Item
from rlhf_utils.preferences.store import LabelStore
from rlhf_utils.preferences.widget import Desk, RankingWidget
names = [f"{burst}{{n:04d}}" for n in range(2000)]
items = [Item(Prompt(name), ["a", "b"]) for name in names]
ranker = RankingWidget(Desk(LabelQueue(items, LabelStore({path!r}), "me")), {{}})
for n, name in enumerate(names):
    message = {{"type": "rank", "uid": name, "turn": n, "ranks": [1, 2], "seconds": 1}}
    ranker._received(None, message, [])
    print(ranker.state["saved"], flush=True)
"""


def test_kill_9_of_the_kernel_twenty_times_loses_no_acknowledged_label(tmp_path):
    """A burst of the widget's messages in a real kernel, killed in its midst.

    All that were acknowledged are there, in order, and the file is whole.
    """
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
    raw_rows(path)  # checks the file
    found = prompts(LabelStore(path).judgements())
    assert killed and len(acknowledged) >= 20
    assert [name for name in found if name in set(acknowledged)] == acknowledged
    assert len(found) == len(set(found))
