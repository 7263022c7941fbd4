"""Writes the tables of README.md and notebooks/notes/results.md from finished runs.

The runs differ by their seed alone. Their results.json go into notebooks/notes/results.json, by
seed; each table gives the mean of the seeds and (lowest–highest). Without runs, the tables are
written anew from that file.

    python tests/benchmarks/results_table.py demo demo1 demo2 --machine "AMD EPYC, 2 cores"
"""

import argparse
import re
import subprocess
from pathlib import Path

from rlhf_utils.files import read_json, write_json, write_text
from rlhf_utils.run.paths import STAGES, run_dir
from rlhf_utils.show.text import result_text, result_words, words

ROOT = Path(__file__).parents[2]
NUMBERS = Path("notebooks/notes/results.json")
README = Path("README.md")
NOTES = Path("notebooks/notes/results.md")

IN_README = ("gold", "filler", "refusal_harmful", "refusal_harmful_unseen", "refusal_benign")
IN_README += ("refusal_ordinary", "helpfulness")
IN_NOTES = (*IN_README[:5], "refusal_benign_unseen", *IN_README[5:], "harmlessness", "honesty")
IN_NOTES += ("brevity", "form", "length", "openings", "distinct2", "reward")
OF_STAGES = (
    "eval.gold_random",
    "eval.gold_base",
    "eval.gold_best_of_4",
    "eval.win_rate_vs_sft",
    "eval.win_rate_reward_model",
    "eval.kl",
    "sft.loss_before",
    "sft.loss_heldout",
    "preferences.agreement",
    "preferences.agreement_pairwise",
    "reward_model.accuracy",
    "reward_model.ceiling",
    "reward_model.accuracy_ood",
    "reward_model.prefers_direct",
    "reward_model.ece",
    "reward_model.refusal_auc",
    "reward_model.refusal_auc_learned",
)


def spread(seeds: list[dict], name: str, form: str = "") -> str:
    """The mean of one result and (lowest–highest), or a dash where a run lacks it."""
    values = [seed.get(name) for seed in seeds]
    if not values or None in values:
        return "–"
    found = (sum(values) / len(values), min(values), max(values))
    mean, low, high = (
        format(value, form) if form else result_text(name, float(value)) for value in found
    )
    return f"{mean} ({low.removesuffix('%')}–{high.removesuffix('%')})"


def before_and_after(seeds: list[dict], names: tuple[str, ...]) -> str:
    """A row for each result of both policies; the second row is wins, ties and losses."""
    lines = []
    for name in names:
        told = words(name) + (f" ({others(seeds)})" if name == "gold" else "")
        sft, ppo = (spread(seeds, f"eval.{name}_{policy}") for policy in ("sft", "ppo"))
        lines.append(f"| {told} | {sft} | {ppo} |")
    won = [spread(seeds, f"eval.{name}") for name in ("wins", "ties", "losses")]
    lines.insert(1, f"| wins / ties / losses against π_SFT | | {' / '.join(won)} |")
    title = "| mean of the seeds (lowest–highest) | π_SFT | π_RLHF |\n|---|---|---|\n"
    return title + "\n".join(lines)


def others(seeds: list[dict]) -> str:
    """The mean gold score of what stands beside the two policies."""
    found = []
    for told, name in (("random", "random"), ("base", "base"), ("best of four", "best_of_4")):
        found.append(f"{told} {spread(seeds, f'eval.gold_{name}').split()[0]}")
    return ", ".join(found)


def of_stages(seeds: list[dict]) -> str:
    lines = []
    for name in OF_STAGES:
        notebook = STAGES[name.partition(".")[0].replace("eval", "evaluation")][0]
        lines.append(f"| {notebook[:2]} | {result_words(name)} | {spread(seeds, name)} |")
    return "| | mean of the seeds (lowest–highest) | |\n|---|---|---|\n" + "\n".join(lines)


def costs(seeds: list[dict]) -> str:
    """Minutes and peak memory of each notebook, and of all."""
    in_minutes, lines = [], []
    for seed in seeds:
        minutes = {stage: seed[f"time.{stage}_s"] / 60 for stage in STAGES}
        peak = max(seed[f"memory.{stage}_peak_gb"] for stage in STAGES)
        in_minutes.append(seed | minutes | {"minutes": sum(minutes.values()), "peak": peak})
    for stage, (notebook, _) in STAGES.items():
        link = f"[{notebook}](../{notebook}.ipynb)"
        memory = spread(in_minutes, f"memory.{stage}_peak_gb", ".1f")
        lines.append(f"| {link} | {spread(in_minutes, stage, '.1f')} | {memory} |")
    total, peak = spread(in_minutes, "minutes", ".1f"), spread(in_minutes, "peak", ".1f")
    lines.append(f"| all five | {total} | {peak} |")
    return "| notebook | minutes | peak memory, GB |\n|---|---|---|\n" + "\n".join(lines)


def measured(content: dict) -> str:
    """Which runs these are, in one line."""
    seeds = ", ".join(content["seeds"]) or "none yet"
    return f"Seeds {seeds}; commit {content['commit']}; {content['machine']}."


def with_tables(page: str, content: dict) -> str:
    """The page with what stands between `<!-- name -->` and `<!-- /name -->` written anew."""
    seeds = list(content["seeds"].values())
    tables = {
        "results": before_and_after(seeds, IN_README),
        "answers": before_and_after(seeds, IN_NOTES),
        "stages": of_stages(seeds),
        "costs": costs(seeds),
        "measured": measured(content),
    }
    for name, table in tables.items():
        page = re.sub(
            f"<!-- {name} -->.*?<!-- /{name} -->",
            f"<!-- {name} -->\n{table}\n<!-- /{name} -->",
            page,
            flags=re.DOTALL,
        )
    return page


def rounded(value):
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def read_runs(names: list[str]) -> dict[str, dict]:
    """seed → the rounded results of its run. Raises SystemExit where two runs have one seed."""
    seeds = {}
    for name in names:
        folder = run_dir(name) / "evaluation"
        seed = str(read_json(folder / "manifest.json")["seed"])
        if seed in seeds:
            raise SystemExit(f"{name} has seed {seed}, as another of these runs has.")
        results = read_json(folder / "results.json")
        seeds[seed] = {result: rounded(value) for result, value in results.items()}
    return dict(sorted(seeds.items(), key=lambda entry: int(entry[0])))


def checked_out() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", help="folders below outputs/")
    parser.add_argument("--machine", default="2 CPU cores", help="what the runs were measured on")
    parser.add_argument("--commit", help="the code that ran (default: the one checked out)")
    options = parser.parse_args()
    if options.runs:
        about = {"machine": options.machine, "commit": options.commit or checked_out()}
        write_json(ROOT / NUMBERS, about | {"seeds": read_runs(options.runs)})
    content = read_json(ROOT / NUMBERS)
    for page in (README, NOTES):
        text = (ROOT / page).read_text(encoding="utf-8")
        write_text(ROOT / page, with_tables(text, content))


if __name__ == "__main__":
    main()
