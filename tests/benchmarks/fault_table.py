"""The table of notebooks/notes/diagnoses.md, from fault_bench.json."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NUMBERS = Path("notebooks/notes/fault_bench.json")
NOTES = Path("notebooks/notes/diagnoses.md")


def table(content: dict) -> str:
    """The table of notes/diagnoses.md: what each fault was expected to show, and what it showed."""
    lines = ["| planted fault | expected, one of | findings, in how many of three runs | |"]
    lines.append("|---|---|---|---|")
    for fault in content["faults"].values():
        runs = fault["findings"].values()
        counted = {sign: sum(sign in found for found in runs) for found in runs for sign in found}
        told = ", ".join(
            f"**{sign}** {count}" if sign in fault["expected"] else f"{sign} {count}"
            for sign, count in sorted(counted.items(), key=lambda entry: -entry[1])
        )
        verdict = "detected" if fault["detected"] else "**not detected**"
        expected = ", ".join(fault["expected"])
        lines.append(f"| {fault['fault']} | {expected} | {told or 'none'} | {verdict} |")
    lines.append(
        f"\nDetected: {content['detected']} of {content['planted']}. False alarms: "
        f"{content['false_alarms']} in {content['healthy']} healthy runs."
    )
    return "\n".join(lines)


def with_table(page: str, content: dict) -> str:
    """The page with the table between its markers."""
    marked = f"<!-- faults -->\n{table(content)}\n<!-- /faults -->"
    return re.sub("<!-- faults -->.*?<!-- /faults -->", lambda _: marked, page, flags=re.DOTALL)
