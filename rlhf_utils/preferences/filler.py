"""Filler: words about the question, the asker, the answerer or the exchange, not about the matter.

A list of phrases finds it (filler.txt), so a new wording can escape; the tests hold answers
labelled by hand. Left out: a model that judges.
"""

import functools
import re
from pathlib import Path

LIST = Path(__file__).with_name("filler.txt").read_text(encoding="utf-8").splitlines()
PHRASES = [line for line in LIST if line and not line.startswith("#")]
FEW_WORDS = r"(?:[\w'-]+ ){0,2}"  # what `_` stands for in the list
FILLER = re.compile("|".join(PHRASES).replace("_", FEW_WORDS), re.IGNORECASE)


@functools.lru_cache(maxsize=100_000)  # each annotator reads the same answers
def filler(answer: str) -> tuple[tuple[int, int], ...]:
    """Where the filler stands in an answer, as (start, end); empty if there is none."""
    return tuple(match.span() for match in FILLER.finditer(answer.replace("’", "'")))


def without_filler(answer: str) -> str:
    return FILLER.sub("", answer.replace("’", "'"))
