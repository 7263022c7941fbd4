"""One measurement of trl 1.12.0's PPOTrainer, or of transformers' generate, as a process of its own; prints one JSON line.

Reward and value model are sequence classifiers with random heads on the same base model. "full", "blocks" and "top" (see
common.arguments) hold for policy and value model; "lora" puts adapters on all linear layers of the policy's top k blocks (no
reference model then: TRL switches the adapters off) and trains, as TRL does, the whole value model; "lora_top" only its top k blocks.

bfloat16: `bf16=True` alone changes nothing, because trl 1.12.0 makes its Accelerator without it; ACCELERATE_MIXED_PRECISION, which
`accelerate launch` would set, makes it work. As on our side, models that stay frozen are loaded in bfloat16, others in float32.

With `stop_token=None` EOS is a token like any other, so every response has LENGTH tokens. --tuned gives TRL what `models.load_model`
gives ours: attention whose backward pass is fast on a CPU, and glibc's memory settings. All else is at the defaults, among them fused
AdamW. Gradient checkpointing, which PPOTrainer ignores, is said to be off.
"""

import os
import tempfile
import time

import torch
from datasets import Dataset
from peft import PeftModel  # noqa: F401  its import is no part of an update
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GenerationConfig, TrainerCallback

from common import BATCH, EPOCHS, LENGTH, LORA_R, SAMPLING_CALLS, TEMPERATURE
from common import arguments, peak_gb, prompt_rows, say, top_layers
from rlhf_utils import data, models


class Clock(TrainerCallback):
    """When each update ended, in seconds of perf_counter."""

    def __init__(self):
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())


def load(args, auto_class, dtype: torch.dtype, seed: int, **options):
    """The model as a TRL user loads it, or tuned; the seed is that of a head that the base model lacks."""
    torch.manual_seed(seed)
    model = auto_class.from_pretrained(args.model, dtype=dtype, **options)
    if args.tuned:
        models.keep_freed_memory()
        model.set_attn_implementation("grouped")
    return model


def freeze_below(model, k: int) -> None:
    """Leaves only the top k blocks, the norm after them and a value head to learn."""
    base = getattr(model, model.base_model_prefix)
    model.requires_grad_(False)
    for module in [*base.layers[-k:], base.norm, *([model.score] if hasattr(model, "score") else [])]:
        module.requires_grad_(True)


def make_trainer(args, folder: str, clock: Clock):
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    half = args.dtype == "bfloat16"
    frozen = getattr(torch, args.dtype)
    if half:
        os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"
    tokenizer = models.load_tokenizer(args.model)
    lora = args.trains.startswith("lora")
    policy = load(args, AutoModelForCausalLM, frozen if lora else torch.float32, 0)
    reference = None if lora else load(args, AutoModelForCausalLM, frozen, 0)
    reward = load(args, AutoModelForSequenceClassification, frozen, 1, num_labels=1)
    value = load(args, AutoModelForSequenceClassification, torch.float32, 2, num_labels=1)
    if args.trains in ("blocks", "top"):
        k = top_layers(policy) if args.trains == "top" else policy.config.num_hidden_layers
        freeze_below(policy, k)
        freeze_below(value, k)
    elif args.trains == "lora_top":
        freeze_below(value, top_layers(value))
    texts = [data.chat_prompt(tokenizer, row["prompt"]) for row in prompt_rows()]
    rows = Dataset.from_dict({"input_ids": tokenizer(texts, add_special_tokens=False)["input_ids"]})
    config = PPOConfig(
        output_dir=folder, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True, num_sample_generations=0,
        bf16=half, gradient_checkpointing=False, total_episodes=BATCH * (args.updates + 1), per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=1, num_mini_batches=1, num_ppo_epochs=EPOCHS, response_length=LENGTH, temperature=TEMPERATURE)
    peft_config = models.lora_config(policy, LORA_R, top_layers(policy)) if lora else None
    trainer = PPOTrainer(config, tokenizer, policy, reference, reward, rows, value, eval_dataset=rows, callbacks=[clock],
                         peft_config=peft_config)
    assert trainer.accelerator.mixed_precision == ("bf16" if half else "no")
    return trainer


def check_lengths() -> None:
    """Stops a run whose responses do not have LENGTH tokens."""
    from trl.experimental.ppo import ppo_trainer

    generate = ppo_trainer.batch_generation

    def checked(model, queries, *rest):
        found, logits = generate(model, queries, *rest)
        assert found.shape == (BATCH, queries.shape[1] + LENGTH), found.shape
        return found, logits

    ppo_trainer.batch_generation = checked


def measure_ppo(args) -> dict:
    """Episodes/s over the updates after the first, and peak memory."""
    clock = Clock()
    check_lengths()
    with tempfile.TemporaryDirectory() as folder:
        make_trainer(args, folder, clock).train()
    return {"episodes_per_s": args.updates * BATCH / (clock.ends[-1] - clock.ends[0]), "peak_memory_gb": peak_gb()}


@torch.no_grad()
def measure_sampling(args) -> dict:
    """Tokens/s of transformers' generate, which gives tokens only."""
    tokenizer = models.load_tokenizer(args.model)
    model = load(args, AutoModelForCausalLM, getattr(torch, args.dtype), 0).eval()
    model.generation_config = GenerationConfig(do_sample=True, temperature=TEMPERATURE, top_k=0, top_p=1.0, max_new_tokens=LENGTH,
                                               pad_token_id=tokenizer.pad_token_id)  # no eos_token_id: nothing ends early
    texts = [data.chat_prompt(tokenizer, row["prompt"]) for row in prompt_rows()]
    batch, seconds = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False), []
    torch.manual_seed(0)
    for _ in range(SAMPLING_CALLS + 1):
        start = time.perf_counter()
        found = model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        seconds.append(time.perf_counter() - start)
    assert found.shape == (BATCH, batch["input_ids"].shape[1] + LENGTH), found.shape
    return {"tokens_per_s": SAMPLING_CALLS * BATCH * LENGTH / sum(seconds[1:])}


if __name__ == "__main__":
    given = arguments()
    say(measure_ppo(given) if given.task == "ppo" else measure_sampling(given))
