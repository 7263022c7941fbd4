"""The widget's Python side: one message is one judgement, errors come back in the state."""

import pytest
from judged import make_item

from rlhf_utils.preferences import widget
from rlhf_utils.preferences.label_queue import LabelQueue
from rlhf_utils.preferences.pairs import KINDS
from rlhf_utils.preferences.store import LabelStore
from rlhf_utils.preferences.widget import Desk, RankingWidget, live_readout, rank

ITEMS = [make_item(f"p{n} <b>", [f"{n}a<script>", f"{n}b", f"{n}c"]) for n in range(4)]


@pytest.fixture
def queue(tmp_path):
    return LabelQueue(ITEMS, LabelStore(tmp_path / "labels.sqlite"), "me")


def ranking(uid="u", turn=0, ranks=(1, 2, 3), **about) -> dict:
    """A message from the front end."""
    told = {"type": "rank", "uid": uid, "turn": turn, "ranks": list(ranks), "seconds": 1.0}
    return told | about


def shown(judgement) -> list[int]:
    """The ranks as the annotator saw the answers."""
    return [judgement.ranks[i] for i in judgement.shown_order]


def test_a_message_becomes_a_judgement_in_the_order_of_the_answers(queue):
    ranker = RankingWidget(Desk(queue), {})
    order, item = ranker.desk.turn.shown_order, ranker.state["item"]
    assert item["answers"] == [ITEMS[0].answers[i] for i in order] and item["id"] == ITEMS[0].id
    about = {"seconds": 5.0, "flags": ["flagged"], "note": "n", "confidence": 1, "strength": 2}
    ranker._received(None, ranking("u1", ranks=[3, 1, 2], **about), [])
    (found,) = queue.store.judgements()
    assert shown(found) == [3, 1, 2] and found.shown_order == order
    assert (found.session, found.uid, found.flags, found.note) == ("widget", "u1", ["flagged"], "n")
    assert (found.confidence, found.strength) == (1.0, 2.0)
    assert found.submitted_at - found.shown_at == pytest.approx(5, abs=0.5)
    state = ranker.state
    assert (state["saved"], state["turn"], state["progress"]["done"]) == ("u1", 1, 1)


def test_the_same_message_twice_answers_one_question(queue):
    desk = Desk(queue)
    assert desk.receive(ranking())["saved"] == desk.receive(ranking())["saved"] == "u"
    assert len(queue.store.judgements()) == 1 and desk.state()["turn"] == 1


def test_a_second_view_loses_nothing(queue):
    """Two views of one widget answer the same question.

    The later answer is a repetition of the first, not dropped, and no label of the next question.
    """
    desk = Desk(queue)
    desk.receive(ranking("u1", ranks=[1, 2, 3]))
    state = desk.receive(ranking("u2", ranks=[3, 2, 1]))
    first, second = queue.store.judgements(kinds=KINDS)
    assert first.item_id == second.item_id == ITEMS[0].id
    assert (first.kind, second.kind) == ("ranking", "repeat")
    assert (state["turn"], state["saved"]) == (1, "u2") and shown(second) == [3, 2, 1]
    assert "no such question" in desk.receive(ranking("u3", turn=7))["error"]["text"]


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
    state = desk.receive(ranking() | message)
    assert told in state["error"]["text"] and state["error"]["uid"] == "u"
    assert state["turn"] == 0 and state["saved"] is None
    assert queue.store.judgements(kinds=KINDS) == []
    assert desk.receive(ranking())["saved"] == "u"


def test_a_store_that_cannot_be_opened_is_told(queue, tmp_path):
    desk = Desk(queue)
    queue.store.path = tmp_path / "gone" / "labels.sqlite"
    assert "cannot be opened" in desk.receive(ranking())["error"]["text"]


def test_undo_brings_the_ranking_back(queue):
    desk = Desk(queue)
    assert "nothing to take back" in desk.receive({"type": "undo", "uid": "x"})["error"]["text"]
    desk.receive(ranking(ranks=[2, 1, 3], flags=["flagged"]))
    state = desk.receive({"type": "undo", "uid": "v"})
    item = state["item"]
    assert item["id"] == ITEMS[0].id and state["progress"]["done"] == 0
    assert (item["ranks"], item["flags"]) == ([2, 1, 3], ["flagged"])


def test_an_undo_sent_twice_takes_one_judgement_back(queue):
    desk = Desk(queue)
    for turn in range(2):
        desk.receive(ranking(f"u{turn}", turn))
    for _ in range(2):
        assert desk.receive({"type": "undo", "uid": "back"})["saved"] == "back"
    assert [found.item_id for found in queue.store.judgements()] == [ITEMS[0].id]


def test_target_and_end(queue):
    desk = Desk(queue, target=2)
    for turn in range(2):
        assert desk.state()["item"] is not None
        state = desk.receive(ranking(f"u{turn}", turn, ranks=[], type="skip"))
    assert state["item"] is None and state["progress"]["target"] == 2
    assert [found.kind for found in queue.store.judgements(kinds=KINDS)] == ["skip", "skip"]


def test_a_new_widget_goes_on(queue, tmp_path):
    Desk(queue).receive(ranking())
    again = Desk(LabelQueue(ITEMS, LabelStore(tmp_path / "labels.sqlite"), "me"))
    assert again.state()["item"]["id"] == ITEMS[1].id and again.state()["progress"]["done"] == 1


# --- the read-out


def test_the_readout_follows(queue):
    box = rank(queue, {})
    view = live_readout(box, every=2)
    before = view.value
    for number in range(2):
        box.ranker._received(None, ranking(f"u{number}", number, seconds=4), [])
    assert view.value != before and ">me</td>" in view.value


def test_a_readout_that_fails_takes_no_label_for_unsaved(queue, monkeypatch):
    box = rank(queue, {})
    view = live_readout(box, every=1)
    monkeypatch.setattr(widget, "readout_html", lambda rows: 1 / 0)
    state = box.desk.receive(ranking("u1"))
    assert state["saved"] == "u1" and state["error"] is None and "ZeroDivisionError" in view.value
