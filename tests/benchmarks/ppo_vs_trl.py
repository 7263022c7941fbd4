"""This suite's PPO engine against trl 1.12.0's PPOTrainer.

The same model, prompts, batch, answer length and PPO epochs. Run this file with

    --json bench.json                 all of it, on smollm2-135m
    --model tiny                      a smoke check: whether it runs
    --configs k8_full_fp32 --rounds 3
    --only-sampling
    --parity                          numbers, not speed: parity.py
    --device cuda --batch 64          on a GPU, in bfloat16; memory is what tensors hold of it
    --configs k8_lora_fp32 --rounds 5 --against ../old
                                      this checkout and another one by turns, without TRL

Every measurement is a process of its own in the environment of environment.py. TRL's and ours take
turns, and a round has each of them once. An update is sampling, scoring and training; the first of
a process warms up. Ratios are ours over TRL's within a round, against the fastest TRL run that
counts (and, for memory, the leanest); figures are medians over the rounds. TRL with the layers
frozen that stay frozen on our side is run too and printed apart: TRL does not do that by itself.
Keys that begin with `trl_` tell of these TRL runs: `fastest`, `leanest` (which may be two) and
`frozen`.
"""

import argparse
import json
import platform
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from statistics import median

import torch
from common import BATCH, positive
from environment import ROOT, TRL, child, trl_python, variables

from rlhf_utils.models.source import resolve

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Run:
    """One kind of measurement: whose, what learns (see common.arguments), in which dtype."""

    side: str  # "our" or "trl"
    trains: str
    dtype: str = "float32"
    task: str = "ppo"

    def __str__(self) -> str:
        if self.task == "ppo":
            side = "ours" if self.side == "our" else f"TRL {TRL}"
            return f"{side} {self.trains} {self.dtype}"
        if self.side == "our":
            return f"our sampling {self.dtype}"
        sampler = "transformers' generate" if self.task == "sampling" else f"TRL {TRL}'s sampling"
        return f"{sampler} {self.dtype}"


@dataclass
class Config:
    """What is compared under one name."""

    ours: Run
    trl: list[Run]  # the runs that count: the ratio is against the fastest
    frozen: Run  # TRL with our frozen layers frozen too


def config(trains: str, dtype: str) -> Config:
    ours, same = Run("our", trains, dtype), Run("trl", trains, dtype)
    full = Run("trl", "full", dtype)
    if trains == "lora":
        return Config(ours, [same, full], Run("trl", "lora_top", dtype))
    return Config(ours, [full], same)


CONFIGS = {
    "k8_full_fp32": config("top", "float32"),
    "k8_lora_fp32": config("lora", "float32"),
    "kN_full_fp32": config("blocks", "float32"),
    "k8_full_bf16": config("top", "bfloat16"),
    "k8_lora_bf16": config("lora", "bfloat16"),
}


def sampling_runs(device: str) -> list[Run]:
    """generate, TRL's and ours, in float32 on a CPU and in bfloat16 on a GPU."""
    dtype = "float32" if device == "cpu" else "bfloat16"
    return [
        Run("trl", "full", dtype, "sampling"),
        Run("our", "top", dtype, "sampling"),
        Run("trl", "full", dtype, "trl_sampling"),
    ]


@dataclass
class Results:
    """What each run said, a dict a round."""

    found: dict[Run, list[dict]] = field(default_factory=dict)

    def values(self, run: Run, name: str) -> list[float]:
        return [result[name] for result in self.found[run]]

    def median(self, run: Run, name: str) -> float:
        return median(self.values(run, name))

    def ratio(self, run: Run, other: Run, name: str) -> float:
        """The median over the rounds of run / other."""
        return median(a / b for a, b in zip(self.values(run, name), self.values(other, name)))


def schedule(names: list[str]) -> list[Run]:
    """The runs of one round, TRL's and ours by turns; each once, although configs share some."""
    runs: dict[Run, None] = {}
    for name in names:
        this = CONFIGS[name]
        runs |= dict.fromkeys([*this.trl, this.ours, this.frozen])
    sides = ([run for run in runs if run.side == side] for side in ("trl", "our"))
    return [run for pair in zip_longest(*sides) for run in pair if run]


def measure(run: Run, python: Path, model: str, args, root: Path = ROOT) -> dict:
    options = {
        "task": run.task,
        "model": model,
        "trains": run.trains,
        "dtype": run.dtype,
        "updates": args.updates,
        "batch": args.batch,
        "device": args.device,
    }
    command = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    if run.side == "trl" and args.tuned:
        command.append("--tuned")
    return child(python, f"{run.side}_side.py", command, root)


def each(values: list[float], digits: int) -> str:
    return " ".join(f"{value:.{digits}f}" for value in values)


SPEED, MEMORY = "episodes_per_s", "peak_memory_gb"


def report_config(name: str, results: Results) -> dict[str, float]:
    """Prints one config and returns its flat keys."""
    this = CONFIGS[name]
    fastest = max(this.trl, key=lambda run: results.median(run, SPEED))
    leanest = min(this.trl, key=lambda run: results.median(run, MEMORY))
    print(f"\n{name:34}  episodes/s (each round)      peak GB (each round)")
    for run in (this.ours, *this.trl, this.frozen):
        apart = "  (apart)" if run == this.frozen else ""
        speeds, peaks = results.values(run, SPEED), results.values(run, MEMORY)
        print(
            f"  {str(run) + apart:36} {median(speeds):8.3f} ({each(speeds, 3)})"
            f"   {median(peaks):6.2f} ({each(peaks, 2)})"
        )
    flat = {
        SPEED: results.median(this.ours, SPEED),
        f"{SPEED}_ratio": results.ratio(this.ours, fastest, SPEED),
        MEMORY: results.median(this.ours, MEMORY),
        "memory_ratio": results.ratio(this.ours, leanest, MEMORY),
        f"trl_fastest_{SPEED}": results.median(fastest, SPEED),
        f"trl_leanest_{MEMORY}": results.median(leanest, MEMORY),
    }
    print(
        f"  ratio to {fastest}: {flat[f'{SPEED}_ratio']:.2f} times the episodes/s; "
        f"to {leanest}: {flat['memory_ratio']:.2f} times the memory"
    )
    for figure, ratio in ((SPEED, f"{SPEED}_ratio"), (MEMORY, "memory_ratio")):
        flat[f"trl_frozen_{figure}"] = results.median(this.frozen, figure)
        flat[f"{ratio}_frozen"] = results.ratio(this.ours, this.frozen, figure)
    print(
        "  to TRL with the same layers frozen: "
        f"{flat[f'{SPEED}_ratio_frozen']:.2f} times the episodes/s, "
        f"{flat['memory_ratio_frozen']:.2f} times the memory"
    )
    flat |= report_phases(this.ours, results)
    return {f"{name}.{key}": value for key, value in flat.items()}


def report_phases(run: Run, results: Results) -> dict[str, float]:
    """Prints where our side's time went, and returns it as flat keys.

    Beside it the FLOP/s that were reached, and those of the machine.
    """
    last = results.found[run][-1]
    rates = ", ".join(
        f"{rate:.0f} in {dtype}" for dtype, rate in sorted(last["matmul_gflops"].items())
    )
    shares = []
    for phase, share in last["share"].items():
        gflops = last["gflops"].get(phase)
        shares.append(f"{phase} {share:.0%}" + (f" at {gflops:.0f} GFLOP/s" if gflops else ""))
    print(f"  our time, last round: {', '.join(shares)}; matrix products run at {rates}")
    return {
        f"{group}.{key}": value
        for group in ("seconds", "share", "gflops", "matmul_gflops")
        for key, value in last[group].items()
    }


def report_sampling(runs: list[Run], results: Results) -> dict[str, float]:
    generate, ours, trl = runs
    name = "tokens_per_s"
    print(f"\n{'sampling':34}  tokens/s (each round)")
    for run in runs:
        rates = results.values(run, name)
        print(f"  {str(run):36} {median(rates):8.1f} ({each(rates, 1)})")
    flat = {
        name: results.median(ours, name),
        f"generate_{name}": results.median(generate, name),
        f"trl_{name}": results.median(trl, name),
        f"{name}_ratio": results.ratio(ours, generate, name),
        f"trl_{name}_ratio": results.ratio(ours, trl, name),
        "bandwidth_fraction": results.median(ours, "bandwidth_fraction"),
    }
    print(
        f"  ratio to generate {flat[f'{name}_ratio']:.2f}, to TRL's {flat[f'trl_{name}_ratio']:.2f}"
        "; reading weights, keys and values alone would take "
        f"{flat['bandwidth_fraction']:.0%} of our time"
    )
    return {f"sampling.{key}": value for key, value in flat.items()}


def compare_checkouts(name: str, other: Path, model: str, args) -> None:
    """Times our side of one config here and in another checkout, by turns, and prints the ratios.

    Also without the reward, because an older checkout may have another one.
    """
    run, found = CONFIGS[name].ours, {"here": [], "there": []}
    places = {"here": (sys.executable, ROOT), "there": (other / ".venv/bin/python", other)}
    for number in range(args.rounds):
        for place in sorted(places, reverse=bool(number % 2)):  # whoever is first may be slower
            python, root = places[place]
            result = measure(run, python, model, args, root)
            seconds = args.batch / result[SPEED]
            rest = seconds * (1 - result["share"]["reward"])
            found[place].append((seconds, rest, result[MEMORY]))
            print(
                f"round {number + 1}: {place:5} {seconds:.3f} s an update, "
                f"{rest:.3f} s without the reward, {result[MEMORY]:.2f} GB",
                flush=True,
            )
    for index, what in enumerate(("seconds", "seconds without the reward", "memory")):
        ratios = [a[index] / b[index] for a, b in zip(found["here"], found["there"])]
        print(f"{name}, {what} here / there: median {median(ratios):.3f} ({each(ratios, 3)})")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", default="smollm2-135m", help="built-in name or folder of a Llama model"
    )
    parser.add_argument(
        "--configs",
        nargs="+",
        choices=list(CONFIGS),
        metavar="CONFIG",
        help=f"of {', '.join(CONFIGS)}; all, or those in bfloat16 on a GPU",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--batch",
        type=positive,
        default=BATCH,
        help="episodes of an update, and rows of the sampling comparison",
    )
    parser.add_argument("--rounds", type=positive, default=2, help="how often each is measured")
    parser.add_argument(
        "--updates", type=positive, default=1, help="timed updates of a measurement"
    )
    parser.add_argument(
        "--tuned",
        action="store_true",
        help="give TRL our attention and memory settings, which make it faster",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures there, as flat keys"
    )
    parser.add_argument("--only-sampling", action="store_true", help="compare sampling only")
    parser.add_argument(
        "--parity", action="store_true", help="compare numbers with TRL's instead of speed"
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="DIR",
        help="time another checkout with its own .venv instead of TRL; takes one of --configs",
    )
    args = parser.parse_args()
    if args.against and len(args.configs or []) != 1:
        parser.error("--against compares one config: give it with --configs.")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here.")
    args.configs = args.configs or [
        name for name in CONFIGS if args.device == "cpu" or name.endswith("bf16")
    ]
    return args


def main() -> int:
    args = arguments()
    model = resolve(args.model)
    if args.against:
        compare_checkouts(args.configs[0], args.against.resolve(), model, args)
        return 0
    python = trl_python()
    if args.parity:
        return subprocess.run([python, HERE / "parity.py"], env=variables()).returncode
    names = [] if args.only_sampling else args.configs
    place = torch.cuda.get_device_name() if args.device == "cuda" else platform.machine()
    print(
        f"{args.model} on {place}, batch {args.batch}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}; rounds {args.rounds}, timed updates {args.updates}",
        flush=True,
    )
    results, sampling = Results(), sampling_runs(args.device)
    for number in range(args.rounds):
        for run in [*schedule(names), *sampling]:
            found = measure(run, python, model, args)
            results.found.setdefault(run, []).append(found)
            figures = [f"{key} {value:.3f}" for key, value in found.items() if type(value) is float]
            print(f"round {number + 1}: {run}: {', '.join(figures)}", flush=True)
    flat = {}
    for name in names:
        flat |= report_config(name, results)
    flat |= report_sampling(sampling, results)
    if args.json:
        args.json.write_text(json.dumps(flat, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
