"""One measurement of trl 1.12.0's PPOTrainer, or of transformers' generate; prints one JSON line.

It is a process of its own. Reward and value model are sequence classifiers with random heads on the
same base model. "full", "blocks" and "top" (see common.arguments) hold for policy and value model.
"lora" puts adapters on all linear layers of the policy's top k blocks and trains the whole value
model, as TRL does by itself; "lora_top" trains only its top k blocks. With adapters there is no
reference model: TRL switches the adapters off.

bfloat16: `bf16=True` alone changes nothing, because trl 1.12.0 makes its Accelerator without it.
ACCELERATE_MIXED_PRECISION, which `accelerate launch` would set, makes it work. As on our side,
models that stay frozen are loaded in bfloat16, others in float32.

With `stop_token=None` EOS is a token like any other, so every answer has LENGTH tokens. --tuned
gives TRL what `load_model` gives ours: attention whose backward pass is fast on a CPU, and glibc's
memory settings. All else is at the defaults, fused AdamW included. Gradient checkpointing, which
PPOTrainer ignores, is said to be off.
"""

import os
import tempfile

import torch
from common import (
    EPOCHS,
    LENGTH,
    LORA_R,
    QUIET,
    TEMPERATURE,
    chat_texts,
    measure,
    now,
    peak_gb,
    sampling_rate,
    top_layers,
)
from datasets import Dataset
from peft import PeftModel  # noqa: F401  its import is no part of an update
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
    TrainerCallback,
)

from rlhf_utils.fast import memory
from rlhf_utils.models import adapters
from rlhf_utils.models.load import load_tokenizer


class Clock(TrainerCallback):
    """When each update ended, in seconds of perf_counter."""

    def __init__(self, args):
        self.args, self.ends = args, []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(now(self.args))


def load(args, auto_class, dtype: torch.dtype, seed: int, **options):
    """The model as a TRL user loads it, or tuned.

    seed: of a head that the base model lacks.
    """
    torch.manual_seed(seed)
    model = auto_class.from_pretrained(args.model, dtype=dtype, **options)
    if args.tuned:
        memory.keep_freed_memory()
        if args.device == "cpu":
            model.set_attn_implementation("grouped")
    return model


def freeze_below(model, k: int) -> None:
    """Leaves only the top k blocks, the norm after them and a value head to learn."""
    model.requires_grad_(False)
    for module in (model.model.layers[-k:], model.model.norm):
        module.requires_grad_(True)
    if hasattr(model, "score"):
        model.score.requires_grad_(True)


def make_trainer(
    models: dict, tokenizer, batch: int, folder: str, callback, peft_config=None, **options
):
    """TRL's trainer: each update is one minibatch, and every answer may have LENGTH tokens.

    models: by the names of PPOTrainer's arguments. options: further ones of its PPOConfig.
    """
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    ids = tokenizer(chat_texts(tokenizer, batch), add_special_tokens=False)["input_ids"]
    rows = Dataset.from_dict({"input_ids": ids})
    config = PPOConfig(
        output_dir=folder,
        num_sample_generations=0,
        gradient_checkpointing=False,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        response_length=LENGTH,
        temperature=TEMPERATURE,
        **QUIET,
        **options,
    )
    return PPOTrainer(
        config,
        tokenizer,
        **models,
        train_dataset=rows,
        eval_dataset=rows,
        callbacks=[callback],
        peft_config=peft_config,
    )


def trainer_of(args, folder: str, clock: Clock):
    """The trainer of what `args` ask for."""
    half = args.dtype == "bfloat16"
    frozen = getattr(torch, args.dtype)
    if half:
        os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"
    tokenizer = load_tokenizer(args.model)
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
    trainer = make_trainer(
        {"model": policy, "ref_model": reference, "reward_model": reward, "value_model": value},
        tokenizer,
        args.batch,
        folder,
        clock,
        peft_config=adapters.lora_config(policy, LORA_R, top_layers(policy)) if lora else None,
        use_cpu=args.device == "cpu",
        bf16=half,
        total_episodes=args.batch * (args.updates + 1),
        num_ppo_epochs=EPOCHS,
    )
    assert trainer.accelerator.mixed_precision == ("bf16" if half else "no")
    return trainer


def check_lengths(args) -> None:
    """Stops a run whose answers do not have LENGTH tokens."""
    from trl.experimental.ppo import ppo_trainer

    generate = ppo_trainer.batch_generation

    def checked(model, queries, *rest):
        found, logits = generate(model, queries, *rest)
        assert found.shape == (args.batch, queries.shape[1] + LENGTH), found.shape
        return found, logits

    ppo_trainer.batch_generation = checked


def measure_ppo(args) -> dict:
    """Episodes/s over the updates after the first, and peak memory."""
    clock = Clock(args)
    check_lengths(args)
    with tempfile.TemporaryDirectory() as folder:
        trainer_of(args, folder, clock).train()
    return {
        "episodes_per_s": args.updates * args.batch / (clock.ends[-1] - clock.ends[0]),
        "peak_memory_gb": peak_gb(args.device),
    }


@torch.no_grad()
def measure_sampling(args) -> dict:
    """Tokens/s of transformers' generate, which gives tokens only, or of TRL's own sampler.

    The latter stacks all logits.
    """
    from trl.experimental.ppo.ppo_trainer import batch_generation

    tokenizer = load_tokenizer(args.model)
    model = load(args, AutoModelForCausalLM, getattr(torch, args.dtype), 0).to(args.device).eval()
    settings = GenerationConfig(
        do_sample=True,
        temperature=TEMPERATURE,
        top_k=0,
        top_p=1.0,
        max_new_tokens=LENGTH,
        pad_token_id=tokenizer.pad_token_id,
    )  # no eos_token_id: nothing ends early
    model.generation_config = settings
    texts = chat_texts(tokenizer, args.batch)
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    ids, mask = batch["input_ids"].to(args.device), batch["attention_mask"].to(args.device)
    torch.manual_seed(0)
    calls = {
        "sampling": lambda: model.generate(input_ids=ids, attention_mask=mask),
        "trl_sampling": lambda: batch_generation(
            model, ids, args.batch, tokenizer.pad_token_id, settings
        )[0],
    }
    found = calls[args.task]()
    assert found.shape == (args.batch, ids.shape[1] + LENGTH), found.shape
    return {"tokens_per_s": sampling_rate(calls[args.task], args)}


if __name__ == "__main__":
    measure(measure_ppo, measure_sampling)
