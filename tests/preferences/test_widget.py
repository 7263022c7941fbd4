"""The widget's Python side: one message is one judgement, errors come back in the state."""

import pytest
from judged import make_item

from rlhf_utils.data.rows import conversation
from rlhf_utils.preferences import widget
from rlhf_utils.preferences.label_queue import LabelQueue
from rlhf_utils.preferences.pairs import KINDS, pairs_of_judgements
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
        ({"ranks": [1, 2, "3"]}, "must be whole numbers"),
        ({"ranks": []}, "0 ranks came"),
        ({"confidence": "high"}, "'confidence' is 'high'"),
        ({"ranks": 7}, "ranks=7 must be a list"),
        ({"seconds": float("nan")}, "'seconds' is 'nan'"),
        ({"flags": "flagged"}, "flags='flagged' must be a list"),
        ({"note": 7}, "note=7 must be a text"),
        ({"type": "delete"}, "type='delete' must be rank, skip or undo"),
    ],
)
def test_what_cannot_be_stored_keeps_the_question(queue, message, told):
    desk = Desk(queue)
    state = desk.receive(ranking() | message)
    assert told in state["error"]["text"] and state["error"]["uid"] == "u"
    assert state["turn"] == 0 and state["saved"] is None
    assert queue.store.judgements(kinds=KINDS) == []
    assert desk.receive(ranking())["saved"] == "u"


@pytest.mark.parametrize("message", [{}, {"type": "rank"}, {"type": "rank", "uid": ["u"]}])
def test_half_a_message_stores_nothing_and_is_told(queue, message):
    ranker = RankingWidget(Desk(queue), {})
    ranker._received(None, message, [])
    assert ranker.state["error"]["text"] and queue.store.judgements(kinds=KINDS) == []
    for nothing in (None, [], 3):
        ranker._received(None, nothing, [])


def test_no_message_says_that_code_has_ranked(queue):
    Desk(queue).receive(ranking(session="headless 1"))
    assert queue.store.judgements()[0].session == "widget" and queue.done == 1


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


def from_another_kernel(queue, ranks=(3, 2, 1)) -> None:
    """The same person ranks the first item somewhere else."""
    other = LabelQueue(queue.items, LabelStore(queue.store.path), "me")
    Desk(other).receive(ranking("other", ranks=ranks))


def test_who_ranks_in_two_kernels_is_told_and_loses_nothing(queue):
    desk = Desk(queue)
    from_another_kernel(queue)
    state = desk.receive(ranking(ranks=[1, 2, 3]))
    assert "already in another window" in state["told"] and state["error"] is None
    assert state["item"]["id"] == ITEMS[1].id and state["progress"]["done"] == 2
    first, second = queue.store.judgements(kinds=KINDS)
    assert (first.kind, shown(first)) == ("ranking", [3, 2, 1])
    assert (second.kind, shown(second)) == ("repeat", [1, 2, 3])
    state = desk.receive(ranking("next", turn=1))
    assert state["told"] == "" and queue.store.judgements()[-1].item_id == ITEMS[1].id


def test_a_skip_of_what_was_ranked_in_another_kernel_adds_nothing(queue):
    desk = Desk(queue)
    from_another_kernel(queue)
    state = desk.receive(ranking(ranks=[], type="skip"))
    assert "already in another window" in state["told"] and state["turn"] == 1
    assert state["item"]["id"] == ITEMS[1].id
    assert [found.kind for found in queue.store.judgements(kinds=KINDS)] == ["ranking"]


def test_a_question_that_comes_twice_is_no_other_window(tmp_path):
    queue = LabelQueue(ITEMS, LabelStore(tmp_path / "labels.sqlite"), "me", repeat=1.0)
    desk = Desk(queue)
    states = [desk.receive(ranking(f"u{turn}", turn)) for turn in range(8)]
    assert [state["told"] for state in states] == [""] * 8 and states[-1]["item"] is None
    kinds = [found.kind for found in queue.store.judgements(kinds=KINDS)]
    assert kinds == ["ranking"] * 4 + ["repeat"] * 4


def test_all_bad_makes_no_pair_and_comes_back_with_an_undo(queue):
    desk = Desk(queue)
    desk.receive(ranking(ranks=[1, 1, 1], flags=["all_bad"]))
    (found,) = queue.store.judgements()
    assert (found.ranks, found.flags) == ([1, 1, 1], ["all_bad"])
    assert pairs_of_judgements([found], ITEMS) == []
    item = desk.receive({"type": "undo", "uid": "v"})["item"]
    assert (item["ranks"], item["flags"]) == ([1, 1, 1], ["all_bad"])


def test_a_conversation_comes_as_its_turns(tmp_path):
    turns = [{"role": "user", "content": "a: b\n\nc"}, {"role": "assistant", "content": "d"}]
    turns += [{"role": "user", "content": "e?"}]
    items = [make_item(conversation(turns), ["x", "y"])]
    queue = LabelQueue(items, LabelStore(tmp_path / "labels.sqlite"), "me")
    assert Desk(queue).state()["item"]["turns"] == turns
    assert Desk(LabelQueue(ITEMS, queue.store, "me")).state()["item"]["turns"] == [
        {"role": "user", "content": "p0 <b>"}
    ]


def test_only_the_first_view_of_a_widget_takes_the_focus(queue):
    ranker = RankingWidget(Desk(queue), {})
    assert not ranker.seen
    ranker._received(None, {"type": "hello"}, [])
    assert ranker.seen


def test_target_and_end(queue):
    desk = Desk(queue, target=2)
    for turn in range(2):
        assert desk.state()["item"] is not None
        state = desk.receive(ranking(f"u{turn}", turn, ranks=[], type="skip"))
    assert state["item"] is None and state["progress"]["target"] == 2
    assert state["progress"]["of"] == "the first 2 of 4 prompts"
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


def test_the_readout_waits_for_five_rankings_and_shows_no_empty_row(queue):
    Desk(queue).receive(ranking("before"))
    box = rank(queue, {})
    view = live_readout(box)
    assert "after a few rankings" in view.value and "<td" not in view.value
    items = [make_item(f"q{n}", ["a", "b b", "c c c"]) for n in range(6)]
    box = rank(LabelQueue(items, queue.store, "me"), {})
    view = live_readout(box)
    for number in range(5):
        assert "<td" not in view.value
        box.ranker._received(None, ranking(f"u{number}", number, seconds=4), [])
    assert "seconds a ranking" in view.value and "longer answer wins" in view.value
    assert "alpha" not in view.value and ">–<" not in view.value  # one person: nobody to agree with


def test_a_readout_that_fails_takes_no_label_for_unsaved(queue, monkeypatch):
    box = rank(queue, {})
    view = live_readout(box, every=1)
    monkeypatch.setattr(widget, "readout_html", lambda rows: 1 / 0)
    state = box.desk.receive(ranking("u1"))
    assert state["saved"] == "u1" and state["error"] is None and "ZeroDivisionError" in view.value
