"""What is told of rows: those that cannot be used, what was renamed, and what a model will see."""

from collections import Counter
from dataclasses import dataclass, field

from ..errors import DataError
from ..files import printable
from ..records import shown_name
from .conversations import messages_of

SHOWN = 10  # bad rows that are told one by one
MOST_BAD = 0.01  # share of the rows; above it the data is taken for another form, or damaged


class Repeat(ValueError):
    """A row that is good but was there before: left out and told, however many there are."""


@dataclass
class Report:
    """The rows of a source that cannot be used, and why."""

    source: str
    unit: str
    "line or row, as the source counts"
    strict: bool
    "stop at the first"
    rows: int = 0
    bad: int = 0
    repeats: int = 0
    reasons: list[str] = field(default_factory=list)
    "of the first SHOWN bad rows"
    first_repeat: str = ""
    notes: Counter = field(default_factory=Counter)
    "what was renamed or put together → in how many rows"

    def leave_out(self, number: int, error: ValueError) -> None:
        """Notes a row. Raises DataError if the reader is strict."""
        reason = f"{self.unit} {number}: {printable(str(error), 400)}"
        if self.strict:
            raise DataError(f"{shown_name(self.source)}, {reason}.")
        if isinstance(error, Repeat):
            self.repeats += 1
            self.first_repeat = self.first_repeat or reason
            return
        self.bad += 1
        if len(self.reasons) < SHOWN:
            self.reasons.append(reason)

    def tell(self) -> None:
        """Prints what was left out or renamed. Raises DataError if too little is left."""
        name = shown_name(self.source)
        if not self.rows:
            raise DataError(f"{name} holds no rows.")
        counted = f"{self.bad:,} of {self.rows:,} rows cannot be used"
        if self.bad > MOST_BAD * self.rows:
            more = " …" if self.bad > len(self.reasons) else ""
            raise DataError(
                f"{name}: {counted}, more than {MOST_BAD:.0%}: {'; '.join(self.reasons)}{more}. "
                "Mend these rows or take them out."
            )
        for note, count in self.notes.items():
            print(f"{name}: {printable(note, 200)} (rows: {count:,})")
        if self.bad:
            print(f"{name}: {counted} and are left out")
            print("".join(f"  {reason}\n" for reason in self.reasons), end="")
            if self.bad > len(self.reasons):
                print(f"  … and {self.bad - len(self.reasons):,} more")
        if self.repeats:
            print(
                f"{name}: left out as repeated prompts: {self.repeats:,} of {self.rows:,} rows "
                f"({self.first_repeat})"
            )


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
