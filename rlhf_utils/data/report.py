"""What is told of rows: those that cannot be used, what was renamed, and what a model will see."""

from collections import Counter

from ..errors import DataError
from ..records import printable, shown_name
from .conversations import messages_of

SHOWN = 10  # bad rows that are told one by one
MOST_BAD = 0.01  # share of the rows; above it the data is taken for another form, or damaged


class Report:
    """The rows of a source that cannot be used, and why.

    unit: "line" or "row", as the source counts. strict: stop at the first.
    """

    def __init__(self, source: str, unit: str, strict: bool):
        self.name, self.unit, self.strict = shown_name(source), unit, strict
        self.rows = self.bad = self.repeats = 0
        self.reasons: list[str] = []  # of the first SHOWN bad rows
        self.first_repeat = ""
        self.notes = Counter()  # what was renamed or put together → in how many rows

    def bad_row(self, number: int, error: ValueError) -> None:
        """Raises DataError if the reader is strict."""
        self.bad += 1
        if len(self.reasons) < SHOWN:
            self.reasons.append(self._reason(number, str(error)))

    def repeat(self, number: int, of: str) -> None:
        """A row that is good but was there before; however many there are, this stops nothing."""
        self.repeats += 1
        self.first_repeat = self.first_repeat or self._reason(number, f"it repeats the prompt {of}")

    def _reason(self, number: int, words: str) -> str:
        reason = f"{self.unit} {number}: {printable(words, 400)}"
        if self.strict:
            raise DataError(f"{self.name}, {reason}.")
        return reason

    def tell(self) -> None:
        """Prints what was left out or renamed. Raises DataError if too little is left."""
        if not self.rows:
            raise DataError(f"{self.name} holds no rows.")
        counted = f"{self.name}: {self.bad:,} of {self.rows:,} rows cannot be used"
        more = self.bad - len(self.reasons)
        if self.bad > MOST_BAD * self.rows:
            reasons = "; ".join(self.reasons) + (" …" if more else "")
            raise DataError(
                f"{counted}, more than {MOST_BAD:.0%}: {reasons}. Mend these rows or take them out."
            )
        for note, count in self.notes.items():
            print(f"{self.name}: {printable(note, 200)} (rows: {count:,})")
        if self.bad:
            print(f"{counted} and are left out", *self.reasons, sep="\n  ")
        if more:
            print(f"  … and {more:,} more")
        if self.repeats:
            counted = f"{self.repeats:,} of {self.rows:,} rows"
            print(f"{self.name}: left out as repeated prompts: {counted} ({self.first_repeat})")


def shown_rows(kind: str, rows: list) -> str:
    """The first three Prompts, Demonstrations or Pairs as a model sees them: a role, its text."""
    blocks = []
    for number, row in enumerate(rows[:3], 1):
        prompt = row if kind in ("prompts", "heldout") else row.prompt
        said = [(turn["role"], turn["content"]) for turn in messages_of(prompt.text)]
        if kind == "demonstrations":
            said.append(("assistant", row.answer))
        elif kind == "preferences":
            said += [("chosen", row.chosen), ("rejected", row.rejected)]
        lines = [f"row {number} of {len(rows):,}"]
        lines += [f"  {role + ':':10} {printable(text, 200)}" for role, text in said]
        blocks.append("\n".join(lines))
    return "\n".join(blocks)
