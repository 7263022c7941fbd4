"""The widget's Python side: one message is one judgement, errors come back as state, and the plain form asks the same questions."""

import time

import ipywidgets
import pytest

from rlhf_utils.preferences.label_queue import LabelQueue
from rlhf_utils.preferences.store import KINDS, LabelStore
from rlhf_utils.preferences.widget import Desk, live_readout, rank, ranking_form

ITEMS = [
    {"id": str(n), "prompt": f"p{n} <b>", "responses": [f"{n}a<script>", f"{n}b", f"{n}c"]}
    for n in range(4)
]


@pytest.fixture
def queue(tmp_path):
    return LabelQueue(ITEMS, LabelStore(tmp_path / "labels.sqlite"), "me")


def test_a_message_becomes_a_row_in_the_order_of_the_responses(queue):
    ranker = RankingWidget(Desk(queue))
    order = ranker.desk.turn.shown_order
    assert (
        ranker.state["item"]["responses"] == [ITEMS[0]["responses"][i] for i in order]
        and "id" in ranker.state["item"]
    )
    ranker._received(
        None,
        {
            "type": "rank",
            "uid": "u1",
            "turn": 0,
            "ranks": [3, 1, 2],
            "seconds": 5.0,
            "flags": ["flagged"],
            "note": "n",
            "confidence": 1,
        },
        [],
    )
    (row,) = queue.store.rows()
    assert (
        [row["ranks"][i] for i in order] == [3, 1, 2]
        and row["shown_order"] == order
        and row["session"] == "widget"
    )
    assert (row["flags"], row["note"], row["confidence"], row["uid"]) == (
        ["flagged"],
        "n",
        1.0,
        "u1",
    )
    assert row["submitted_at"] - row["shown_at"] == pytest.approx(5, abs=0.5)
    assert (ranker.state["saved"], ranker.state["turn"], ranker.state["progress"]["done"]) == (
        "u1",
        1,
        1,
    )


def test_the_same_message_twice_answers_one_question(queue):
    desk, message = Desk(queue), {"type": "rank", "uid": "u1", "turn": 0, "ranks": [1, 2, 3]}
    assert desk.receive(message)["saved"] == desk.receive(message)["saved"] == "u1"
    assert len(queue.store.rows()) == 1 and desk.state()["turn"] == 1


def test_a_second_view_loses_nothing(queue):
    """Two views of one widget answer the same question: the later answer is a repetition of the first, not dropped, and no label of the next."""
    desk = Desk(queue)
    desk.receive({"type": "rank", "uid": "u1", "turn": 0, "ranks": [1, 2, 3]})
    state = desk.receive({"type": "rank", "uid": "u2", "turn": 0, "ranks": [3, 2, 1]})
    first, second = queue.store.rows(kinds=KINDS)
    assert (first["item_id"], first["kind"], second["item_id"], second["kind"]) == (
        "0",
        "ranking",
        "0",
        "repeat",
    ) and state["turn"] == 1
    assert state["saved"] == "u2" and [second["ranks"][i] for i in second["shown_order"]] == [
        3,
        2,
        1,
    ]
    assert (
        "no such question"
        in desk.receive({"type": "rank", "uid": "u3", "turn": 7, "ranks": [1, 2, 3]})["error"][
            "text"
        ]
    )


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ({"ranks": [1, 2]}, "2 ranks came for 3 answers"),
        ({"ranks": [0, 1, 2]}, "must be 3 whole numbers"),
        ({"ranks": [1, 2, "3"]}, "must be 3 whole numbers"),
        ({"ranks": []}, "0 ranks came"),
        ({"ranks": [1, 2, 3], "confidence": "high"}, "high"),
        ({"ranks": 7}, "TypeError"),
    ],
)
def test_what_cannot_be_stored_keeps_the_question(queue, message, told):
    desk = Desk(queue)
    state = desk.receive({"type": "rank", "uid": "u", "turn": 0} | message)
    assert (
        told in state["error"]["text"]
        and state["error"]["uid"] == "u"
        and state["turn"] == 0
        and state["saved"] is None
    )
    assert (
        queue.store.rows(kinds=KINDS) == []
        and desk.receive({"type": "rank", "uid": "u", "turn": 0, "ranks": [1, 2, 3]})["saved"]
        == "u"
    )


def test_undo_brings_the_ranking_back(queue):
    desk = Desk(queue)
    assert "nothing to take back" in desk.receive({"type": "undo", "uid": "x"})["error"]["text"]
    desk.receive({"type": "rank", "uid": "u", "turn": 0, "ranks": [2, 1, 3], "flags": ["flagged"]})
    state = desk.receive({"type": "undo", "uid": "v"})
    assert (
        state["item"]["id"] == "0"
        and state["item"]["ranks"] == [2, 1, 3]
        and state["item"]["flags"] == ["flagged"]
        and state["progress"]["done"] == 0
    )


def test_an_undo_sent_twice_takes_one_judgement_back(queue):
    desk = Desk(queue)
    for turn in range(2):
        desk.receive({"type": "rank", "uid": f"u{turn}", "turn": turn, "ranks": [1, 2, 3]})
    for _ in range(2):
        assert desk.receive({"type": "undo", "uid": "back"})["saved"] == "back"
    assert [row["item_id"] for row in queue.store.rows()] == ["0"]


def test_target_and_end(queue):
    desk = Desk(queue, target=2)
    for number in range(2):
        assert desk.state()["item"] is not None
        state = desk.receive({"type": "skip", "uid": f"u{number}", "turn": number, "ranks": []})
    assert (
        state["item"] is None
        and state["progress"]["target"] == 2
        and [row["kind"] for row in queue.store.rows(kinds=KINDS)] == ["skip", "skip"]
    )


def test_a_new_widget_goes_on(queue, tmp_path):
    Desk(queue).receive({"type": "rank", "uid": "u", "turn": 0, "ranks": [1, 2, 3]})
    again = Desk(LabelQueue(ITEMS, LabelStore(tmp_path / "labels.sqlite"), "me"))
    assert again.state()["item"]["id"] == "1" and again.state()["progress"]["done"] == 1


def text_of(box) -> str:
    return " ".join(
        child.value if isinstance(child, ipywidgets.HTML) else text_of(child)
        for child in getattr(box, "children", ())
        if not isinstance(child, ipywidgets.BoundedIntText)
    )


def buttons(box) -> dict:
    found = {
        child.description: child
        for child in getattr(box, "children", ())
        if isinstance(child, ipywidgets.Button)
    }
    for child in getattr(box, "children", ()):
        found |= buttons(child)
    return found


def ranks_of(box) -> list:
    found = [
        child
        for child in getattr(box, "children", ())
        if isinstance(child, ipywidgets.BoundedIntText)
    ]
    return found + [each for child in getattr(box, "children", ()) for each in ranks_of(child)]


def test_the_form_asks_the_same(queue):
    desk = Desk(queue)
    form = ranking_form(desk)
    assert (
        "p0 &lt;b&gt;" in text_of(form)
        and "a&lt;script&gt;" in text_of(form)
        and "<script>" not in text_of(form)
    )
    for choice, value in zip(ranks_of(form), (2, 1, 2)):
        choice.value = value
    buttons(form)["Save ranking"].click()
    (row,) = queue.store.rows()
    assert [row["ranks"][i] for i in row["shown_order"]] == [2, 1, 2] and "p1" in text_of(form)
    buttons(form)["Skip"].click()
    buttons(form)["Undo the last"].click()
    assert "p1" in text_of(form) and len(queue.store.rows(kinds=KINDS)) == 1


def test_the_form_shows_what_went_wrong_and_keeps_the_ranks(queue, tmp_path):
    form = ranking_form(Desk(queue))
    ranks_of(form)[0].value = 3
    queue.store.path = tmp_path / "gone" / "labels.sqlite"
    buttons(form)["Save ranking"].click()
    assert "Not saved:</b> unable to open" in text_of(form) and ranks_of(form)[0].value == 3


def test_the_form_takes_over_where_the_widget_does_not_load(queue):
    box = rank(queue, patience=0.05)
    deadline = time.time() + 10
    while "did not load" not in text_of(box) and time.time() < deadline:
        time.sleep(0.02)
    assert "did not load in this front end" in text_of(box) and "Save ranking" in buttons(box)
    box.ranker._received(None, {"type": "hello"}, [])  # it was only slow
    while box.children != (box.ranker,) and time.time() < deadline:
        time.sleep(0.02)
    assert box.children == (box.ranker,)


def test_the_form_without_anywidget(queue, monkeypatch):
    monkeypatch.setattr(widget, "anywidget", None)
    box = rank(queue)
    assert "anywidget is not installed" in text_of(box) and "Save ranking" in buttons(box)


def test_the_readout_follows(queue):
    box = rank(queue)
    view = live_readout(queue, box, every=2)
    before = view.value
    for number in range(2):
        box.ranker._received(
            None,
            {"type": "rank", "uid": f"u{number}", "turn": number, "ranks": [1, 2, 3], "seconds": 4},
            [],
        )
    assert view.value != before and ">me</td>" in view.value


def test_a_readout_that_fails_takes_no_label_for_unsaved(queue, monkeypatch):
    box = rank(queue)
    view = live_readout(queue, box, every=1)
    monkeypatch.setattr(widget, "readout_html", lambda rows: 1 / 0)
    state = box.desk.receive({"type": "rank", "uid": "u1", "turn": 0, "ranks": [1, 2, 3]})
    assert state["saved"] == "u1" and state["error"] is None and "ZeroDivisionError" in view.value
