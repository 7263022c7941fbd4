"""What freezing the lower blocks costs in learning: PPO with k top layers against all N.

Reward against KL over the same episodes. Run this file with

    --run demo --plot learning_k.html      a finished run's π_SFT and reward model; some 10 minutes
    --run smoke --episodes 64 --seeds 2    a check that it runs

Each k and seed is a training of its own, with the settings of 04_ppo except for the number of
episodes. Within a seed all see the same built-in prompts. A curve is the mean over the seeds; its
whiskers are the standard deviation between them.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, pstdev

import plotly.graph_objects as go
import torch

from rlhf_utils.data.rows import Endless, load_prompts
from rlhf_utils.models.load import load_model, load_tokenizer, pick_device
from rlhf_utils.ppo import loop
from rlhf_utils.ppo.config import PPOConfig
from rlhf_utils.ppo.policy import make_policy
from rlhf_utils.reward.functions import load_reward
from rlhf_utils.run.paths import run_dir
from rlhf_utils.run.stage import quiet_libraries, seed_everything


def train(folder: Path, k: int, seed: int, args) -> list[dict]:
    """The metrics of each update with the top k layers learning (0: all)."""
    device, dtype = pick_device(), getattr(torch, args.dtype)
    batch = min(64, args.episodes // 2)
    config = PPOConfig(
        total_episodes=args.episodes,
        batch_size=batch,
        learning_rate=args.learning_rate,
        per_device_train_batch_size=min(8, batch // 2),
    )
    generator = seed_everything(seed)
    policy = make_policy(load_model(str(folder / "sft/policy"), dtype, device), args.lora_r, k)
    reward = load_reward("reward_model", lambda: folder / "reward_model", dtype, device)
    tokenizer = load_tokenizer(str(folder / "sft/policy"))
    optimizer = torch.optim.Adam(
        policy.trainable().values(), lr=config.learning_rate, eps=1e-5, fused=True
    )
    order, beta, log = Endless(load_prompts("builtin"), seed), config.kl_coef, []
    for index in range(config.num_updates):
        optimizer.param_groups[0]["lr"] = loop.learning_rate_at(config, index)
        prompts = order.batch(index * batch, batch)
        rollout = loop.collect(policy, tokenizer, prompts, reward, config, beta, generator)
        metrics = loop.rollout_metrics(rollout, config, beta)
        log.append(metrics | loop.update(policy, optimizer, rollout, config, generator))
        print(
            f"k={k or 'N'} seed {seed} update {index + 1}: "
            f"reward {metrics['objective/scores']:.3f}, KL {metrics['objective/kl_full']:.2f}",
            flush=True,
        )
    return log


def curve(logs: list[list[dict]], name: str) -> go.Scatter:
    """Mean reward against mean KL, update by update."""
    by_update = list(zip(*logs))  # the rows of all seeds
    kl = [[row["objective/kl_full"] for row in rows] for rows in by_update]
    score = [[row["objective/scores"] for row in rows] for rows in by_update]
    return go.Scatter(
        x=list(map(mean, kl)),
        y=list(map(mean, score)),
        name=name,
        mode="lines+markers",
        error_x={"array": list(map(pstdev, kl))},
        error_y={"array": list(map(pstdev, score))},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="a run below outputs/ that 03 has finished")
    parser.add_argument(
        "--layers",
        type=int,
        nargs="+",
        default=[8, 0],
        help="numbers of top layers that learn; 0: all",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=320)
    parser.add_argument(
        "--lora-r",
        type=int,
        default=16,
        help="0: whole layers, for which --learning-rate should be some 2e-5",
    )
    parser.add_argument("--learning-rate", type=float, default=6e-4)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--plot", type=Path, metavar="FILE.html")
    args = parser.parse_args()
    quiet_libraries()
    found = {
        k: [train(run_dir(args.run), k, seed, args) for seed in range(args.seeds)]
        for k in args.layers
    }
    for k, logs in found.items():
        figures = []
        for name in ("objective/scores", "objective/kl_full"):
            values = [log[-1][name] for log in logs]
            figures.append(f"{name} {mean(values):.3f} ± {pstdev(values):.3f}")
        print(f"k={k or 'N'}, last batch: {', '.join(figures)}")
    if args.plot:
        figure = go.Figure([curve(logs, f"k = {k or 'N'}") for k, logs in found.items()])
        figure.update_layout(
            title=f"{args.episodes} episodes, {args.seeds} seeds",
            xaxis_title="KL, nats per answer",
            yaxis_title="reward",
        ).write_html(args.plot)
        args.plot.with_suffix(".json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
