"""Does asking where bootstrapped heads disagree need fewer labels than asking at random? Simulated annotators on a finished demo run.

    python tests/benchmarks/label_strategies.py --run demo --plot strategies.png

For each seed, a fifth of the prompts is held out; each strategy asks one simulated annotator after another, and at each number of
labels a fresh linear head (`strategies.fit_head`) learns from what was asked so far, on principal components of the states of π_SFT.
"""

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from statistics import mean

import torch
from tqdm.auto import tqdm

from rlhf_utils import annotators, data, models, runs
from rlhf_utils.labelling import LabelQueue
from rlhf_utils.labels import LabelStore
from rlhf_utils.preferences import judgements_to_pairs
from rlhf_utils.strategies import Uncertainty, answer_features, fit_head, principal_components

SIZES = (25, 50, 75, 100, 150, 200, 300, 400, 600, 800)


def accuracy(table: dict[str, torch.Tensor], rows: list[dict], heldout: list[dict]) -> float:
    """The share of held-out pairs that a head, trained on rows, orders as their annotators did."""

    def differences(judged):
        return torch.stack(
            [
                table[pair["item_id"]][pair["chosen_at"]]
                - table[pair["item_id"]][pair["rejected_at"]]
                for pair in judged
            ]
        )

    head = fit_head(differences(places(rows)), torch.ones(len(places(rows))))
    return float((differences(heldout) @ head > 0).float().mean())


def places(rows: list[dict]) -> list[dict]:
    """Pairs with the places of their answers."""
    found = []
    for row in rows:
        for pair in judgements_to_pairs([row]):
            found.append(
                pair
                | {
                    "chosen_at": row["responses"].index(pair["chosen"]),
                    "rejected_at": row["responses"].index(pair["rejected"]),
                }
            )
    return found


def ask(
    strategy: str, items: list[dict], table: dict[str, torch.Tensor], heldout: list[dict], seed: int
) -> list[float]:
    """Accuracy at each of SIZES labels, asked one by one."""
    people = itertools.cycle(annotators.simulated_annotators())
    with tempfile.TemporaryDirectory() as folder:
        store = LabelStore(Path(folder) / "labels.sqlite")
        worth = (
            Uncertainty({item["id"]: table[item["id"]] for item in items}, store.rows, seed=seed)
            if strategy == "uncertainty"
            else None
        )
        queue, found = LabelQueue(items, store, "all", seed, strategy, uncertainty=worth), []
        for number in range(1, max(SIZES) + 1):
            turn = queue.next()
            queue.submit(
                turn,
                next(people).rank(turn.item, turn.item["responses"], turn.shown_order, turn.rng),
            )
            if number in SIZES:
                found.append(accuracy(table, store.rows(), heldout))
    return found


def labels_needed(curve: list[float], target: float) -> float:
    """The number of labels at which a curve over SIZES first reaches target, between two sizes in a straight line; NaN if never."""
    for (size, before), (next_size, after) in itertools.pairwise(zip(SIZES, curve)):
        if after >= target:
            return (
                size
                if before >= target
                else size + (next_size - size) * (target - before) / (after - before)
            )
    return float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="demo")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    folder = runs.run_dir(args.run)
    items = [
        item
        for item in data.load_rows(str(folder / "preferences" / "items.jsonl"), "prompts")
        if item["split"] == "train"
    ]
    policy = str(folder / "sft" / "policy")
    model, tokenizer = models.load_model(policy, models.pick_dtype()), models.load_tokenizer(policy)
    table = principal_components(answer_features(model, tokenizer, items, tqdm), 256)
    curves = {"random": [], "uncertainty": []}
    for seed in range(args.seeds):
        train, heldout = data.split_by_prompt(items, 0.2, seed)
        people = annotators.simulated_annotators()
        with tempfile.TemporaryDirectory() as scratch:
            store = LabelStore(Path(scratch) / "labels.sqlite")
            for number, item in enumerate(heldout):
                queue = LabelQueue([item], store, people[number % 3].name, seed)
                turn = queue.next()
                queue.submit(
                    turn,
                    people[number % 3].rank(item, item["responses"], turn.shown_order, turn.rng),
                )
            judged = places(store.rows())
        for strategy, found in curves.items():
            found.append(ask(strategy, train, table, judged, seed))
            print(
                f"seed {seed}, {strategy}: "
                + " ".join(f"{size}: {value:.3f}" for size, value in zip(SIZES, found[-1])),
                flush=True,
            )
    means = {name: [mean(values) for values in zip(*found)] for name, found in curves.items()}
    for size, value in zip(SIZES, means["random"]):
        needed = labels_needed(means["uncertainty"], value)
        print(
            f"random reaches {value:.3f} with {size} labels, uncertainty with {needed:.0f}: {1 - needed / size:+.0%} fewer"
        )
    print(json.dumps(means))
    if args.plot:
        import plotly.graph_objects as go

        figure = go.Figure(
            [
                go.Scatter(x=SIZES, y=[100 * v for v in values], name=name, mode="lines+markers")
                for name, values in means.items()
            ]
        )
        figure.update_layout(
            template="plotly_white",
            margin={"t": 50, "r": 20, "b": 50},
            xaxis_title="rankings",
            yaxis_title="held-out pairs ordered right, %",
            width=720,
            height=420,
            title=f"Asking at random or where the heads disagree, {args.seeds} seeds",
        )
        figure.write_image(str(args.plot), scale=2)


if __name__ == "__main__":
    main()
