"""The table of notebooks/notes/diagnoses.md, from fault_bench.json."""

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
NUMBERS = Path("notebooks/notes/fault_bench.json")
NOTES = Path("notebooks/notes/diagnoses.md")


def table(content: dict) -> str:
    """What each fault was expected to show, and what it showed."""
    hidden = content["expected_hidden"]
    lines = [
        "| planted fault | findings, in how many of the runs | |",
        "|---|---|---|",
        *map(row, content["faults"].values()),
        f"\nDetected: **{content['detected']} of {content['planted']}**. False alarms: "
        f"**{content['false_alarms']} in {content['healthy']}** healthy runs.\n",
        "Faults that we expected to stay unseen:\n",
        "| planted fault | findings, in how many of the runs | |",
        "|---|---|---|",
        *map(row, hidden.values()),
    ]
    return "\n".join(lines)


def row(fault: dict) -> str:
    counts = Counter(sign for found in fault["findings"].values() for sign in found)
    told = ", ".join(
        f"**{sign}** {count}" if sign in fault["expected"] else f"{sign} {count}"
        for sign, count in counts.most_common()
    )
    verdict = "detected" if fault["detected"] else "**not detected**"
    return f"| {fault['fault']} | {told or 'none'} | {verdict} |"


def with_table(page: str, content: dict) -> str:
    """The page with the table between its markers."""
    marked = f"<!-- faults -->\n{table(content)}\n<!-- /faults -->"
    return re.sub("<!-- faults -->.*?<!-- /faults -->", lambda _: marked, page, flags=re.DOTALL)
