"""This suite's reward model against TRL's RewardTrainer: the same model, pairs, tokens and dtype.

Run this file with

    --runs runs.jsonl --json bench.json             all of it: over an hour on 2 cores
    --model tiny --pairs 40 --heldout 40            a smoke check: whether it runs
    --data hh --trl-splits 0                        ours and the baselines only
    --data hh --trl-splits 0 --splits 1 --judge validation --validation 0.25 --ensemble 8
                                                    one step of a sweep

Ours: heads on the states of a frozen transformer. TRL: all weights, one pass. Every run is a
process of its own, and with --runs FILE what was measured before is not measured again. Ours and
the baselines are measured on every split (by prompt, 80/20). TRL is measured with each of its
learning rates on the first split, and with the more accurate one, a choice in its favour, on the
first --trl-splits. accuracy is the mean over the splits that both have; time_ratio is TRL's seconds
of training over ours, reading included, and memory_ratio our peak memory over TRL's.
"""

import argparse
import json
import platform
import sys
from pathlib import Path
from statistics import mean

import torch
from environment import child
from reward_common import FILES, arguments, pairs_of, split

from rlhf_utils import stats
from rlhf_utils.reward import report_card
from rlhf_utils.reward.report_card import bag_of_words

SHARED = list(vars(arguments(argparse.ArgumentParser()).parse_args([])))  # with the children


def measure(side: str, name: str, seed: int, learning_rate: float, args) -> dict:
    """One run in a process of its own, or what --runs holds of it."""
    options = {"name": name, "seed": seed, "learning_rate": learning_rate}
    options |= {key: getattr(args, key) for key in SHARED}
    command = [f"{side}.py"]
    for key, value in options.items():
        command += [f"--{key.replace('_', '-')}", str(value)]
    found = measured_before(command, args.runs)
    if found is None:
        found = child(sys.executable, command[0], command[1:])
        if args.runs:
            with args.runs.open("a") as file:
                file.write(json.dumps({"command": command, "found": found}) + "\n")
    figures = ", ".join(f"{key} {value:.3f}" for key, value in found.items())
    print(f"{name} split {seed}, {side}, learning rate {learning_rate:g}: {figures}", flush=True)
    return found


def measured_before(command: list[str], runs: Path | None) -> dict | None:
    if runs and runs.exists():
        for line in runs.read_text().splitlines():
            run = json.loads(line)
            if run["command"] == command:
                return run["found"]
    return None


def baselines(name: str, seed: int, args) -> dict:
    """Accuracies on the same pairs of the longer answer and of single words."""
    train, validation, heldout = split(pairs_of(name, args.folder), seed, args)
    judged = heldout if args.judge == "heldout" else validation
    return {
        "length": float(stats.correct(report_card.longer_of_pairs(judged)).mean()),
        "bag_of_words": float(stats.correct(bag_of_words(train, judged)).mean()),
    }


def averaged(runs: list[dict], key: str) -> float:
    return mean(run[key] for run in runs) if runs else float("nan")


def compare(name: str, args) -> dict[str, float]:
    """All runs of one data set; its flat keys."""
    pairs = pairs_of(name, args.folder)
    prompts = {pair.prompt.text for pair in pairs}
    print(f"\n{name}: {len(pairs)} pairs of {len(prompts)} prompts", flush=True)
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
        "time_ratio": averaged(best, "run_s") / averaged(both, "run_s"),
        "memory_ratio": averaged(both, "peak_memory_gb") / averaged(best, "peak_memory_gb"),
    }
    # The mean bounds of one split's 95% interval, over all splits.
    for key in ("accuracy_low", "accuracy_high"):
        flat[f"ours.{key}"] = averaged(ours, key)
    for kind in ("length", "bag_of_words"):
        flat[f"{kind}.accuracy"] = averaged(simple, kind)
    flat["length.accuracy_shorter"] = 1 - flat["length.accuracy"]
    for side, runs in (("ours", both), ("trl", best)):
        for key in ("run_s", "peak_memory_gb"):
            flat[f"{side}.{key}"] = averaged(runs, key)
    for key, value in flat.items():
        print(f"  {key:28} {value:9.3f}")
    measured = {key: value for key, value in flat.items() if value == value}  # not NaN
    return {f"{name}.{key}": value for key, value in measured.items()}


def main() -> None:
    parser = arguments(argparse.ArgumentParser(description=__doc__.splitlines()[0]))
    parser.add_argument("--data", nargs="+", choices=list(FILES), default=list(FILES))
    parser.add_argument("--splits", type=int, default=5, help="splits for ours and the baselines")
    parser.add_argument("--trl-splits", type=int, default=2, help="of these, how many for TRL")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of our heads")
    parser.add_argument("--trl-learning-rates", nargs="+", type=float, default=[2e-5, 5e-5])
    parser.add_argument(
        "--runs",
        type=Path,
        metavar="FILE",
        help="write every run there as a line, and take from there what was measured before: "
        "remove it when the code has changed",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures there, as flat keys"
    )
    args = parser.parse_args()
    if args.splits < max(args.trl_splits, 1):
        parser.error(f"--splits {args.splits} must be at least 1 and --trl-splits.")
    print(
        f"{args.model} on {platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, {args.dtype}, {args.max_length} tokens"
    )
    flat = {}
    for name in args.data:
        flat |= compare(name, args)
        if args.json:
            args.json.write_text(json.dumps(flat, indent=1) + "\n")


if __name__ == "__main__":
    main()
