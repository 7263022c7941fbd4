"""Annotators in code: simulated people who rank by the rubric, any reward, a file of labels.

Each has a `name` and ranks an item: `rank(item, shown_order, rng)` gives one rank an answer, 1 for
the best, or nothing to skip the item. Left out: language models that judge.
"""

import math
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..data.rows import columns_of
from ..errors import ModelError, SettingError
from ..files import digest
from ..stats import finite_scores
from .exchange import read_rankings
from .pairs import Item
from .rubric import GOLD_WEIGHTS, gold_score


@dataclass
class Annotator:
    """A simulated person.

    Utilities get Gumbel noise, so pairs follow Bradley–Terry at `temperature` (Luce 1959;
    Yellott 1977).
    """

    name: str
    weights: dict[str, float]
    temperature: float = 0.25  # noise of each judgement, in points of the rubric
    flip: float = 0.03  # probability that two neighbours of the ranking are swapped by mistake
    length_bias: float = 0.0  # points for each 10 words
    position_bias: float = 0.0  # points for being shown first, falling to 0 for the last
    tie_width: float = 0.15  # answers closer than this look the same and share a rank

    def rank(self, item: Item, shown_order: list[int], rng: random.Random) -> list[int]:
        """The rank of each answer; equal texts share a rank."""
        utilities: dict[str, float] = {}
        last_place = max(len(item.answers) - 1, 1)
        for place, index in enumerate(shown_order):
            text = item.answers[index]
            length_points = self.length_bias * len(text.split()) / 10
            bias = length_points + self.position_bias * (1 - place / last_place)
            noise = -math.log(-math.log(rng.random() or 1e-12)) * self.temperature
            utility = gold_score(item.prompt, text, self.weights) + bias + noise
            utilities.setdefault(text, utility)
        order = sorted(utilities, key=utilities.get, reverse=True)
        if len(order) > 1 and rng.random() < self.flip:
            at = rng.randrange(len(order) - 1)
            order[at], order[at + 1] = order[at + 1], order[at]
        ranks, best = {}, None  # a rank takes in whatever is close to its best answer
        for place, text in enumerate(order, 1):
            if best is None or abs(utilities[best] - utilities[text]) > self.tie_width:
                best = text
                ranks[best] = place
            ranks[text] = ranks[best]
        return [ranks[text] for text in item.answers]


def simulated_annotators() -> list[Annotator]:
    """Three people: one cares for substance, one for safety, one for short and direct answers.

    Each has a weakness: ada likes length, ben what he sees first, and cleo slips.
    """
    substance = GOLD_WEIGHTS | {"helpfulness": 0.6, "directness": 0.7}
    safety = GOLD_WEIGHTS | {"harmlessness": 2.3, "honesty": 1.4, "directness": 0.7}
    short = GOLD_WEIGHTS | {"brevity": 0.6, "helpfulness": 0.3, "directness": 1.1}
    return [
        Annotator("ada", substance, temperature=0.35, length_bias=0.03),
        Annotator("ben", safety, temperature=0.40, position_bias=0.12),
        Annotator("cleo", short, temperature=0.35, flip=0.08),
    ]


@dataclass
class ScoringAnnotator:
    """Ranks by a reward: (prompts, completions, **columns) → one number an answer."""

    name: str
    score: Callable[..., list[float]] = field(repr=False)
    digest: str = ""  # of what scores: another model or function ranks otherwise

    def rank(self, item: Item, shown_order: list[int], rng: random.Random) -> list[int]:
        """The rank of each answer by its score. Raises PPOError for what is no finite number."""
        count = len(item.answers)
        prompts, columns = [item.prompt.text] * count, columns_of([item.prompt] * count)
        found = self.score(prompts=prompts, completions=item.answers, **columns)
        scores = finite_scores(found, count)
        return [1 + sum(other > own for other in scores) for own in scores]


@dataclass
class FileAnnotator:
    """Ranks as a label file says, whatever the order of the answers in it."""

    name: str
    digest: str  # of the file: another file's labels are other labels
    rankings: dict[str, dict[str, int]] = field(repr=False)  # item id → answer → rank

    def rank(self, item: Item, shown_order: list[int], rng: random.Random) -> list[int]:
        """The rank of each answer; empty for an item that the file does not hold."""
        known = self.rankings.get(item.id)
        return [known[answer] for answer in item.answers] if known else []


def load_annotators(
    name: str, items: list[Item], load_scorer: Callable[[str], tuple[Callable, str]]
) -> list[Annotator | ScoringAnnotator | FileAnnotator]:
    """`simulated`; a label file, one annotator for each name in it; or a reward.

    load_scorer: name of a reward → (its scoring function, its digest). Raises SettingError for a
    file that holds none of the items.
    """
    if name == "simulated":
        return simulated_annotators()
    path = os.path.expanduser(name)
    if os.path.isfile(path):
        return _of_file(Path(path), items)
    try:
        score, scorer_digest = load_scorer(name)
    except (SettingError, ModelError) as error:
        raise SettingError(
            f"annotator={name!r} is neither 'simulated', 'person', a label file nor a reward: "
            f"{error}"
        ) from error
    return [ScoringAnnotator(name, score, scorer_digest)]


def _of_file(path: Path, items: list[Item]) -> list[FileAnnotator]:
    by_name: dict[str, dict] = {}
    for found in read_rankings(path):
        rankings = by_name.setdefault(found.annotator, {})
        rankings[found.item_id] = dict(zip(found.answers, found.ranks))
    if not any(item.id in rankings for item in items for rankings in by_name.values()):
        raise SettingError(
            f"annotator={str(path)!r} ranks none of the {len(items)} prompts with these answers: "
            "sample them with the seed and model it was made with."
        )
    return [FileAnnotator(who, digest(path), rankings) for who, rankings in by_name.items()]
