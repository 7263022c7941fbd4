"""Item, Judgement and Pair; ranking → pairs; cleaning of pairs."""

import hashlib
import itertools
import json
from dataclasses import dataclass, field, replace
from functools import cached_property

from ..data.rows import Prompt
from ..errors import DataError

KINDS = ("ranking", "repeat", "skip")  # a repeat is asked a second time; a skip has no ranks
IMPORTED = "import"  # the session of a judgement from a file that names none
WORST_RANK = 1000  # ranks beyond it are a slip, and their gaps would swamp all others


# --- the nouns


@dataclass
class Item:
    """One prompt with the answers that are compared."""

    prompt: Prompt
    answers: list[str]
    split: str = "train"  # or "other": of a category that no stage trains on

    @cached_property
    def id(self) -> str:
        """Made of the content, so that labels of other answers never count for these."""
        return item_id(self.prompt.text, self.answers)

    @cached_property
    def seed(self) -> str:
        """What random streams of this item begin with; another order of answers is another seed."""
        content = "\0".join([self.prompt.text, *self.answers]).encode("utf-8", "backslashreplace")
        return hashlib.sha256(content).hexdigest()[:16]


def item_id(prompt: str, answers: list[str]) -> str:
    """The name of an item: the same for any order of its answers."""
    content = json.dumps([prompt, *sorted(answers)])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass
class Judgement:
    """What one annotator said about one item."""

    item_id: str
    annotator: str
    prompt: str
    answers: list[str]
    shown_order: list[int]  # shown_order[p] is the number of the answer that stood at place p
    ranks: list[int]  # of each answer: 1 is best, equal numbers are ties
    session: str = ""
    kind: str = "ranking"  # one of KINDS
    confidence: float | None = None  # 0 to 1
    flags: list[str] = field(default_factory=list)
    note: str = ""
    strength: float | None = None  # how much better the better of two answers is, 1 to 3
    shown_at: float | None = None  # seconds since 1970
    submitted_at: float | None = None
    uid: str | None = None  # chosen by its maker, so that sending it twice stores it once
    id: int | None = None  # its number in the store

    def check(self) -> None:
        """Raises ValueError for a kind, ranks or an order that cannot be."""
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r} must be one of {', '.join(KINDS)}.")
        count = 0 if self.kind == "skip" else len(self.answers)
        whole = all(type(rank) is int and 1 <= rank <= WORST_RANK for rank in self.ranks)
        if len(self.ranks) != count or not whole:
            raise ValueError(
                f"ranks={str(self.ranks):.60} must be {count} whole numbers from 1, for the best, "
                f"to {WORST_RANK}; equal numbers are ties."
            )
        if sorted(self.shown_order) != list(range(len(self.answers))):
            raise ValueError(
                f"shown_order={self.shown_order} must hold each of 0 to {len(self.answers) - 1} "
                "once."
            )

    def content(self) -> list:
        """What it says, the same for any order of the answers."""
        ranked = itertools.zip_longest(self.answers, self.ranks)
        return [self.item_id, self.annotator, sorted(ranked, key=str)]

    def in_order_of(self, answers: list[str]) -> "Judgement":
        """The same judgement with its answers in another order; equal texts keep theirs.

        Raises ValueError if they are not the same answers.
        """
        if answers == self.answers:
            return self
        if sorted(answers) != sorted(self.answers):
            raise ValueError(f"The judgement of {self.prompt[:60]!r} is of other answers.")
        places: dict[str, list[int]] = {}
        for number, answer in enumerate(self.answers):
            places.setdefault(answer, []).append(number)
        before = [places[answer].pop(0) for answer in answers]  # before[new number] = old number
        now = {old: new for new, old in enumerate(before)}
        return replace(
            self,
            answers=list(answers),
            ranks=[self.ranks[old] for old in before] if self.ranks else [],
            shown_order=[now[old] for old in self.shown_order],
        )


@dataclass
class Pair:
    """Two answers to one prompt, of which an annotator preferred the first."""

    prompt: Prompt
    chosen: str
    rejected: str
    split: str = "train"  # of its item
    annotator: str = ""
    item_id: str = ""
    rank_gap: float | None = None  # the strength an annotator gave, else the difference of ranks
    confidence: float | None = None  # 0 to 1
    tie: bool = False  # neither was preferred
    subset: str = ""  # part of a benchmark, such as RewardBench's


# --- from rankings to pairs


def ranking_to_pairs(ranks: list[int]) -> list[tuple[int, int]]:
    """All (better, worse) of a ranking: 1 is best, and a tie gives no pair."""
    pairs = itertools.permutations(range(len(ranks)), 2)
    return [(a, b) for a, b in pairs if ranks[a] < ranks[b]]


def pairs_of(judgement: Judgement, item: Item) -> list[Pair]:
    """The pairs of one ranking of its item."""
    pairs = []
    for better, worse in ranking_to_pairs(judgement.ranks):
        pair = Pair(
            item.prompt,
            chosen=judgement.answers[better],
            rejected=judgement.answers[worse],
            split=item.split,
            annotator=judgement.annotator,
            item_id=judgement.item_id,
            rank_gap=judgement.strength or judgement.ranks[worse] - judgement.ranks[better],
            confidence=judgement.confidence,
        )
        pairs.append(pair)
    return pairs


def pairs_of_judgements(judgements: list[Judgement], items: list[Item]) -> list[Pair]:
    """The pairs of all rankings of these items."""
    known = {item.id: item for item in items}
    return [pair for found in judgements for pair in pairs_of(found, known[found.item_id])]


# --- cleaning

LEFT_OUT, KEPT = "left out", "kept"
TIE = "half a pair each way; not in the report card"


def oddity(pair: Pair, judged: set[tuple[str, str, str]]) -> tuple[str, str]:
    """(what is odd about a pair, what becomes of the pair); ("", "kept") if nothing is.

    judged: (prompt, chosen, rejected) of every pair in the data.
    """
    chosen, rejected = pair.chosen.strip(), pair.rejected.strip()
    if not chosen or not rejected:
        return "an empty answer", LEFT_OUT
    if chosen == rejected:
        return "both answers equal", LEFT_OUT
    if pair.tie:
        return "a tie", TIE
    if (pair.prompt.text, pair.rejected, pair.chosen) in judged:
        return "judged both ways", KEPT
    return "", KEPT


def usable_pairs(pairs: list[Pair]) -> tuple[list[Pair], list[dict]]:
    """(the pairs that can be learned from, one row for each kind of oddity that was found).

    Raises DataError if no pair is left.
    """
    judged = {(pair.prompt.text, pair.chosen, pair.rejected) for pair in pairs}
    kept, findings = [], {}
    for pair in pairs:
        odd, fate = oddity(pair, judged)
        if odd:
            example = pair.prompt.text[:80]
            row = {"finding": odd, "pairs": 0, "what happens": fate, "example": example}
            findings.setdefault(odd, row)["pairs"] += 1
        if fate != LEFT_OUT:
            kept.append(pair)
    if not kept:
        reasons = [f"{row['pairs']} {odd}" for odd, row in findings.items()]
        raise DataError(
            f"None of {len(pairs)} pairs can be used: {', '.join(reasons) or 'there are none'}."
        )
    return kept, list(findings.values())


def check_split(train: list[Pair], heldout: list[Pair]) -> None:
    """Raises DataError if a prompt is on both sides: the model would know its answers already."""
    both = {pair.prompt.text for pair in train} & {pair.prompt.text for pair in heldout}
    if both:
        raise DataError(
            f"{len(both)} prompts are both in the training and in the held-out pairs, such as "
            f"{min(both)[:80]!r}: keep each on one side."
        )
