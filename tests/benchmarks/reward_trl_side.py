"""One run of TRL's RewardTrainer as a process of its own; prints one JSON line.

See reward_vs_trl.py. A sequence classifier on the same base model, all of it trained, at TRL's
defaults but for batch, learning rate, epochs and, unless asked for, gradient checkpointing. It gets
the very tokens that ours reads, cut the same way, because TRL would drop what is too long. With
bfloat16 the weights are float32 and `bf16=True`, as TRL does it.
"""

import os
import tempfile
import time

import torch
from common import QUIET, peak_gb, say
from datasets import Dataset
from reward_common import child_arguments, pairs_of, split
from transformers import AutoModelForSequenceClassification, TrainerCallback

from rlhf_utils import stats
from rlhf_utils.models.builtin import resolve
from rlhf_utils.models.load import chat_prompt, load_tokenizer
from rlhf_utils.preferences.pairs import Pair
from rlhf_utils.reward.calibration import calibration

# A setting of ours, from `fast`: TRL runs as its users have it.
os.environ.pop("ONEDNN_PRIMITIVE_CACHE_CAPACITY", None)


class Clock(TrainerCallback):
    """When training began and ended, in seconds of perf_counter."""

    def on_train_begin(self, *_, **__):
        self.start = time.perf_counter()

    def on_train_end(self, *_, **__):
        self.end = time.perf_counter()


def token_ids(tokenizer, pairs: list[Pair], side: str, max_length: int) -> list[list[int]]:
    """Of the `chosen` or the `rejected` side."""
    texts = [
        chat_prompt(tokenizer, pair.prompt.text) + getattr(pair, side) + tokenizer.eos_token
        for pair in pairs
    ]
    return [ids[-max_length:] for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


@torch.no_grad()
def rewards(model, tokenizer, ids: list[list[int]], half: bool) -> torch.Tensor:
    """(N,) logits, over batches of like length."""
    order, found = sorted(range(len(ids)), key=lambda i: len(ids[i])), torch.zeros(len(ids))
    for start in range(0, len(order), 32):
        few = order[start : start + 32]
        batch = tokenizer.pad({"input_ids": [ids[i] for i in few]}, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            found[few] = model(**batch).logits[:, 0].float()
    return found


def main() -> None:
    from trl import RewardConfig, RewardTrainer

    args, clock = child_arguments(), Clock()
    train, validation, heldout = split(pairs_of(args.name, args.folder), args.seed, args)
    tokenizer, half = load_tokenizer(args.model), args.dtype == "bfloat16"
    torch.manual_seed(args.seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        resolve(args.model), num_labels=1, dtype=torch.float32
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    rows = Dataset.from_dict(
        {
            f"{side}_ids": token_ids(tokenizer, train, side, args.max_length)
            for side in ("chosen", "rejected")
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        config = RewardConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=half,
            seed=args.seed,
            gradient_checkpointing=bool(args.checkpointing),
            per_device_train_batch_size=args.batch,
            num_train_epochs=args.epochs,
            learning_rate=args.learning_rate,
            max_length=args.max_length,
            dataloader_pin_memory=False,
            **QUIET,
        )
        RewardTrainer(
            model=model,
            args=config,
            processing_class=tokenizer,
            train_dataset=rows,
            callbacks=[clock],
        ).train()
    memory, judged = peak_gb(), heldout if args.judge == "heldout" else validation
    chosen, rejected = (
        rewards(model.eval(), tokenizer, token_ids(tokenizer, judged, side, args.max_length), half)
        for side in ("chosen", "rejected")
    )
    say(
        {
            "accuracy": float(stats.correct(chosen - rejected).mean()),
            "ece_raw": calibration(chosen - rejected)["ece"],
            "run_s": clock.end - clock.start,
            "peak_memory_gb": memory,
            "pairs": len(train),
            "judged": len(judged),
        }
    )


if __name__ == "__main__":
    main()
