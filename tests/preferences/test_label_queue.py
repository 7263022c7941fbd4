"""Who is asked what next: the queue of people, and annotators in code."""

from dataclasses import dataclass, field

import pytest
from judged import make_item, said

from rlhf_utils.errors import SettingError
from rlhf_utils.preferences.annotators import Annotator
from rlhf_utils.preferences.label_queue import (
    CollectionSettings,
    LabelQueue,
    collect_judgements,
    of_annotators,
    of_people,
)
from rlhf_utils.preferences.pairs import KINDS
from rlhf_utils.preferences.rubric import GOLD_WEIGHTS
from rlhf_utils.preferences.store import LabelStore


@dataclass
class Person:
    """Ranks the longest first; walks out after `patience` rankings."""

    name: str
    patience: int = field(default=1000, repr=False)

    def rank(self, item, shown_order, rng):
        assert sorted(shown_order) == list(range(len(item.answers)))
        self.patience -= 1
        if self.patience < 0:
            raise KeyboardInterrupt
        return [1 + sum(len(other) > len(own) for other in item.answers) for own in item.answers]


def make_items(count=10, answers=("a", "bb", "ccc")):
    return [make_item(f"p{n}", answers) for n in range(count)]


ITEMS = make_items()
NAMES = [item.prompt.text for item in ITEMS]


@pytest.fixture
def store(tmp_path):
    return LabelStore(tmp_path / "labels.sqlite")


def collect(items, people, store):
    """Their rankings of the items."""
    collect_judgements(items, people, store)
    return of_annotators(store.judgements(items), people, seed=0)


def kept(store) -> list[tuple]:
    found = store.judgements()
    return sorted((each.prompt, each.annotator, each.ranks, each.shown_order) for each in found)


def test_collecting_resumes_without_duplicates(tmp_path):
    whole, stopped = LabelStore(tmp_path / "whole.sqlite"), LabelStore(tmp_path / "stopped.sqlite")

    def collect(store, **patience):
        people = [Person(name, patience.get(name, 1000)) for name in ("ada", "ben")]
        collect_judgements(ITEMS, people, store, overlap=0.5, seed=3)

    collect(whole)
    with pytest.raises(KeyboardInterrupt):
        collect(stopped, ben=4)
    assert 0 < len(kept(stopped)) < len(kept(whole))
    collect(stopped)
    # the same questions in the same order, as if it had not stopped
    assert kept(stopped) == kept(whole)
    collect(stopped, ada=0, ben=0)  # nobody is asked again
    assert kept(stopped) == kept(whole)


@pytest.mark.parametrize(("overlap", "shared"), [(0.0, 0), (0.3, 3), (1.0, 10)])
def test_collecting_respects_overlap(store, overlap, shared):
    collect_judgements(ITEMS, [Person("ada"), Person("ben")], store, overlap)
    by_item = {name: [] for name in NAMES}
    for judgement in store.judgements():
        by_item[judgement.prompt].append(judgement.annotator)
    assert [len(names) for names in by_item.values()] == [2] * shared + [1] * (10 - shared)
    alone = [names[0] for names in by_item.values() if len(names) == 1]
    assert abs(alone.count("ada") - alone.count("ben")) <= 1  # the rest is shared out


def test_rankings_of_older_answers_do_not_count_for_new_ones(store):
    """A rerun of 02 samples other answers to the same prompts and finds the old labels there."""
    old, new = [make_item("p", ["a", "b"])], [make_item("p", ["c", "d"])]
    for items in (old, new):
        collect_judgements(items, [Person("ada")], store)
    assert [judgement.answers for judgement in store.judgements(new)] == [["c", "d"]]
    assert len(store.judgements()) == 2 and store.judgements([]) == []


def test_judgements_made_under_other_settings_do_not_count(store):
    """A changed annotator ranks anew, and a person's rankings stay out of a headless run's."""
    items = [make_item("p", ["One short sentence.", "word " * 60])]
    noisy = Annotator("ada", GOLD_WEIGHTS, temperature=5.0)
    first = collect(items, [Annotator("ada", GOLD_WEIGHTS)], store)
    store.add(said(items[0], [2, 1], "me"))
    second = collect(items, [noisy], store)
    assert [len(first), len(second), len(store.judgements())] == [1, 1, 3]
    assert first[0].id != second[0].id
    assert collect(items, [Annotator("ada", GOLD_WEIGHTS)], store) == first
    assert [judgement.annotator for judgement in of_people(store.judgements())] == ["me"]
    assert LabelQueue(items, store, "you", overlap=0.0).next() is None  # "me" has answered it
    store.undo(2)
    # only "ada" has, who is no person
    assert LabelQueue(items, store, "you", overlap=0.0).next() is not None


def test_a_person_with_the_name_of_a_simulated_annotator_has_judged_nothing_yet(store):
    collect_judgements(ITEMS, [Person("ada")], store)
    queue = LabelQueue(ITEMS, store, "ada")
    assert queue.done == 0 and queue.total == 10
    with pytest.raises(ValueError, match="nothing to take back"):
        queue.undo()


# --- the queue of a person


def answer(queue, count=1000) -> list[tuple[str, str]]:
    """(prompt, kind) of up to `count` questions, each answered."""
    asked = []
    while len(asked) < count and (turn := queue.next()):
        queue.submit(turn, list(range(1, len(turn.shown_order) + 1)))
        asked.append((turn.item.prompt.text, turn.kind))
    return asked


def test_the_queue_goes_on_where_it_was(store):
    first = answer(LabelQueue(ITEMS, store, "me"), 4)
    rest = answer(LabelQueue(ITEMS, store, "me"))  # after a restart of the kernel
    assert [prompt for prompt, _ in first + rest] == NAMES
    assert LabelQueue(ITEMS, store, "me").next() is None


def test_answers_are_shown_in_another_order_to_each_annotator_and_the_same_in_each_run(tmp_path):
    items, orders = make_items(answers="abcdef"), []
    for number, name in enumerate(("ada", "ben", "ada")):
        store = LabelStore(tmp_path / f"{number}.sqlite")
        answer(LabelQueue(items, store, name))
        orders.append([judgement.shown_order for judgement in store.judgements()])
    assert orders[0] == orders[2] != orders[1]


def test_repeats_come_later_in_another_order_and_once(store):
    items = make_items(40, answers="abcdef")
    queue = LabelQueue(items, store, "me", repeat=0.3)
    total, asked = queue.total, answer(queue)
    again = [prompt for prompt, kind in asked if kind == "repeat"]
    assert len(asked) == total == 40 + len(again) and 5 <= len(again) == len(set(again)) <= 20
    for prompt in again:
        first, second = asked.index((prompt, "ranking")), asked.index((prompt, "repeat"))
        # at the end of the list there is nothing to wait for
        assert second - first > 10 or second >= 40
    orders = {"ranking": {}, "repeat": {}}
    for judgement in store.judgements(kinds=KINDS):
        orders[judgement.kind][judgement.prompt] = judgement.shown_order
    assert any(orders["ranking"][prompt] != orders["repeat"][prompt] for prompt in again)
    assert len(store.judgements()) == 40  # a repetition is no second label


def test_overlap_between_people(store):
    """The first share is for everybody, the others for whoever comes first, also at once."""
    ada, ben = (LabelQueue(ITEMS, store, name, overlap=0.3) for name in ("ada", "ben"))
    asked = {"ada": [], "ben": []}
    for _ in range(10):
        for name, queue in (("ada", ada), ("ben", ben)):
            queue.refresh()
            asked[name] += [prompt for prompt, _ in answer(queue, 1)]
    assert asked["ada"][:3] == asked["ben"][:3] == NAMES[:3]
    assert not set(asked["ada"][3:]) & set(asked["ben"][3:])
    assert sorted(asked["ada"][3:] + asked["ben"][3:]) == NAMES[3:]


def test_undo_asks_the_same_again(store):
    queue = LabelQueue(ITEMS, store, "me")
    asked = answer(queue, 3)
    judgement = queue.undo()
    assert (judgement.prompt, judgement.ranks, queue.done) == (asked[-1][0], [1, 2, 3], 2)
    assert queue.next().item.prompt.text == asked[-1][0]
    assert answer(queue)[0][0] == asked[-1][0] and queue.done == 10
    with pytest.raises(ValueError, match="nothing to take back"):
        LabelQueue(ITEMS, store, "nobody").undo()


# --- the settings


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"answers_per_prompt": 7}, "answers_per_prompt=7 must be from 2 to 6"),
        ({"answers_per_prompt": 1}, "answers_per_prompt=1 must be from 2 to 6"),
        ({"repeat": 2.0}, "repeat=2.0 must be from 0 to 1"),
        ({"overlap": 50.0}, "overlap=50.0 must be from 0 to 1"),
        ({"annotator": "persom"}, "'persom' .* did you mean 'person'"),
        ({"annotator": "Simulated"}, "did you mean 'simulated'"),
        ({"annotator": "reward-model"}, "did you mean 'reward_model'"),
        ({"annotator": " "}, "annotator=' ' is neither"),
        ({"annotator": "labels/mine.jsonl"}, "there is no file '/.*labels/mine.jsonl'"),
        ({"annotator": "~nobody_here/mine.csv"}, "there is no file '/.*~nobody_here/mine.csv'"),
        ({"annotator": "x" * 300 + ".json"}, "there is no file '/.*xx.json'"),
        ({"annotator": "a\0.jsonl"}, "there is no file"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_sampled(options, told):
    with pytest.raises(SettingError, match=told):
        CollectionSettings(**options)


def test_annotators_that_can_work_are_taken(tmp_path):
    file = tmp_path / "simulatd"  # a file may have any name
    file.touch()
    rewards = ["simulated", "person", "reward_model", "my_rewards:polite", "owner/classifier"]
    rewards += ["~nobody_here/classifier", "x" * 300, "a\0b:c"]  # told where rewards are checked
    assert not any(CollectionSettings(name).asks_reward for name in ["person", str(file)])
    assert [CollectionSettings(name).asks_reward for name in rewards] == [False, False] + [True] * 6


@pytest.mark.parametrize(
    ("annotator", "count", "temperatures"),
    [
        ("simulated", 4, [0.7, 0.7 + 0.1, 0.7 + 0.1 * 2, 0.7 + 0.1 * 3]),  # to the last bit
        ("simulated", 6, [0.7 + 0.1 * i for i in range(6)]),
        ("person", 4, [0.7, 0.8, 0.9, 1.0]),
        ("person", 2, [0.7, 0.8]),
        ("person", 6, [0.7, 0.76, 0.82, 0.88, 0.94, 1.0]),
    ],
)
def test_people_get_no_answer_warmer_than_one(annotator, count, temperatures):
    found = CollectionSettings(annotator, count).temperatures
    exactly = pytest.approx(temperatures, abs=0 if annotator == "simulated" else 1e-9)
    assert found == exactly and len(found) == count


@pytest.mark.parametrize("count", [1, 2, 7, 20, 21, 100])
@pytest.mark.parametrize("repeat", [0.0, 0.05, 0.5, 1.0])
def test_twenty_prompts_for_a_person_are_twenty_questions(tmp_path, count, repeat):
    settings = CollectionSettings("person", repeat=repeat)
    prompts, share = settings.share_out(count)
    items = make_items(prompts)
    queue = LabelQueue(items, LabelStore(tmp_path / "s.sqlite"), "me", repeat=share)
    assert queue.total == count and settings.num_other_prompts == 0
    if (count, repeat) == (20, 0.05):
        assert queue.contents == "19 prompts, 1 of them twice"
        assert len(answer(queue)) == 20 and queue.contents == "19 prompts, 1 of them twice"


def test_annotators_in_code_are_asked_as_many_as_ever():
    settings = CollectionSettings("simulated", repeat=0.05)
    assert settings.share_out(2000) == (2000, 0.05) and settings.num_other_prompts == 60
    assert CollectionSettings("person", num_other_prompts=3).num_other_prompts == 3


def test_the_questions_are_named(store):
    items = make_items(3)
    items[2].split = "other"
    assert LabelQueue(items, store, "me").contents == "2 prompts and 1 of other categories"
    assert LabelQueue(items[:1], store, "me").contents == "1 prompt"
    with_me = LabelQueue(items, store, "me")
    answer(with_me, 1)
    you = LabelQueue(items, store, "you", overlap=0.0)  # what I have ranked is none of yours
    assert you.contents == "1 prompt and 1 of other categories"
