"""Writes notebooks/notes/healthy.json, the ranges behind the curves of 04, from finished runs.

The runs differ by their seed alone.

    python tests/benchmarks/healthy_band.py demo demo1 demo2
"""

import argparse
import json

from rlhf_utils.files import read_file, write_text
from rlhf_utils.lab import healthy
from rlhf_utils.run.manifest import read_manifest
from rlhf_utils.run.paths import run_dir


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
    content |= healthy.ranges([read_file(run / "ppo" / "metrics.jsonl") for run in runs])
    write_text(healthy.healthy_file(), json.dumps(content, ensure_ascii=False) + "\n")
    print(f"written: {healthy.healthy_file().name}, of seeds {content['seeds']}")


if __name__ == "__main__":
    main()
