"""Who is asked what next, by people's queue and by annotators that are no people."""

import json
import math
import random
import sys
import types
from dataclasses import dataclass, field

import pytest

from rlhf_utils.errors import PPOError, SettingError
from rlhf_utils.preferences import exchange
from rlhf_utils.preferences.annotators import Annotator, ScoringAnnotator, load_annotators
from rlhf_utils.preferences.label_queue import LabelQueue, judge, of_people
from rlhf_utils.preferences.pairs import item_id
from rlhf_utils.preferences.rubric import GOLD_WEIGHTS
from rlhf_utils.preferences.store import KINDS, LabelStore


@dataclass
class Person:
    """Ranks the longest first; walks out after `patience` rankings."""

    name: str
    patience: int = field(default=1000, repr=False)

    def rank(self, item, responses, shown_order, rng):
        assert sorted(shown_order) == list(range(len(responses)))
        self.patience -= 1
        if self.patience < 0:
            raise KeyboardInterrupt
        return [1 + sum(len(other) > len(own) for other in responses) for own in responses]


ITEMS = [{"id": f"{n:02d}", "prompt": f"p{n}", "responses": ["a", "bb", "ccc"]} for n in range(10)]


def kept(store) -> list[tuple]:
    return sorted(
        (row["item_id"], row["annotator"], json.dumps(row["ranks"]), json.dumps(row["shown_order"]))
        for row in store.rows()
    )


def test_judge_resumes_without_duplicates(tmp_path):
    whole, stopped = LabelStore(tmp_path / "whole.sqlite"), LabelStore(tmp_path / "stopped.sqlite")
    judge(ITEMS, [Person("ada"), Person("ben")], whole, overlap=0.5, seed=3)
    with pytest.raises(KeyboardInterrupt):
        judge(ITEMS, [Person("ada"), Person("ben", patience=4)], stopped, overlap=0.5, seed=3)
    assert 0 < len(kept(stopped)) < len(kept(whole))
    judge(ITEMS, [Person("ada"), Person("ben")], stopped, overlap=0.5, seed=3)
    assert kept(stopped) == kept(
        whole
    )  # the same questions in the same order, as if it had not stopped
    judge(
        ITEMS, [Person("ada", 0), Person("ben", 0)], stopped, overlap=0.5, seed=3
    )  # nobody is asked again
    assert kept(stopped) == kept(whole)


@pytest.mark.parametrize(("overlap", "shared"), [(0.0, 0), (0.3, 3), (1.0, 10)])
def test_judge_respects_overlap(tmp_path, overlap, shared):
    store = LabelStore(tmp_path / "labels.sqlite")
    judge(ITEMS, [Person("ada"), Person("ben")], store, overlap, seed=0)
    by_item = {
        item["id"]: [row["annotator"] for row in store.rows() if row["item_id"] == item["id"]]
        for item in ITEMS
    }
    assert [len(names) for names in by_item.values()] == [2] * shared + [1] * (10 - shared)
    alone = [names[0] for names in by_item.values() if len(names) == 1]
    assert abs(alone.count("ada") - alone.count("ben")) <= 1  # the rest is shared out


def test_rankings_of_older_answers_do_not_count_for_new_ones(tmp_path):
    """A rerun of 02 samples other answers to the same prompts and finds the old labels in the store."""
    store = LabelStore(tmp_path / "labels.sqlite")
    old, new = (
        [{"id": item_id("p", answers), "prompt": "p", "responses": answers}]
        for answers in (["a", "b"], ["c", "d"])
    )
    for items in (old, new):
        judge(items, [Person("ada")], store, overlap=1.0, seed=0)
    assert (
        [row["responses"] for row in store.rows(new)] == [["c", "d"]]
        and len(store.rows()) == 2
        and store.rows([]) == []
    )


def test_judgements_made_under_other_settings_do_not_count(tmp_path):
    """A changed annotator ranks anew, and a person's rankings of the same answers stay out of a headless run's."""
    store, items = (
        LabelStore(tmp_path / "labels.sqlite"),
        [{"id": "1", "prompt": "p", "responses": ["One short sentence.", "word " * 60]}],
    )
    first = judge(items, [Annotator("ada", GOLD_WEIGHTS)], store, overlap=1.0, seed=0)
    store.add("1", "me", "p", items[0]["responses"], [0, 1], [2, 1])
    second = judge(
        items, [Annotator("ada", GOLD_WEIGHTS, temperature=5.0)], store, overlap=1.0, seed=0
    )
    assert [len(first), len(second), len(store.rows())] == [1, 1, 3] and first[0]["id"] != second[
        0
    ]["id"]
    assert judge(items, [Annotator("ada", GOLD_WEIGHTS)], store, overlap=1.0, seed=0) == first
    assert [row["annotator"] for row in of_people(store.rows())] == ["me"]
    assert (
        LabelQueue(items, LabelStore(tmp_path / "labels.sqlite"), "you", overlap=0.0).next() is None
    )  # "me" has answered it
    store.undo(2)
    assert (
        LabelQueue(items, LabelStore(tmp_path / "labels.sqlite"), "you", overlap=0.0).next()
        is not None
    )  # only "ada" has, who is no person


# --- annotators that are no people


def test_scoring_annotator_ranks():
    def score(prompts, completions, key_points):
        assert prompts == ["p"] * 4 and key_points == [["x"]] * 4
        return [float(len(text)) for text in completions]

    item = {"prompt": "p", "responses": ["aa", "a", "aaaa", "aa"], "key_points": ["x"]}
    assert ScoringAnnotator("length", score).rank(
        item, item["responses"], [0, 1, 2, 3], random.Random(0)
    ) == [2, 4, 1, 2]
    with pytest.raises(PPOError, match="nan for answer 1"):
        ScoringAnnotator("nothing", lambda prompts, completions, **columns: [math.nan] * 4).rank(
            item, item["responses"], [0, 1, 2, 3], random.Random(0)
        )


def test_load_annotators(monkeypatch):
    module = types.ModuleType("my_scores")
    module.length = lambda prompts, completions, **columns: [len(text) for text in completions]
    monkeypatch.setitem(sys.modules, "my_scores", module)
    (mine,) = load_annotators("my_scores:length", None, ITEMS)
    assert mine.name == "my_scores:length" and mine.rank(
        {"prompt": "p"}, ["a", "bb"], [0, 1], random.Random(0)
    ) == [2, 1]
    assert len(load_annotators("simulated", None, ITEMS)) == 3
    for name in ("nobody", "no_such_module:score", "my_scores:missing", ""):
        with pytest.raises(ValueError, match=f"annotator={name!r}"):
            load_annotators(name, None, ITEMS)


def test_a_label_file_ranks_as_it_says(tmp_path):
    """Whatever the order of the responses in it; items that it does not know are skipped, and a file that knows none is an error."""
    made, path = LabelStore(tmp_path / "made.sqlite"), tmp_path / "labels.jsonl"
    judge(ITEMS[:4], [Person("ada"), Person("ben")], made, overlap=1.0, seed=0)
    exchange.export_labels(made.rows(), path)
    turned = [dict(item, responses=item["responses"][::-1], id=item["id"] + "t") for item in ITEMS]
    store, people = LabelStore(tmp_path / "labels.sqlite"), load_annotators(str(path), None, turned)
    assert [person.name for person in people] == ["ada", "ben"]
    rows = judge(turned, people, store, overlap=1.0, seed=0)
    again = judge(
        turned, people, LabelStore(tmp_path / "again.sqlite"), overlap=1.0, seed=0, repeat=1.0
    )
    assert [row["ranks"] for row in again] == [row["ranks"] for row in rows], (
        "what is skipped is not asked twice"
    )
    assert len(rows) == 8 and all(row["ranks"] == [1, 2, 3] for row in rows)
    assert sum(row["kind"] == "skip" for row in store.rows(kinds=KINDS)) == 12
    with pytest.raises(SettingError, match="ranks none of the 1 prompts"):
        load_annotators(str(path), None, [{"id": "x", "prompt": "other", "responses": ["a", "b"]}])
    path.write_text('{"prompt": "p"}\n')
    with pytest.raises(SettingError, match="line 1: column 'responses' is missing"):
        load_annotators(str(path), None, turned)


# --- the queue of a person


def test_a_person_with_the_name_of_a_simulated_annotator_has_judged_nothing_yet(tmp_path):
    store = LabelStore(tmp_path / "labels.sqlite")
    judge(ITEMS, [Person("ada")], store, overlap=1.0, seed=0)
    queue = LabelQueue(ITEMS, store, "ada", 0)
    assert queue.done == 0 and queue.total == 10
    with pytest.raises(ValueError, match="nothing to take back"):
        queue.undo()


def answer(queue, count=1000) -> list[tuple[str, str]]:
    """(item, kind) of up to `count` questions, each answered."""
    asked = []
    while len(asked) < count and (turn := queue.next()):
        queue.submit(turn, list(range(1, len(turn.shown_order) + 1)))
        asked.append((turn.item["id"], turn.kind))
    return asked


def queue_of(tmp_path, name="me", items=ITEMS, **options):
    return LabelQueue(items, LabelStore(tmp_path / "labels.sqlite"), name, **options)


def test_the_queue_goes_on_where_it_was(tmp_path):
    first = answer(queue_of(tmp_path), 4)
    rest = answer(queue_of(tmp_path))  # after a restart of the kernel
    assert [item for item, _ in first + rest] == [item["id"] for item in ITEMS] and queue_of(
        tmp_path
    ).next() is None


def test_random_order_differs_between_annotators_and_not_between_runs(tmp_path):
    orders = [
        [item for item, _ in answer(queue_of(tmp_path / str(n), name, strategy="random"))]
        for n, name in enumerate(("ada", "ben", "ada"))
    ]
    assert orders[0] == orders[2] != orders[1] and sorted(orders[0]) == sorted(orders[1]) == [
        item["id"] for item in ITEMS
    ]


def test_repeats_come_later_in_another_order_and_once(tmp_path):
    items = [{"id": f"{n:02d}", "prompt": f"p{n}", "responses": list("abcdef")} for n in range(40)]
    queue = queue_of(tmp_path, items=items, repeat=0.3)
    total, asked = queue.total, answer(queue)
    again = [item for item, kind in asked if kind == "repeat"]
    assert len(asked) == total == 40 + len(again) and 5 <= len(again) == len(set(again)) <= 20
    for item in again:
        first, second = asked.index((item, "ranking")), asked.index((item, "repeat"))
        assert (
            second - first > 10 or second >= 40
        )  # at the end of the list there is nothing to wait for
    rows = queue.store.rows(kinds=KINDS)
    orders = {
        kind: {row["item_id"]: row["shown_order"] for row in rows if row["kind"] == kind}
        for kind in ("ranking", "repeat")
    }
    assert any(orders["ranking"][item] != orders["repeat"][item] for item in again)
    assert len(queue.store.rows()) == 40  # a repetition is no second label


def test_overlap_between_people(tmp_path):
    """The first share is asked of everybody, the others of whoever comes first, also if both label at once."""
    ada, ben = (queue_of(tmp_path, name, overlap=0.3) for name in ("ada", "ben"))
    asked = {"ada": [], "ben": []}
    for _ in range(10):
        for name, queue in (("ada", ada), ("ben", ben)):
            queue.refresh()
            asked[name] += [item for item, _ in answer(queue, 1)]
    assert asked["ada"][:3] == asked["ben"][:3] == ["00", "01", "02"]
    assert not set(asked["ada"][3:]) & set(asked["ben"][3:]) and sorted(
        asked["ada"][3:] + asked["ben"][3:]
    ) == [f"{n:02d}" for n in range(3, 10)]


def test_undo_asks_the_same_again(tmp_path):
    queue = queue_of(tmp_path, strategy="random")
    asked = answer(queue, 3)
    row = queue.undo()
    assert row["item_id"] == asked[-1][0] and row["ranks"] == [1, 2, 3] and queue.done == 2
    assert queue.next().item["id"] == asked[-1][0]
    assert [item for item, _ in answer(queue)][0] == asked[-1][0] and queue.done == 10
    with pytest.raises(ValueError, match="nothing to take back"):
        queue_of(tmp_path, "nobody").undo()


def test_uncertainty_goes_first(tmp_path):
    queue = queue_of(tmp_path, strategy="uncertainty", uncertainty=lambda: {"07": 0.5, "02": 0.9})
    assert [item for item, _ in answer(queue, 2)] == ["02", "07"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"strategy": "best"}, "strategy='best'"),
        ({"strategy": "uncertainty"}, "needs a measure"),
        ({"overlap": 1.5}, "overlap=1.5"),
        ({"repeat": -0.1}, "repeat=-0.1"),
        ({"items": [{"id": "0", "prompt": "p", "responses": ["a"]}]}, "has 1 responses"),
        ({"items": [{"id": "0", "prompt": "p", "responses": list("abcdefg")}]}, "has 7 responses"),
    ],
)
def test_settings_that_cannot_work(tmp_path, options, told):
    with pytest.raises(SettingError, match=told):
        queue_of(tmp_path, **options)
