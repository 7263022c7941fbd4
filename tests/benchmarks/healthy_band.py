"""Writes notebooks/notes/healthy.json, the ranges behind the curves of 04, from finished runs.

The runs differ by their seed alone.

    python tests/benchmarks/healthy_band.py demo demo1 demo2
"""

import argparse
import json

import numpy as np

from rlhf_utils.errors import DataError
from rlhf_utils.files import read_file, write_text
from rlhf_utils.lab import healthy
from rlhf_utils.run.manifest import read_manifest
from rlhf_utils.run.paths import run_dir
from rlhf_utils.show import panel


def ranges(runs: list[list[dict]]) -> dict:
    """The episodes and the ranges over the rows of metrics.jsonl of several runs.

    Time is the machine's and is left out, as are keys that a run lacks. Raises DataError for runs
    with other updates.
    """
    episodes = [[row["episode"] for row in rows] for rows in runs]
    if any(other != episodes[0] for other in episodes):
        counts = ", ".join(str(len(rows)) for rows in runs)
        raise DataError(f"The runs have {counts} updates: name finished runs of one batch size.")
    curves, found = [panel.columns(rows, most=len(rows)) for rows in runs], {}
    for key in panel.KEYS:
        values = np.array([curve[key] for curve in curves])
        if np.isfinite(values).all() and not key.startswith("time/"):
            low, high = values.min(0), values.max(0)
            found[key] = [[float(f"{value:.3g}") for value in each] for each in (low, high)]
    return {"episodes": episodes[0], "ranges": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a folder below outputs/")
    runs = [run_dir(name) for name in parser.parse_args().runs]
    made = [
        {stage: read_manifest(run / stage, "parameters")["parameters"] for stage in healthy.STAGES}
        for run in runs
    ]
    parameters = healthy.bound(made[0])
    for run, other in zip(runs, made):
        if healthy.bound(other) != parameters:
            parser.error(f"{run.name} has other parameters than {runs[0].name}")
    content = {"seeds": [each["ppo"]["seed"] for each in made], "parameters": parameters}
    content |= ranges([read_file(run / "ppo" / "metrics.jsonl") for run in runs])
    write_text(healthy.healthy_file(), json.dumps(content, ensure_ascii=False) + "\n")
    print(f"written: {healthy.healthy_file().name}, of seeds {content['seeds']}")


if __name__ == "__main__":
    main()
