"""This suite's reward model against TRL's RewardTrainer: the same model, pairs, tokens, epochs, batch and dtype.

    python tests/benchmarks/reward_vs_trl.py --runs runs.jsonl --json bench.json             all of it: over an hour on 2 cores
    python tests/benchmarks/reward_vs_trl.py --model tiny --pairs 40 --heldout 40            a smoke check: whether it runs
    python tests/benchmarks/reward_vs_trl.py --data hh --trl-splits 0                        ours and the baselines only
    python tests/benchmarks/reward_vs_trl.py --data hh --trl-splits 0 --splits 1 --judge validation --validation 0.25 --k 12    one step of a sweep

Every run is a process of its own, and with --runs FILE what has been measured is not measured again after an interruption. Ours and the
baselines are measured on every split (by prompt, 80/20), TRL with each of its learning rates on the first split, and with the more accurate
one, a choice in its favour, on the first --trl-splits. accuracy is the mean over the splits that both have; time_ratio is TRL's seconds
for an epoch over ours once states are cached, time_ratio_run the same for a run with caching and heads counted, and memory_ratio our
peak memory over TRL's.
"""

import argparse
import json
import platform
import sys
from pathlib import Path
from statistics import mean

import torch
from environment import child
from reward_common import FILES, arguments, rows_of, split

from rlhf_utils import stats
from rlhf_utils.reward import report_card
from rlhf_utils.reward.report_card import bag_of_words

SHARED = (
    "model",
    "folder",
    "pairs",
    "heldout",
    "validation",
    "max_length",
    "batch",
    "dtype",
    "epochs",
    "judge",
    "k",
    "head_epochs",
    "head_learning_rate",
    "ensemble",
    "center",
    "checkpointing",
)


def measure(side: str, name: str, seed: int, learning_rate: float, args) -> dict:
    """One run in a process of its own, or what --runs holds of it."""
    shared = [
        text for key in SHARED for text in (f"--{key.replace('_', '-')}", str(getattr(args, key)))
    ]
    command = [
        f"{side}.py",
        "--name",
        name,
        "--seed",
        str(seed),
        "--learning-rate",
        str(learning_rate),
        *shared,
    ]
    measured = (
        [json.loads(line) for line in args.runs.open()] if args.runs and args.runs.exists() else []
    )
    found = next((run["found"] for run in measured if run["command"] == command), None)
    if found is None:
        found = child(sys.executable, command[0], command[1:])
        if args.runs:
            with args.runs.open("a") as file:
                file.write(json.dumps({"command": command, "found": found}) + "\n")
    print(
        f"{name} split {seed}, {side}, learning rate {learning_rate:g}: "
        + ", ".join(f"{key} {value:.3f}" for key, value in found.items()),
        flush=True,
    )
    return found


def baselines(name: str, seed: int, args) -> dict:
    """Accuracies on the same pairs of the longer answer and of single words."""
    train, validation, heldout = split(rows_of(name, args.folder), seed, args)
    judged = heldout if args.judge == "heldout" else validation
    return {
        "length": float(stats.correct(report_card.longer_of_pairs(judged)).mean()),
        "bag_of_words": float(stats.correct(bag_of_words(train, judged)).mean()),
    }


def averaged(runs: list[dict], key: str) -> float:
    return mean(run[key] for run in runs) if runs else float("nan")


def compare(name: str, args) -> dict[str, float]:
    """All runs of one data set; its flat keys."""
    rows = rows_of(name, args.folder)
    print(
        f"\n{name}: {len(rows)} pairs of {len({row['prompt'] for row in rows})} prompts", flush=True
    )
    ours, simple, best = [], [], []
    for seed in range(args.splits):
        ours.append(measure("reward_side", name, seed, args.learning_rate, args))
        simple.append(baselines(name, seed, args))
        if seed < args.trl_splits:
            rates = args.trl_learning_rates if seed == 0 else [best[0]["learning_rate"]]
            runs = [
                measure("reward_trl_side", name, seed, rate, args) | {"learning_rate": rate}
                for rate in rates
            ]
            best.append(max(runs, key=lambda run: run["accuracy"]))
    both = ours[: len(best)] or ours
    flat = {
        "ours.accuracy": averaged(both, "accuracy"),
        "ours.accuracy_all_splits": averaged(ours, "accuracy"),
        "ours.ece": averaged(ours, "ece"),
        "trl.accuracy": averaged(best, "accuracy"),
        "time_ratio": averaged(best, "epoch_s") / averaged(both, "epoch_s"),
        "time_ratio_run": averaged(best, "run_s") / averaged(both, "run_s"),
        "memory_ratio": averaged(both, "peak_memory_gb") / averaged(best, "peak_memory_gb"),
    }
    # Over all splits: the mean bounds of one split's 95% interval, and the heads before the epoch.
    flat |= {
        f"ours.{key}": averaged(ours, key)
        for key in ("accuracy_low", "accuracy_high", "heads_alone")
    }
    flat |= {f"{kind}.accuracy": averaged(simple, kind) for kind in ("length", "bag_of_words")}
    flat["length.accuracy_shorter"] = 1 - flat["length.accuracy"]
    flat |= {
        f"{side}.{key}": averaged(runs, key)
        for side, runs in (("ours", both), ("trl", best))
        for key in ("epoch_s", "run_s", "peak_memory_gb")
    }
    for key, value in flat.items():
        print(f"  {key:28} {value:9.3f}")
    return {
        f"{name}.{key}": value for key, value in flat.items() if value == value
    }  # what was not measured is left out


def main() -> None:
    parser = arguments(argparse.ArgumentParser(description=__doc__.splitlines()[0]))
    parser.add_argument("--data", nargs="+", choices=list(FILES), default=list(FILES))
    parser.add_argument("--splits", type=int, default=5, help="splits for ours and the baselines")
    parser.add_argument("--trl-splits", type=int, default=2, help="of these, how many for TRL")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="ours")
    parser.add_argument("--trl-learning-rates", nargs="+", type=float, default=[2e-5, 5e-5])
    parser.add_argument(
        "--runs",
        type=Path,
        metavar="FILE",
        help="write every run there as a line, and take from there what the same code measured before: remove it when the code has changed",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures there, as flat keys"
    )
    args = parser.parse_args()
    if args.splits < max(args.trl_splits, 1):
        parser.error(f"--splits {args.splits} must be at least 1 and --trl-splits.")
    print(
        f"{args.model} on {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {args.dtype}, {args.max_length} tokens"
    )
    flat = {}
    for name in args.data:
        flat |= compare(name, args)
        if args.json:
            args.json.write_text(json.dumps(flat, indent=1) + "\n")


if __name__ == "__main__":
    main()
