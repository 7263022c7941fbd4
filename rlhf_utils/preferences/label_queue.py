"""Who is asked what next: one queue for the widget, the plain form and annotators that are no people.

Left out: sharing a queue between machines; paying people.
"""

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import SettingError
from .store import KINDS, LabelStore

HEADLESS = "headless "  # how the sessions of annotators that are no people begin


STRATEGIES = ("in_order", "random", "uncertainty")


REPEAT_AFTER = 10  # judgements between a ranking and its repetition, so that the first is not simply remembered


@dataclass
class Turn:
    """One question: an item, the order in which its responses are shown, and whether it was asked before."""

    item: dict
    shown_order: list[int]  # shown_order[p] is the response at place p
    kind: str  # "ranking" or "repeat"
    rng: random.Random


@dataclass
class LabelQueue:
    """What one annotator is asked, in which order. The store is the memory: a queue made anew goes on where the last one was."""

    items: list[dict]  # each with `id`, `prompt`, `responses`
    store: LabelStore
    annotator: str
    seed: int = 0
    strategy: str = "in_order"
    overlap: float = 1.0  # the first share of the items is for every annotator; the others for whoever comes first
    repeat: float = 0.0  # share of the items that is asked a second time, to see whether people agree with themselves
    session: str = ""  # judgements of this session count; empty: all of this annotator's
    uncertainty: Callable[[], dict[str, float]] | None = (
        None  # item id → how much a new label would tell; highest first
    )

    def __post_init__(self):
        if self.strategy not in STRATEGIES or (self.strategy == "uncertainty") != (
            self.uncertainty is not None
        ):
            raise SettingError(
                f"strategy={self.strategy!r} must be one of {', '.join(STRATEGIES)}; 'uncertainty', and only that, needs a measure of it."
            )
        for name in ("overlap", "repeat"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingError(f"{name}={getattr(self, name)} must be from 0 to 1.")
        for item in self.items:
            if not 2 <= len(item["responses"]) <= 6:
                raise SettingError(
                    f"{item['prompt'][:60]!r} has {len(item['responses'])} responses: 2 to 6 can be ranked."
                )
        self._items = {item["id"]: item for item in self.items}
        self._shared = {item["id"] for item in self.items[: round(self.overlap * len(self.items))]}
        self._order = list(self.items)
        if self.strategy == "random":
            random.Random(f"{self.seed}/{self.annotator}").shuffle(self._order)
        self._repeated = [
            item
            for item in self._order
            if random.Random(f"{self.seed}/repeat/{item['id']}").random() < self.repeat
        ]
        self._first: dict | None = None  # the item whose judgement was just taken back
        self.refresh()

    def refresh(self) -> None:
        """Reads what was judged meanwhile, by others too."""
        self._mine: dict[str, list[str]] = {}  # item id → kinds, in order
        self._others: set[str] = set()
        self._last: int | None = None
        for number, item, annotator, session, kind in self.store.progress():
            if item not in self._items or session.startswith(HEADLESS) != self.session.startswith(
                HEADLESS
            ):
                continue  # a person may have the name of a simulated annotator
            if annotator == self.annotator and session == (self.session or session):
                self._mine.setdefault(item, []).append(kind)
                self._last = number
            elif annotator != self.annotator and kind == "ranking":
                self._others.add(item)

    def _fresh(self) -> Iterator[dict]:
        """The items that this annotator is still to judge, in order."""
        return (
            item
            for item in self._order
            if item["id"] not in self._mine
            and (item["id"] in self._shared or item["id"] not in self._others)
        )

    @property
    def done(self) -> int:
        return sum(map(len, self._mine.values()))

    @property
    def total(self) -> int:
        """Judgements in all, repetitions included."""
        fresh = {item["id"] for item in self._fresh()}
        return (
            self.done
            + len(fresh)
            + sum(
                item["id"] in fresh or self._mine.get(item["id"]) == ["ranking"]
                for item in self._repeated
            )
        )

    def next(self) -> Turn | None:
        """The next question, or None when all are answered."""
        if self._first:
            return self._turn(self._first)
        if self.strategy == "uncertainty":
            worth = self.uncertainty()
            item = max(self._fresh(), key=lambda item: worth.get(item["id"], 0.0), default=None)
        else:
            item = next(self._fresh(), None)
        in_mind = set(itertools.islice(reversed(self._mine), REPEAT_AFTER)) if item else ()
        for again in self._repeated:
            if self._mine.get(again["id"]) == ["ranking"] and again["id"] not in in_mind:
                return self._turn(again)
        return self._turn(item) if item else None

    def _turn(self, item: dict) -> Turn:
        kind = "repeat" if item["id"] in self._mine else "ranking"
        rng = random.Random(
            f"{self.seed}/{item['id']}/{self.annotator}" + "/repeat" * (kind == "repeat")
        )
        return Turn(
            item, rng.sample(range(len(item["responses"])), len(item["responses"])), kind, rng
        )

    def submit(self, turn: Turn, ranks: list[int], **judgement) -> int:
        """Stores a judgement of a turn, as LabelStore.add does, whose the other arguments are; no ranks: the item is skipped."""
        kind, item = turn.kind if ranks else "skip", turn.item
        number = self.store.add(
            item["id"],
            self.annotator,
            item["prompt"],
            item["responses"],
            turn.shown_order,
            ranks,
            judgement.pop("session", self.session),
            kind=kind,
            **judgement,
        )
        self._mine.setdefault(item["id"], []).append(kind)
        self._last, self._first = number, None
        return number

    def undo(self) -> dict:
        """Takes the annotator's last judgement back and returns its row; its item is asked next. Raises ValueError if there is none."""
        self.refresh()
        if self._last is None:
            raise ValueError("There is nothing to take back.")
        row = next(row for row in self.store.rows(self.items, KINDS) if row["id"] == self._last)
        self.store.undo(self._last)
        self.refresh()
        self._first = self._items[row["item_id"]]
        return row


def headless_session(annotator, seed: int) -> str:
    """A name for an annotator, as its repr tells its settings, and the seed: judgements made under others do not count."""
    return HEADLESS + hashlib.sha256(f"{seed}/{annotator!r}".encode()).hexdigest()[:12]


def of_annotators(rows: list[dict], annotators: list, seed: int) -> list[dict]:
    """Those judgements that these annotators, with their settings, made."""
    asked = {(annotator.name, headless_session(annotator, seed)) for annotator in annotators}
    return [row for row in rows if (row["annotator"], row["session"]) in asked]


def of_people(rows: list[dict]) -> list[dict]:
    """Those judgements that nobody made in a person's stead."""
    return [row for row in rows if not row["session"].startswith(HEADLESS)]


def judge(
    items: list[dict],
    annotators: list,
    store: LabelStore,
    overlap: float,
    seed: int,
    track=iter,
    **options,
) -> list[dict]:
    """Lets annotators that are no people rank items: the first `overlap` share by all of them, the others in turn.

    Returns these rankings. Those that the store already has are not asked for again, so that a stopped run goes on. `options` are
    LabelQueue's.
    """
    queues, shared = [], round(overlap * len(items))
    for index, annotator in enumerate(annotators):
        own = [
            item
            for number, item in enumerate(items)
            if number < shared or number % len(annotators) == index
        ]
        queues.append(
            (
                annotator,
                LabelQueue(
                    own,
                    store,
                    annotator.name,
                    seed,
                    session=headless_session(annotator, seed),
                    **options,
                ),
            )
        )
    with store.in_bulk():
        for annotator, queue in track(
            [pair for pair in queues for _ in range(pair[1].total - pair[1].done)]
        ):
            if (
                turn := queue.next()
            ):  # none where an item that was to be asked twice has been skipped
                queue.submit(
                    turn,
                    annotator.rank(turn.item, turn.item["responses"], turn.shown_order, turn.rng),
                )
    return of_annotators(store.rows(items), annotators, seed)
