"""One run of this suite's reward model as a process of its own; prints one JSON line.

See reward_vs_trl.py. As in 03: the frozen transformer reads every answer once, then the heads learn
on the states that were read.
"""

import time

import torch
from common import peak_gb, say
from reward_common import child_arguments, pairs_of, split
from transformers import AutoModel

from rlhf_utils import stats
from rlhf_utils.models.load import load_model, load_tokenizer
from rlhf_utils.reward import report_card, training
from rlhf_utils.reward.calibration import calibration, fit_temperature
from rlhf_utils.reward.model import RewardModel


def main() -> None:
    args = child_arguments()
    train, validation, heldout = split(pairs_of(args.name, args.folder), args.seed, args)
    torch.manual_seed(args.seed)
    backbone = load_model(args.model, getattr(torch, args.dtype), "cpu", AutoModel)
    model = RewardModel(
        backbone,
        load_tokenizer(args.model),
        ensemble=args.ensemble,
        dropout=0.3,
        max_length=args.max_length,
    )
    groups = training.group_by_prompt(train)

    start = time.perf_counter()
    states = model.known = model.reader.read([text for group in groups for text in group.texts])
    read = time.perf_counter()
    training.fit_heads(model.heads, states, groups, args.head_epochs, args.seed, args.learning_rate)
    end = time.perf_counter()
    memory = peak_gb()

    judged = heldout if args.judge == "heldout" else validation
    margins = report_card.margins(model.raw, judged)
    temperature = fit_temperature(report_card.margins(model.raw, validation))
    right = stats.correct(margins)
    low, high = stats.bootstrap_by_prompt(right, [pair.prompt.text for pair in judged])
    say(
        {
            "accuracy": float(right.mean()),
            "accuracy_low": low,
            "accuracy_high": high,
            "ece": calibration(margins / temperature)["ece"],
            "ece_raw": calibration(margins)["ece"],
            "read_s": read - start,
            "heads_s": end - read,
            "run_s": end - start,
            "peak_memory_gb": memory,
            "pairs": len(train),
            "judged": len(judged),
        }
    )


if __name__ == "__main__":
    main()
