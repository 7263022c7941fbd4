"""One run of this suite's reward model as a process of its own; prints one JSON line. See reward_vs_trl.py.

Heads that read the answer, the prompt's end and the middle learn first on cached states, then with adapters on the top k layers.
"""

import time

import torch
from common import peak_gb, say
from reward_common import child_arguments, rows_of, split
from transformers import AutoModel

from rlhf_utils import stats
from rlhf_utils.models import adapters
from rlhf_utils.models.load import load_model, load_tokenizer
from rlhf_utils.reward import report_card, training
from rlhf_utils.reward.model import RewardModel
from rlhf_utils.reward.report_card import fit_temperature


def main() -> None:
    args = child_arguments()
    train, validation, heldout = split(rows_of(args.name, args.folder), args.seed, args)
    torch.manual_seed(args.seed)
    backbone = load_model(args.model, getattr(torch, args.dtype), "cpu", AutoModel)
    k = min(args.k, backbone.config.num_hidden_layers // 2)
    model = RewardModel(
        adapters.add_lora(backbone, 16, k),
        load_tokenizer(args.model),
        "mlp",
        0.3,
        args.max_length,
        read_prompt=True,
        read_middle=True,
        num_trainable_layers=k,
        ensemble=args.ensemble,
    )
    groups, clock = training.group_by_prompt(train), [time.perf_counter()]
    states = training.read_states(model, groups)
    clock.append(time.perf_counter())
    training.fit_heads(
        model.heads, states, groups, args.head_epochs, args.seed, args.head_learning_rate
    )
    clock.append(time.perf_counter())
    judged = heldout if args.judge == "heldout" else validation
    alone = float(stats.correct(report_card.margins(model, judged)).mean())
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=0.1)
    steps = [
        few
        for epoch in range(args.epochs)
        for few in training.batches(groups, args.batch, args.seed + epoch)
    ]
    model.train()
    start = time.perf_counter()
    for number, few in enumerate(steps):
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - number / len(steps))
        training.add_gradients(model, few, center_rewards_coefficient=args.center)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    trained = time.perf_counter() - start
    memory = peak_gb()
    margins = report_card.margins(model, judged)
    temperature = fit_temperature(report_card.margins(model, validation))
    low, high = stats.bootstrap_by_prompt(stats.correct(margins), [row["prompt"] for row in judged])
    say(
        {
            "accuracy": float(stats.correct(margins).mean()),
            "accuracy_low": low,
            "accuracy_high": high,
            "heads_alone": alone,
            "ece": report_card.calibration(margins / temperature)["ece"],
            "ece_raw": report_card.calibration(margins)["ece"],
            "cache_s": clock[1] - clock[0],
            "heads_s": clock[2] - clock[1],
            "epoch_s": trained / args.epochs,
            "run_s": clock[2] - clock[0] + trained,
            "peak_memory_gb": memory,
            "pairs": len(train),
            "judged": len(judged),
        }
    )


if __name__ == "__main__":
    main()
