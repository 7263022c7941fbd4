"""The plain ranking form: it stores what a person chose, once, and shows text of models as text."""

import html
import time

import ipywidgets
import pytest
from judged import make_item

from rlhf_utils.data.rows import conversation
from rlhf_utils.preferences.label_queue import LabelQueue
from rlhf_utils.preferences.pairs import KINDS
from rlhf_utils.preferences.store import LabelStore
from rlhf_utils.preferences.widget import Desk, RankingForm, rank

SCRIPT = "<script>alert(1)</script>"
HOSTILE = [SCRIPT, '"><img src=x onerror=alert(1)>']


def items(hostile: str = "") -> list:
    return [make_item(f"p{n} {hostile}", [f"r{i} {hostile}" for i in range(3)]) for n in range(3)]


def form(store: LabelStore, name: str = "me", hostile: str = "") -> RankingForm:
    return RankingForm(Desk(LabelQueue(items(hostile), store, name)), {"Helpful": hostile})


def inside(box, kind: type) -> list:
    """All widgets of a kind in a box and in the boxes in it."""
    found = [box] if isinstance(box, kind) else []
    for child in getattr(box, "children", ()):
        found += inside(child, kind)
    return found


def texts(box) -> list[str]:
    return [child.value for child in inside(box, ipywidgets.HTML)]


def button(box, text: str) -> ipywidgets.Button:
    (found,) = [each for each in inside(box, ipywidgets.Button) if each.description == text]
    return found


def save(box) -> ipywidgets.Button:
    return button(box, "Save ranking")


@pytest.fixture
def store(tmp_path):
    return LabelStore(tmp_path / "labels.sqlite")


@pytest.mark.parametrize("hostile", HOSTILE)
def test_the_form_escapes(store, hostile):
    shown = "".join(texts(form(store, hostile=hostile)))
    assert hostile not in shown and "<img" not in shown
    assert shown.count(html.escape(hostile)) == 1 + 1 + 3


def test_the_form_says_who_said_what(store):
    turns = [{"role": "user", "content": SCRIPT}, {"role": "assistant", "content": "b"}]
    item = make_item(conversation([*turns, {"role": "user", "content": "c?"}]), ["x", "y"])
    head = texts(RankingForm(Desk(LabelQueue([item], store, "me")), {}))[0]
    for line in (f"user: {html.escape(SCRIPT)}<", "assistant: b<", "user: c?<", "1 prompt "):
        assert line in head
    assert SCRIPT not in head and "\u2063" not in head


def test_the_form_tells_what_was_ranked_in_another_window(store):
    box, other = form(store), form(store)
    save(box).click()
    save(other).click()
    assert "already in another window" in texts(other)[-1] and "p1" in texts(other)[0]
    save(other).click()
    assert texts(other)[-1] == "" and len(store.judgements()) == 2


def test_the_form_stores_what_was_chosen(store):
    """The numbers belong to the answers as shown; what is stored, to the answers as given."""
    box = form(store)
    for item in items():
        cards = texts(box)[1:4]
        for place, number in enumerate(inside(box, ipywidgets.BoundedIntText)):
            number.value = place + 1
        save(box).click()
        row = store.judgements()[-1]
        shown = [next(i for i in range(3) if f"r{i} " in card) for card in cards]
        assert (row.item_id, row.annotator, row.session) == (item.id, "me", "form")
        assert row.shown_order == shown and [row.ranks[i] for i in shown] == [1, 2, 3]
        assert row.shown_at <= row.submitted_at
    orders = {tuple(row.shown_order) for row in store.judgements()}
    assert len(orders) > 1  # not always in the same order


def test_the_form_stores_ties(store):
    box = form(store)
    save(box).click()
    assert store.judgements()[0].ranks == [1, 1, 1] and "1 of 3" in texts(box)[0]


def test_the_form_goes_on_and_ends(store):
    save(form(store)).click()
    box = form(store)  # a new kernel: what is stored is not asked again
    assert "p1" in texts(box)[0]
    save(box).click()
    save(box).click()
    assert "All 3 are ranked" in texts(box)[0]
    assert [row.item_id for row in store.judgements()] == [item.id for item in items()]
    assert "0 of 3" in texts(form(store, "you"))[0]  # another person has all before them


def test_a_double_click_is_one_judgement(store):
    """Both clicks reach the kernel before the form has changed on the screen."""
    box = form(store)
    clicked = save(box)
    clicked.click()
    clicked.click()
    assert [row.item_id for row in store.judgements()] == [items()[0].id]
    assert "p1" in texts(box)[0]


def test_the_form_shows_why_nothing_was_stored(store, monkeypatch):
    def full(*args, **options):
        raise OSError(f"disk full {SCRIPT}")

    box = form(store)
    inside(box, ipywidgets.BoundedIntText)[0].value = 3
    monkeypatch.setattr(store, "add", full)
    save(box).click()
    told = texts(box)[-1]
    assert "Not saved" in told and "disk full" in told and SCRIPT not in told
    assert "p0" in texts(box)[0] and inside(box, ipywidgets.BoundedIntText)[0].value == 3
    monkeypatch.undo()
    save(box).click()
    assert len(store.judgements()) == 1 and "Not saved" not in texts(box)[-1]


def test_skip_and_undo(store):
    box = form(store)
    button(box, "Skip").click()
    assert "p1" in texts(box)[0]
    button(box, "Undo the last").click()
    assert "p0" in texts(box)[0] and store.judgements(kinds=KINDS) == []


def test_the_form_takes_over_where_the_widget_does_not_load(store):
    box = rank(LabelQueue(items(), store, "me"), {}, patience=0.05)
    deadline = time.time() + 10
    while "did not load" not in "".join(texts(box)) and time.time() < deadline:
        time.sleep(0.02)
    assert "did not load in this front end" in "".join(texts(box)) and save(box)
    box.ranker._received(None, {"type": "hello"}, [])  # it was only slow
    while box.children != (box.ranker,) and time.time() < deadline:
        time.sleep(0.02)
    assert box.children == (box.ranker,)
