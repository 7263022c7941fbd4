"""What both sides of the reward benchmark share: data, splits, sizes, and what a child process is told."""

import argparse
import json
from pathlib import Path

from common import positive

from rlhf_utils.data.rows import load_rows, split_by_prompt
from rlhf_utils.preferences.pairs import usable_pairs

FILES = {"hh": "hh_harmless.jsonl.gz", "instructions": "instructions_with_preferences.jsonl"}
FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data"
HELDOUT = 0.2  # share of the prompts


def arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The options that parent and children have in common."""
    parser.add_argument("--model", default="smollm2-135m", help="built-in name or folder")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the data are")
    parser.add_argument("--pairs", type=positive, default=10**6, help="training pairs at most")
    parser.add_argument("--heldout", type=positive, default=10**6, help="held-out pairs at most")
    parser.add_argument(
        "--validation",
        type=float,
        default=0.1,
        help="share of the prompts that are not held out, for the temperature and for sweeps",
    )
    parser.add_argument(
        "--max-length",
        type=positive,
        default=128,
        help="tokens; what is longer loses its beginning, on both sides",
    )
    parser.add_argument(
        "--batch", type=positive, default=4, help="pairs a step for TRL, prompts for ours"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--epochs", type=positive, default=1)
    parser.add_argument("--k", type=positive, default=8, help="ours: top layers with adapters")
    parser.add_argument(
        "--head-epochs", type=int, default=3, help="ours: passes of the heads alone"
    )
    parser.add_argument("--head-learning-rate", type=float, default=2e-4, help="ours")
    parser.add_argument("--ensemble", type=positive, default=2, help="ours: heads")
    parser.add_argument(
        "--center", type=float, default=0.0, help="ours: center_rewards_coefficient"
    )
    parser.add_argument(
        "--checkpointing",
        type=int,
        default=0,
        help="TRL: 1 recomputes activations, which saves memory and costs time",
    )
    parser.add_argument(
        "--judge",
        choices=("heldout", "validation"),
        default="heldout",
        help="which pairs give the accuracy; sweeps take validation",
    )
    return parser


def rows_of(name: str, folder: Path) -> list[dict]:
    """The usable pairs of a data set. Stops with a sentence where its file is missing."""
    path = folder / FILES[name]
    if not path.is_file():
        raise SystemExit(
            f"There is no {path}: give the folder of {FILES[name]} with --folder, or leave {name!r} out of --data."
        )
    return usable_pairs(
        load_rows(str(path), "preferences")
        if name == "hh"
        else [instruction(json.loads(line)) for line in path.open(encoding="utf-8")]
    )[0]


def instruction(row: dict) -> dict:
    return {
        "prompt": "\n\n".join(filter(None, (row["instruction"], row["input"]))),
        "chosen": row["chosen"],
        "rejected": row["rejected"],
    }


def split(rows: list[dict], seed: int, args) -> tuple[list[dict], list[dict], list[dict]]:
    """(training, validation, held-out) rows, each prompt on one side; both sides of the benchmark learn from the same training rows."""
    learned, heldout = split_by_prompt(rows, HELDOUT, seed)
    train, validation = split_by_prompt(learned, args.validation, seed)
    return train[: args.pairs], validation, heldout[: args.heldout]


def child_arguments() -> argparse.Namespace:
    parser = arguments(argparse.ArgumentParser())
    parser.add_argument("--name", choices=list(FILES), required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, required=True)
    return parser.parse_args()
