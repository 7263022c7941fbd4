"""TODO: purpose."""

import hashlib
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ModelError, SettingError
from ..reward.functions import digest_of, load_reward
from ..stats import as_scores
from .exchange import read_labels
from .rubric import GOLD_WEIGHTS, gold_score


@dataclass
class Annotator:
    """A simulated person. Utilities get Gumbel noise, so that pairs follow Bradley–Terry at `temperature` (Luce 1959; Yellott 1977)."""

    name: str
    weights: dict[str, float]
    temperature: float = 0.25  # noise of each judgement, in points of the rubric
    flip: float = 0.03  # probability that two neighbours of the ranking are swapped by mistake
    length_bias: float = 0.0  # points for each 10 words
    position_bias: float = 0.0  # points for being shown first, falling to 0 for the last
    tie_width: float = 0.15  # answers closer than this look the same and share a rank

    def rank(
        self, item: dict, responses: list[str], shown_order: list[int], rng: random.Random
    ) -> list[int]:
        """The rank of each response, 1 is best; equal texts share a rank. `shown_order[p]` is the response shown at place p."""
        utilities: dict[str, float] = {}
        for place, index in enumerate(shown_order):
            text = responses[index]
            bias = self.length_bias * len(text.split()) / 10 + self.position_bias * (
                1 - place / max(len(responses) - 1, 1)
            )
            noise = -math.log(-math.log(rng.random() or 1e-12)) * self.temperature
            utilities.setdefault(text, gold_score(item, text, self.weights) + bias + noise)
        order = sorted(utilities, key=utilities.get, reverse=True)
        if len(order) > 1 and rng.random() < self.flip:
            at = rng.randrange(len(order) - 1)
            order[at], order[at + 1] = order[at + 1], order[at]
        ranks, best = {}, None  # a rank takes in whatever is close to its best answer
        for place, text in enumerate(order):
            if best is None or abs(utilities[best] - utilities[text]) > self.tie_width:
                best = text
            ranks[text] = order.index(best) + 1
        return [ranks[text] for text in responses]


def simulated_annotators() -> list[Annotator]:
    """Three people who differ: one cares for substance, one for safety, one for short answers; each with a weakness."""
    return [
        Annotator("ada", GOLD_WEIGHTS | {"helpfulness": 0.6}, temperature=0.35, length_bias=0.03),
        Annotator(
            "ben",
            GOLD_WEIGHTS | {"harmlessness": 1.9, "honesty": 1.4},
            temperature=0.40,
            position_bias=0.12,
        ),
        Annotator(
            "cleo", GOLD_WEIGHTS | {"brevity": 1.7, "helpfulness": 0.3}, temperature=0.35, flip=0.08
        ),
    ]


@dataclass
class ScoringAnnotator:
    """Ranks by a function of (prompts, completions, **columns) → scores: TRL's reward-function signature, or a reward model's `score`."""

    name: str
    score: Callable[..., list[float]] = field(repr=False)
    digest: str = ""  # of what scores: another model's or function's rankings are other rankings

    def rank(
        self, item: dict, responses: list[str], shown_order: list[int], rng: random.Random
    ) -> list[int]:

        columns = {
            key: [value] * len(responses)
            for key, value in item.items()
            if key not in ("prompt", "responses")
        }
        scores = as_scores(
            self.score(prompts=[item["prompt"]] * len(responses), completions=responses, **columns),
            len(responses),
        ).tolist()
        return [1 + sum(other > own for other in scores) for own in scores]


@dataclass
class FileAnnotator:
    """Ranks as a label file says, whatever the order of the responses in it; an item that it does not know is skipped."""

    name: str
    digest: str  # of the file: another file's labels are other labels
    rankings: dict[tuple, dict[str, int]] = field(
        repr=False
    )  # (prompt, *sorted responses) → response → rank

    def rank(
        self, item: dict, responses: list[str], shown_order: list[int], rng: random.Random
    ) -> list[int]:
        known = self.rankings.get((item["prompt"], *sorted(responses)), {})
        return [known[response] for response in responses] if known else []


def load_annotators(
    name: str, trained: Callable[[], Path], items: list[dict]
) -> list[Annotator | ScoringAnnotator | FileAnnotator]:
    """`simulated`; the labels of a file (see exchange.py), one annotator each of its own; or whatever may be a reward (see rewards.py).

    trained: gives the folder of `reward_model`. Raises SettingError naming what was given, and for a file that knows none of the items.
    """

    if name == "simulated":
        return simulated_annotators()
    if not Path(name).is_file():
        try:
            return [ScoringAnnotator(name, load_reward(name, trained), digest_of(name, trained))]
        except (SettingError, ModelError) as error:
            raise SettingError(
                f"annotator={name!r} is neither 'simulated', 'person', a label file nor a reward: {error}"
            ) from error
    rows, bad = read_labels(Path(name))
    if bad:
        raise SettingError(
            f"annotator={name!r}: {len(bad)} rows cannot be read, the first in line {bad[0][0]}: {bad[0][1]}."
        )
    by_name: dict[str, dict] = {}
    for row in rows:
        if row["kind"] == "ranking":
            by_name.setdefault(row["annotator"], {})[row["prompt"], *sorted(row["responses"])] = (
                dict(zip(row["responses"], row["ranks"]))
            )
    wanted = {(item["prompt"], *sorted(item["responses"])) for item in items}
    if not any(wanted & set(known) for known in by_name.values()):
        raise SettingError(
            f"annotator={name!r} ranks none of the {len(items)} prompts with these answers: sample them with the seed and model it was made with."
        )
    digest = hashlib.sha256(Path(name).read_bytes()).hexdigest()
    return [FileAnnotator(who, digest, known) for who, known in by_name.items()]
