"""Do the diagnoses find what is wrong? Faults are planted in real runs of PPO on a small model.

Each fault runs with three seeds, and twenty healthy runs beside them. A fault counts as detected
if one of the findings expected of it shows in two of its three runs; any finding in a healthy run
is a false alarm. Thresholds in lab/signs.py were chosen on the demo's runs and on seeds from
100 on (`--tune`), never on the seeds that are reported.

    python tests/benchmarks/fault_bench.py /a/folder/outside        some 25 minutes on one core
    python tests/benchmarks/fault_bench.py /a/folder/outside --tune

Finished runs stay in the folder, so a second call goes on, and several may share the work. Writes
notebooks/notes/fault_bench.json, and the table in notebooks/notes/diagnoses.md from it.
"""

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from benchmarks.fault_table import NOTES, NUMBERS, ROOT, table, with_table
from benchmarks.fault_world import LENGTH, TEMPERATURE, make_world, prompts
from benchmarks.faults import FAULTS, HIDDEN

from rlhf_utils.data.rows import Endless
from rlhf_utils.errors import PPOError
from rlhf_utils.evaluation.compare import manners
from rlhf_utils.files import read_json, strict, write_json, write_text
from rlhf_utils.lab.diagnose import diagnose
from rlhf_utils.models.load import load_model, load_tokenizer
from rlhf_utils.ppo import loop
from rlhf_utils.ppo.config import PPOConfig
from rlhf_utils.ppo.policy import Policy, make_policy
from rlhf_utils.reward.model import load_reward_model
from rlhf_utils.run.stage import quiet_libraries, seed_everything

SEEDS, HEALTHY, TUNING = 3, 20, 100  # runs of a fault, healthy ones, the first seed to tune on
LAYERS = 2  # top layers that learn, of four
CONFIG = {
    "total_episodes": 14 * 64,
    "batch_size": 64,
    "response_length": LENGTH,
    "temperature": TEMPERATURE,
    "learning_rate": 4e-4,
    "per_device_train_batch_size": 32,
}


@dataclass
class Run:
    """What a fault may change."""

    world: Path
    policy: Policy
    reward: object
    layers: int = LAYERS


def train(world: Path, seed: int, fault=None) -> list[dict]:
    """The rows of metrics.jsonl of one run; one that PPO itself stopped ends early."""
    generator = seed_everything(seed)
    changed = dict(fault.settings) if fault else {}
    if "learning_rate" in changed:
        changed["learning_rate"] *= CONFIG["learning_rate"]
    config = PPOConfig(**CONFIG | changed)
    tokenizer = load_tokenizer(str(world / "sft"))
    policy = make_policy(load_model(str(world / "sft")), 0, LAYERS)
    run = Run(world, policy, load_reward_model(world / "reward_model"))
    optimizer = torch.optim.Adam(
        policy.trainable().values(), lr=config.learning_rate, eps=1e-5, fused=True
    )
    order, rows, beta = Endless(prompts(), seed), [], config.kl_coef
    with fault.plant(run) if fault else torch.enable_grad():
        for index in range(config.num_updates):
            batch = order.batch(index * config.batch_size, config.batch_size)
            rollout = loop.collect(policy, tokenizer, batch, run.reward, config, beta, generator)
            done = {"update": index + 1, "episode": (index + 1) * config.batch_size}
            row = done | loop.rollout_metrics(rollout, config, beta)
            found = manners(batch, rollout.samples.answers)
            row |= {f"answers/{name}": value for name, value in found.items()}
            optimizer.param_groups[0]["lr"] = loop.learning_rate_at(config, index)
            try:
                row |= loop.update(policy, optimizer, rollout, config, generator)
            except PPOError as error:
                return [*rows, strict(row | {"stopped": str(error)})]
            rows.append(strict(row))
    return rows


def jobs(tune: bool) -> list[tuple[str, int]]:
    """(name of a fault or "healthy", seed), in the order in which they run."""
    first, seeds, healthy = (TUNING, 1, 8) if tune else (0, SEEDS, HEALTHY)
    found = [("healthy", first + seed) for seed in range(healthy)]
    return found + [(name, first + seed) for seed in range(seeds) for name in FAULTS | HIDDEN]


def result_file(folder: Path, name: str, seed: int) -> Path:
    return folder / "runs" / f"{name.replace(' ', '-')}-{seed}.json"


def run_all(folder: Path, todo: list[tuple[str, int]]) -> None:
    """Runs what nobody has run or is running. Delete files ending in .claim after a crash."""
    world = make_world(folder / "world")
    (folder / "runs").mkdir(exist_ok=True)
    for name, seed in todo:
        file = result_file(folder, name, seed)
        try:
            os.close(os.open(file.with_suffix(".claim"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        began = time.time()
        rows = train(world, seed, (FAULTS | HIDDEN).get(name))
        write_json(file, {"rows": rows, "seconds": round(time.time() - began, 1)})
        found = [finding.name for finding in findings_of(rows)]
        print(f"{name}, seed {seed}, {time.time() - began:.0f} s: {found}", flush=True)


def findings_of(rows: list[dict]) -> list:
    return diagnose(rows, settings={"reward": "reward_model"})


def findings_by_seed(folder: Path, name: str, seeds: range) -> dict[str, list[str]]:
    found = {}
    for seed in seeds:
        rows = read_json(result_file(folder, name, seed))["rows"]
        found[str(seed)] = [finding.name for finding in findings_of(rows)]
    return found


def faults_found(folder: Path, faults: dict, seeds: range) -> dict[str, dict]:
    """What each fault was expected to show, and what it showed."""
    told = {}
    for name, fault in faults.items():
        found = findings_by_seed(folder, name, seeds)
        hits = sum(any(sign in fault.expected for sign in signs) for signs in found.values())
        told[name] = {
            "fault": fault.what,
            "expected": list(fault.expected),
            "findings": found,
            "detected": hits >= min(2, len(seeds)),
        }
    return told


def summary(folder: Path, tune: bool) -> dict:
    """What fault_bench.json holds."""
    first = TUNING if tune else 0
    seeds = range(first, first + (1 if tune else SEEDS))
    faults = faults_found(folder, FAULTS, seeds)
    healthy = findings_by_seed(folder, "healthy", range(first, first + (8 if tune else HEALTHY)))
    return {
        "planted": len(faults),
        "detected": sum(fault["detected"] for fault in faults.values()),
        "healthy": len(healthy),
        "false_alarms": sum(map(bool, healthy.values())),
        "faults": faults,
        "expected_hidden": faults_found(folder, HIDDEN, seeds),
        "healthy_findings": {seed: found for seed, found in healthy.items() if found},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="keeps the small world and finished runs")
    parser.add_argument("--tune", action="store_true", help="other seeds; writes nothing")
    options = parser.parse_args()
    quiet_libraries()
    run_all(options.folder, todo := jobs(options.tune))
    if missing := [job for job in todo if not result_file(options.folder, *job).is_file()]:
        print(f"{len(missing)} runs are with other processes: call this again when they are done.")
        return
    content = summary(options.folder, options.tune)
    if options.tune:
        print(table(content))
        return
    write_json(ROOT / NUMBERS, content)
    write_text(ROOT / NOTES, with_table((ROOT / NOTES).read_text(encoding="utf-8"), content))


if __name__ == "__main__":
    main()
