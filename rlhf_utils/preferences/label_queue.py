"""Who is asked what next: one queue for the widget, the plain form and annotators in code.

Items come in the order given, which is random already. Left out: sharing a queue between machines;
paying people; asking first where a model is unsure.
"""

import difflib
import hashlib
import itertools
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import SettingError
from .pairs import KINDS, Item, Judgement
from .store import LabelStore

HEADLESS = "headless "  # how the sessions of annotators in code begin; people's do not
REPEAT_AFTER = 10  # judgements before an item comes again, so that nobody simply remembers it
LABEL_FILES = (".jsonl", ".json", ".parquet", ".csv")
NOT_REWARDS = ("simulated", "person", "reward_model")  # annotators that are no name of a reward
WARMEST = 1.0  # temperature: above it few answers are worth a person's time


@dataclass
class CollectionSettings:
    """02's parameters that are checked before anything is sampled, and what `more` may hold."""

    annotator: str = "simulated"
    answers_per_prompt: int = 4
    temperature: float = 0.7
    overlap: float = 1.0
    num_other_prompts: int = None  # of other categories, to test the reward model; 60, for people 0
    temperature_step: float = 0.1  # added for each further answer, so that answers differ
    contrast: bool = True  # the last answer starts with another token than all others
    repeat: float = 0.05  # share of the items that each annotator ranks twice
    strength: bool = False  # with two answers, a person also says how much better one is
    batch_size: int = 192  # answers sampled at once

    def __post_init__(self):
        limits = {"overlap": (0, 1), "repeat": (0, 1), "answers_per_prompt": (2, 6)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise SettingError(f"{name}={getattr(self, name)} must be from {low} to {high}.")
        check_name(self.annotator)
        if self.num_other_prompts is None:
            self.num_other_prompts = 0 if self.by_person else 60

    @property
    def by_person(self) -> bool:
        return self.annotator == "person"

    @property
    def asks_reward(self) -> bool:
        """Whether the annotator is the name of a reward, which is to be checked as such."""
        is_file = os.path.isfile(os.path.expanduser(self.annotator))
        return self.annotator not in ("simulated", "person") and not is_file

    @property
    def temperatures(self) -> list[float]:
        """Of each answer to a prompt, warmer and warmer. For people they end at WARMEST."""
        step, last = self.temperature_step, self.answers_per_prompt - 1
        if self.by_person:
            step = min(step, max(WARMEST - self.temperature, 0.0) / last)
        return [self.temperature + step * i for i in range(last + 1)]

    def share_out(self, count: int) -> tuple[int, float]:
        """(prompts, the share of them asked twice) that make `count` questions to a person.

        Annotators in code rank all `count` prompts, and some of them twice.
        """
        if not self.by_person:
            return count, self.repeat
        prompts = int(count / (1 + self.repeat) + 0.5)
        return prompts, (count - prompts) / max(prompts, 1)


@dataclass
class Turn:
    """One question to one annotator."""

    item: Item
    shown_order: list[int]  # shown_order[p] is the number of the answer at place p
    kind: str  # "ranking", or "repeat" if this annotator has ranked the item before
    rng: random.Random  # for an annotator in code
    before: int = 0  # this annotator's judgements of the item when it was asked


def check_name(annotator: str) -> None:
    """Refuses a slip of the pen, and a file that is not there. Rewards are checked elsewhere."""
    path = os.path.expanduser(annotator)  # unlike Path, os.path raises for no name
    if annotator in NOT_REWARDS or os.path.exists(path):
        return
    if Path(path).suffix in LABEL_FILES:
        raise SettingError(f"annotator={annotator!r}: there is no file {os.path.abspath(path)!r}.")
    alike = difflib.get_close_matches(annotator.lower(), NOT_REWARDS, 1)
    if alike or not annotator.strip():
        raise SettingError(
            f"annotator={annotator!r} is neither 'simulated', 'person', a label file nor a "
            f"reward: did you mean {(alike or NOT_REWARDS)[0]!r}?"
        )


@dataclass
class LabelQueue:
    """What one annotator is asked, in which order.

    The store is the memory: a new queue goes on where the last one stopped.
    """

    items: list[Item]
    store: LabelStore
    annotator: str
    seed: int = 0
    overlap: float = 1.0  # the first share of the items is for everybody, the rest for one each
    repeat: float = 0.0  # share of the items that is asked twice: do people agree with themselves?
    session: str = ""  # only judgements of this session count; empty: all of this annotator's

    def __post_init__(self):
        self._items = {item.id: item for item in self.items}
        self._shared = {item.id for item in self.items[: round(self.overlap * len(self.items))]}
        self._repeated = self._asked_twice()
        self._taken_back: Item | None = None  # the item whose judgement was just undone
        self.refresh()

    def _asked_twice(self) -> list[Item]:
        """By lot. People are promised a number of questions, so theirs are exactly that share."""
        lots = [random.Random(f"{self.seed}/repeat/{item.seed}").random() for item in self.items]
        limit = self.repeat
        if not self.session.startswith(HEADLESS):
            limit = (sorted(lots) + [1.0])[round(self.repeat * len(lots))]
        return [item for item, lot in zip(self.items, lots) if lot < limit]

    def refresh(self) -> None:
        """Reads what was judged meanwhile, by others too."""
        self._mine: dict[str, list[str]] = {}  # item id → kinds of my judgements, in order
        self._others: set[str] = set()  # items that somebody else has ranked
        self._last: int | None = None  # number of my last judgement
        headless = self.session.startswith(HEADLESS)
        for number, item, annotator, session, kind in self.store.progress():
            if item not in self._items or session.startswith(HEADLESS) != headless:
                continue  # a person may have the name of a simulated annotator
            if annotator != self.annotator:
                if kind == "ranking":
                    self._others.add(item)
            elif session == (self.session or session):
                self._mine.setdefault(item, []).append(kind)
                self._last = number

    def _fresh(self) -> Iterator[Item]:
        """The items that this annotator is still to judge, in order."""
        for item in self.items:
            free = item.id in self._shared or item.id not in self._others
            if free and item.id not in self._mine:
                yield item

    @property
    def done(self) -> int:
        return sum(len(kinds) for kinds in self._mine.values())

    @property
    def total(self) -> int:
        """Judgements in all, repetitions included."""
        fresh = {item.id for item in self._fresh()}
        twice = [each for each in self._repeated if each.id in fresh or self._waits_again(each)]
        return self.done + len(fresh) + len(twice)

    def _waits_again(self, item: Item) -> bool:
        return self._mine.get(item.id) == ["ranking"]

    @property
    def contents(self) -> str:
        """What the questions in all are, in words."""
        fresh = {item.id for item in self._fresh()}
        asked = [item for item in self.items if item.id in fresh or item.id in self._mine]
        other = sum(item.split == "other" for item in asked)
        twice = self.total - len(asked)
        words = f"{len(asked) - other} prompt{'s' * (len(asked) - other != 1)}"
        if other:
            words += f" and {other} of other categories"
        return words + (f", {twice} of them twice" if twice else "")

    def next(self) -> Turn | None:
        """The next question, or None when all are answered."""
        if self._taken_back:
            return self._turn(self._taken_back)
        item = next(self._fresh(), None)
        in_mind = set()
        if item:  # at the end of the list there is nothing to wait for
            in_mind.update(itertools.islice(reversed(self._mine), REPEAT_AFTER))
        for again in self._repeated:
            if self._waits_again(again) and again.id not in in_mind:
                return self._turn(again)
        return self._turn(item) if item else None

    def _turn(self, item: Item) -> Turn:
        kind = "repeat" if item.id in self._mine else "ranking"
        again = "/repeat" if kind == "repeat" else ""
        rng = random.Random(f"{self.seed}/{item.seed}/{self.annotator}{again}")
        order = rng.sample(range(len(item.answers)), len(item.answers))
        return Turn(item, order, kind, rng, len(self._mine.get(item.id, ())))

    def answered_elsewhere(self, turn: Turn) -> bool:
        """Whether this annotator has judged the item in another window since it was asked here."""
        self.refresh()
        answered = len(self._mine.get(turn.item.id, ())) > turn.before
        if answered and self._taken_back is turn.item:
            self._taken_back = None
        return answered

    def submit(self, turn: Turn, ranks: list[int], **about) -> None:
        """Stores a judgement; no ranks mean a skip.

        about: further fields of a Judgement. Raises ValueError like LabelStore.add.
        """
        item, kind = turn.item, turn.kind if ranks else "skip"
        asked = (item.id, self.annotator, item.prompt.text, item.answers, turn.shown_order)
        about = {"session": self.session} | about
        self._last = self.store.add(Judgement(*asked, ranks, kind=kind, **about))
        self._mine.setdefault(item.id, []).append(kind)
        self._taken_back = None

    def undo(self) -> Judgement:
        """Takes back the last judgement and returns it; its item is asked next.

        Raises ValueError if there is none.
        """
        self.refresh()
        if self._last is None:
            raise ValueError("There is nothing to take back.")
        stored = self.store.judgements(self.items, KINDS)
        last = next(judgement for judgement in stored if judgement.id == self._last)
        self.store.undo(self._last)
        self.refresh()
        self._taken_back = self._items[last.item_id]
        return last


def headless_session(annotator, seed: int) -> str:
    """A session's name, so that judgements made under another seed or other settings don't count.

    An annotator's repr shows its settings.
    """
    return HEADLESS + hashlib.sha256(f"{seed}/{annotator!r}".encode()).hexdigest()[:12]


def of_annotators(judgements: list[Judgement], annotators: list, seed: int) -> list[Judgement]:
    """The judgements that these annotators in code made, with their settings."""
    asked = {(annotator.name, headless_session(annotator, seed)) for annotator in annotators}
    return [found for found in judgements if (found.annotator, found.session) in asked]


def of_people(judgements: list[Judgement]) -> list[Judgement]:
    """The judgements that no annotator in code made."""
    return [found for found in judgements if not found.session.startswith(HEADLESS)]


def collect_judgements(
    items: list[Item],
    annotators: list,
    store: LabelStore,
    overlap: float = 1.0,
    repeat: float = 0.0,
    seed: int = 0,
    track=iter,
) -> None:
    """Lets annotators in code rank items.

    The first `overlap` share is for all of them, the others they take in turn. What the store has
    already is not asked again, so a stopped run goes on. track: wraps the list of all questions.
    """
    shared, questions = round(overlap * len(items)), []
    for index, annotator in enumerate(annotators):
        own = []
        for number, item in enumerate(items):
            if number < shared or number % len(annotators) == index:
                own.append(item)
        session = headless_session(annotator, seed)
        queue = LabelQueue(own, store, annotator.name, seed, repeat=repeat, session=session)
        questions += [(annotator, queue)] * (queue.total - queue.done)
    with store.in_bulk():
        for annotator, queue in track(questions):
            turn = queue.next()
            if turn:  # none if an item that was to come twice has been skipped
                queue.submit(turn, annotator.rank(turn.item, turn.shown_order, turn.rng))
