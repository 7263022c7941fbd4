"""What both sides of the reward benchmark share: data, splits, sizes, what a child is told."""

import argparse
import json
from pathlib import Path

from common import positive

from rlhf_utils.data.rows import Prompt, split_by_prompt
from rlhf_utils.preferences.pair_files import read_pairs
from rlhf_utils.preferences.pairs import Pair, usable_pairs

FILES = {"hh": "hh_harmless.jsonl.gz", "instructions": "instructions_with_preferences.jsonl"}
FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data"
HELDOUT = 0.2  # share of the prompts


def arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The options that parent and children have in common."""
    add = parser.add_argument
    add("--model", default="smollm2-135m", help="built-in name or folder")
    add("--folder", type=Path, default=FOLDER, help="where the data are")
    add("--pairs", type=positive, default=10**6, help="training pairs at most")
    add("--heldout", type=positive, default=10**6, help="held-out pairs at most")
    add(
        "--validation",
        type=float,
        default=0.1,
        help="share of the prompts that are not held out, for the temperature and for sweeps",
    )
    add(
        "--max-length",
        type=positive,
        default=128,
        help="tokens; what is longer loses its beginning, on both sides",
    )
    add("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    add("--ensemble", type=positive, default=2, help="ours: heads")
    add("--head-epochs", type=positive, default=10, help="ours: passes of the heads")
    add("--batch", type=positive, default=4, help="TRL: pairs a step")
    add("--epochs", type=positive, default=1, help="TRL: passes over the pairs")
    add(
        "--checkpointing",
        type=int,
        default=0,
        help="TRL: 1 recomputes activations, which saves memory and costs time",
    )
    add(
        "--judge",
        choices=("heldout", "validation"),
        default="heldout",
        help="which pairs give the accuracy; sweeps take validation",
    )
    return parser


def pairs_of(name: str, folder: Path) -> list[Pair]:
    """The usable pairs of a data set. Stops with a sentence if its file is missing."""
    path = folder / FILES[name]
    if not path.is_file():
        raise SystemExit(
            f"There is no {path}: give the folder of {FILES[name]} with --folder, "
            f"or leave {name!r} out of --data."
        )
    if name == "hh":
        return usable_pairs(read_pairs(path))[0]
    with path.open(encoding="utf-8") as lines:
        return usable_pairs([pair_of_instruction(json.loads(line)) for line in lines])[0]


def pair_of_instruction(row: dict) -> Pair:
    text = "\n\n".join(filter(None, (row["instruction"], row["input"])))
    return Pair(Prompt(text), row["chosen"], row["rejected"])


def split(pairs: list[Pair], seed: int, args) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """(training, validation, held-out) pairs, each prompt on one side.

    Both sides of the benchmark learn from the same training pairs.
    """
    learned, heldout = split_by_prompt(pairs, HELDOUT, seed)
    train, validation = split_by_prompt(learned, args.validation, seed)
    return train[: args.pairs], validation, heldout[: args.heldout]


def child_arguments() -> argparse.Namespace:
    parser = arguments(argparse.ArgumentParser())
    parser.add_argument("--name", choices=list(FILES), required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, required=True)
    return parser.parse_args()
