"""What 01_sft needs around TRL's SFTTrainer: the rows as token text, the settings, a live plot, on a CPU faster log-probabilities. Training itself is TRL's."""

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from ..fast.logprobs import token_logprobs
from ..fast.lora import make_lean
from ..fast.trunk import backbone
from .adapters import lora_config
from .load import chat_prompt


def as_dataset(tokenizer, rows: list[dict]) -> Dataset:
    """Token ids and completion mask for TRL, with an end-of-sequence token to learn to stop.

    Tokenised here, because the ids of a prompt must be those that sampling uses: TRL would add the tokenizer's special tokens.
    """

    def encoded(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    parts = [
        (
            encoded(chat_prompt(tokenizer, row["prompt"])),
            encoded(row["completion"] + tokenizer.eos_token),
        )
        for row in rows
    ]
    return Dataset.from_list(
        [{"input_ids": p + c, "completion_mask": [0] * len(p) + [1] * len(c)} for p, c in parts]
    )


class LogCallback(TrainerCallback):
    """Hands the trainer's log history to `on_log(history, step)` after each entry."""

    def __init__(self, on_log):
        self.report = on_log

    def on_log(self, args, state, control, **kwargs):
        self.report(state.log_history, state.global_step)


class Trainer(SFTTrainer):
    """TRL's, but on a CPU with this suite's log-probabilities: TRL's, written for GPUs, compute every logit twice, in slices, a third of a step."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if model.device.type != "cpu" or return_outputs or self.aux_loss_enabled:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"][:, 1:]
        learned = labels != -100
        hidden = backbone(model)(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
        ).last_hidden_state
        logprobs, _ = token_logprobs(model, hidden[:, :-1][learned], labels[learned], 1.0)
        return -logprobs.sum() / (
            learned.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        )


def make_trainer(
    model,
    tokenizer,
    train: list[dict],
    heldout: list[dict],
    folder,
    *,
    num_train_epochs: int,
    learning_rate: float,
    per_device_train_batch_size: int,
    gradient_accumulation_steps: int,
    lora_r: int,
    num_trainable_layers: int,
    max_length: int,
    seed: int,
) -> SFTTrainer:
    """An SFTTrainer with LoRA adapters that learns on the response only (`completion_only_loss`)."""
    steps = (
        -(-len(train) // (per_device_train_batch_size * gradient_accumulation_steps))
        * num_train_epochs
    )
    config = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=num_train_epochs,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(steps // 20, 1),
        per_device_train_batch_size=per_device_train_batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps,
        per_device_eval_batch_size=per_device_train_batch_size,
        completion_only_loss=True,
        train_sampling_strategy="group_by_length",  # like lengths share a batch, so that little is padded
        max_length=max_length,
        bf16=False,
        activation_checkpointing=False,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
        eval_strategy="epoch",
        eval_on_start=True,
        logging_steps=max(steps // 30, 1),
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=seed,
    )
    trainer = Trainer(
        model,
        args=config,
        train_dataset=as_dataset(tokenizer, train),
        eval_dataset=as_dataset(tokenizer, heldout),
        processing_class=tokenizer,
        peft_config=lora_config(model, lora_r, num_trainable_layers),
    )
    make_lean(trainer.model)
    trainer.remove_callback(PrinterCallback)
    return trainer
