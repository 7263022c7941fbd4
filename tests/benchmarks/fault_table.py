"""The table of notebooks/notes/diagnoses.md, from fault_bench.json."""

import re
from collections import Counter
from pathlib import Path

from rlhf_utils.lab.diagnose import RULES

ROOT = Path(__file__).parents[2]
NUMBERS = Path("notebooks/notes/fault_bench.json")
NOTES = Path("notebooks/notes/diagnoses.md")


HEAD = "| planted fault | signs that showed, in how many of three runs | |\n|---|---|---|"


def table(content: dict) -> str:
    """What each fault was expected to show, and what it showed."""
    alarms = [f"{', '.join(f)} with seed {s}" for s, f in content["healthy_findings"].items()]
    lines = [
        HEAD,
        *map(row, content["faults"].values()),
        f"\nDetected: **{content['detected']} of {content['planted']}**. False alarms: "
        f"**{content['false_alarms']} in {content['healthy']}** healthy runs"
        f" ({'; '.join(alarms) or 'none'}).\n",
        "Three faults that we expected to stay unseen:\n",
        HEAD,
        *map(row, content["expected_hidden"].values()),
        f"\nNo planted fault has shown {unseen(content)}.",
        "Those are tested on made-up series only.",
    ]
    return "\n".join(lines)


def unseen(content: dict) -> str:
    """The signs that showed in no run with a fault."""
    faults = [*content["faults"].values(), *content["expected_hidden"].values()]
    seen = {sign for fault in faults for found in fault["findings"].values() for sign in found}
    return ", ".join(name for name in RULES if name not in seen)


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
