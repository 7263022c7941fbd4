"""One run of this suite's reward model as a process of its own; prints one JSON line. See reward_vs_trl.py.

Heads that read the answer, the prompt's end and the middle learn first on cached states, then with adapters on the top k layers.
"""

import time

import torch
from transformers import AutoModel

from common import peak_gb, say
from reward_common import child_arguments, rows_of, split
from rlhf_utils import evaluate, models, reward, reward_training
from rlhf_utils.report_card import fit_temperature


def main() -> None:
    args = child_arguments()
    train, validation, heldout = split(rows_of(args.name, args.folder), args.seed, args)
    torch.manual_seed(args.seed)
    backbone = models.load_model(args.model, getattr(torch, args.dtype), "cpu", AutoModel)
    k = min(args.k, backbone.config.num_hidden_layers // 2)
    model = reward.RewardModel(
        models.add_lora(backbone, 16, k),
        models.load_tokenizer(args.model),
        "mlp",
        0.3,
        args.max_length,
        read_prompt=True,
        read_middle=True,
        num_trainable_layers=k,
        ensemble=args.ensemble,
    )
    groups, clock = reward_training.group_by_prompt(train), [time.perf_counter()]
    states = reward_training.read_states(model, groups)
    clock.append(time.perf_counter())
    reward_training.fit_heads(
        model.heads, states, groups, args.head_epochs, args.seed, args.head_learning_rate
    )
    clock.append(time.perf_counter())
    judged = heldout if args.judge == "heldout" else validation
    alone = float(evaluate.correct(evaluate.margins(model, judged)).mean())
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=0.1)
    steps = [
        few
        for epoch in range(args.epochs)
        for few in reward_training.batches(groups, args.batch, args.seed + epoch)
    ]
    model.train()
    start = time.perf_counter()
    for number, few in enumerate(steps):
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - number / len(steps))
        reward_training.add_gradients(model, few, center_rewards_coefficient=args.center)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    trained = time.perf_counter() - start
    memory = peak_gb()
    margins = evaluate.margins(model, judged)
    temperature = fit_temperature(evaluate.margins(model, validation))
    low, high = evaluate.bootstrap_by_prompt(
        evaluate.correct(margins), [row["prompt"] for row in judged]
    )
    say(
        {
            "accuracy": float(evaluate.correct(margins).mean()),
            "accuracy_low": low,
            "accuracy_high": high,
            "heads_alone": alone,
            "ece": evaluate.calibration(margins / temperature)["ece"],
            "ece_raw": evaluate.calibration(margins)["ece"],
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
