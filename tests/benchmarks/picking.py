"""What could be won by picking the best of several answers.

For each answer of 02 to the prompts that 03 held out: does the best of the others win against it,
by the rubric? The best is picked by the reward model, or by the rubric itself. A policy learns to
answer as a picker picks, as far as it can know beforehand which answer will turn out right. What
the rubric's own pick wins is about the most that any reward could bring in so many tries.

    python tests/benchmarks/picking.py --run demo
"""

import argparse

import numpy as np

from rlhf_utils import files, stats
from rlhf_utils.data.rows import split_by_prompt
from rlhf_utils.preferences import rubric
from rlhf_utils.preferences.pair_files import read_items, read_pairs
from rlhf_utils.preferences.pairs import usable_pairs
from rlhf_utils.reward.model import load_reward_model
from rlhf_utils.run.paths import run_dir


def wins(judged: np.ndarray, gold: np.ndarray) -> float:
    """How often the answer with the highest `judged` of all but one beats that one by `gold`.

    Both are (N, k) for k answers to N prompts. Ties count half.
    """
    rows, found = np.arange(len(gold)), []
    for left in range(gold.shape[1]):
        others = np.delete(np.arange(gold.shape[1]), left)
        best = others[judged[:, others].argmax(1)]
        found.append(stats.correct(gold[rows, best] - gold[:, left]))
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", default="demo", help="a finished run below outputs/")
    folder = run_dir(parser.parse_args().run)
    if not (folder / "reward_model" / "manifest.json").is_file():
        parser.error(
            f"--run {folder.name}: {folder} holds no finished 03_reward_model; "
            f"run `rlhf run --run {folder.name}` first."
        )
    settings = files.read_json(folder / "reward_model" / "manifest.json")["parameters"]
    pairs, _ = usable_pairs(read_pairs(folder / "preferences" / "pairs.jsonl"))
    _, heldout = split_by_prompt(
        [pair for pair in pairs if pair.split == "train"],
        settings["heldout_fraction"],
        settings["seed"],
    )
    heldout_ids = {pair.item_id for pair in heldout}
    items = read_items(folder / "preferences" / "items.jsonl")
    items = [item for item in items if item.id in heldout_ids]
    answers = [(item.prompt, answer) for item in items for answer in item.answers]
    rewards = load_reward_model(folder / "reward_model").raw(
        [prompt.text for prompt, _ in answers], [answer for _, answer in answers]
    )
    gold = np.array([rubric.gold_score(*answer) for answer in answers]).reshape(len(items), -1)
    by_reward = wins(rewards.numpy().reshape(gold.shape), gold)
    count = gold.shape[1] - 1
    print(
        f"{len(items)} prompts: the best of {count} by the reward model wins {by_reward:.1%}, "
        f"the best of {count} by the rubric {wins(gold, gold):.1%}"
    )


if __name__ == "__main__":
    main()
