"""What both sides of the benchmark share: sizes, prompts, clock and memory.

Also what a child process is told, and what it says.
"""

import argparse
import json
import re
import time
from pathlib import Path

import torch

from rlhf_utils.data.rows import load_prompts, pick
from rlhf_utils.models.load import chat_prompt

BATCH = 16  # episodes of one update, in one minibatch, where --batch says nothing else
LENGTH = 32  # tokens of every answer
EPOCHS = 4  # PPO passes over a batch
TEMPERATURE = 0.7
LEARNING_RATE = 3e-6  # TRL's default
KL_COEF = 0.05  # TRL's default
LORA_R = 16
TOP_LAYERS = 8  # k
SAMPLING_CALLS = 3  # timed calls of the sampling comparison
QUIET = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True}  # of TRL's trainers


def positive(text: str) -> int:
    """An argument that must be a whole number above 0."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def arguments() -> argparse.Namespace:
    """What the parent tells a child process.

    --trains says what learns. "full": everything (TRL only). "blocks": all N blocks, without
    embeddings and head. "top": the top k blocks. "lora": adapters on them. "lora_top" (TRL only):
    the same, and only the top k blocks of the value model, all of which TRL trains by itself.
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


def prompt_texts(count: int = BATCH) -> list[str]:
    """`count` different built-in prompts, the same for both sides and for every update."""
    return [prompt.text for prompt in pick(load_prompts("builtin"), count, seed=0)]


def chat_texts(tokenizer, count: int = BATCH) -> list[str]:
    """The same prompts as a model sees them."""
    return [chat_prompt(tokenizer, text) for text in prompt_texts(count)]


def top_layers(model) -> int:
    """k: TOP_LAYERS, or half of the blocks of a small model (the tiny one has 2)."""
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
    """The most memory so far, in 1e9 bytes: what tensors held of a GPU's, else of this process.

    ru_maxrss would begin with that of the parent process.
    """
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024 / 1e9


def say(result: dict) -> None:
    """One JSON line, the last that a child prints."""
    print(json.dumps(result), flush=True)


def measure(ppo, sampling) -> None:
    """Says what ppo(args) or sampling(args) gives, whichever the child is told to do."""
    args = arguments()
    say(ppo(args) if args.task == "ppo" else sampling(args))
