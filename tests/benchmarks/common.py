"""What both sides of the benchmark share: the sizes, the prompts, clock and memory, what a child process is told and what it says."""

import argparse
import json
import re
import time
from pathlib import Path

import torch

from rlhf_utils.data.rows import load_rows, pick

BATCH = 16  # episodes of one update, in one minibatch, where --batch says nothing else
LENGTH = 32  # tokens of every response
EPOCHS = 4  # PPO passes over a batch
TEMPERATURE = 0.7
LEARNING_RATE = 3e-6  # TRL's default
KL_COEF = 0.05  # TRL's default
LORA_R = 16
TOP_LAYERS = 8  # k
SAMPLING_CALLS = 3  # timed calls of the sampling comparison


def positive(text: str) -> int:
    """An argument that must be a whole number above 0."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def arguments() -> argparse.Namespace:
    """What the parent tells a child process: the task, the model's folder, the weights' dtype, timed updates, and what learns.

    "full": everything (TRL only); "blocks": all N blocks, not embeddings and head; "top": the top k blocks; "lora": adapters on them;
    "lora_top" (TRL only): the same, and of the value model, which TRL trains whole, only the top k blocks.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", choices=("ppo", "sampling", "trl_sampling"), default="ppo")
    parser.add_argument("--model", required=True)
    parser.add_argument(
        "--trains", choices=("full", "blocks", "top", "lora", "lora_top"), default="blocks"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--updates", type=positive, default=1)
    parser.add_argument("--batch", type=positive, default=BATCH)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tuned", action="store_true")
    return parser.parse_args()


def prompt_rows(count: int = BATCH) -> list[dict]:
    """The same different built-in prompts for both sides and for every update, `count` of them."""
    return pick(load_rows("builtin", "prompts"), count, seed=0)


def top_layers(model) -> int:
    """k: TOP_LAYERS, or half of the blocks of a model with fewer than twice as many (the tiny one has 2)."""
    return min(TOP_LAYERS, model.config.num_hidden_layers // 2)


def now(args) -> float:
    """Seconds, once the device has done all that it was given."""
    if args.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def sampling_rate(call, args) -> float:
    """Tokens/s of `call`, which samples a batch, over SAMPLING_CALLS calls after a first."""
    call()
    start = now(args)
    for _ in range(SAMPLING_CALLS):
        call()
    return SAMPLING_CALLS * args.batch * LENGTH / (now(args) - start)


def peak_gb(device: str = "cpu") -> float:
    """The most memory so far in 1e9 bytes: what tensors held of a GPU's; else what this process held (ru_maxrss would begin with its parent's)."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return (
        int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024 / 1e9
    )


def say(result: dict) -> None:
    """One JSON line, the last that a child prints."""
    print(json.dumps(result), flush=True)
