"""What 01_sft needs around TRL's SFTTrainer: token ids, settings, a faster loss on a CPU."""

import math
from dataclasses import dataclass

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from ..data.rows import Demonstration
from ..errors import ModelError
from ..fast import Trunk, speed_up, token_logprobs
from .adapters import drop_adapters, lora_config
from .chat import answer_end, chat_prompt
from .kinds import context_of
from .pausing import PausingTraining, end_paused


@dataclass
class SFTSettings:
    """The numbers of 01_sft. Those with a default are set by its `more`."""

    num_train_epochs: int  # passes over the demonstrations
    learning_rate: float  # of the adapters; rises, then falls to 0
    per_device_train_batch_size: int  # demonstrations of one pass over the model
    lora_r: int  # rank of the adapters
    seed: int
    gradient_accumulation_steps: int = 1  # passes of one optimizer step
    num_trainable_layers: int = 0  # top layers that get adapters; 0: all
    max_length: int = 512  # tokens of prompt and answer; longer ones are left out
    response_length: int = 48  # most tokens of a sampled answer
    temperature: float = 0.7  # of the sampled answers

    def num_steps(self, demonstrations: int) -> int:
        batch_size = self.per_device_train_batch_size * self.gradient_accumulation_steps
        return -(-demonstrations // batch_size) * self.num_train_epochs  # rounded up


def make_trainer(
    model,
    tokenizer,
    train: list[Demonstration],
    heldout: list[Demonstration],
    folder,
    settings: SFTSettings,
) -> SFTTrainer:
    """An SFTTrainer with LoRA adapters that learns the answers only (`completion_only_loss`).

    Its `pausing.run` trains, and an interrupt only pauses it. `left_out` counts the demonstrations
    that are too long. Adapters that the model got from an earlier trainer go. Raises ModelError if
    no demonstration is left, and in training if it diverges.
    """
    end_paused()
    drop_adapters(model)
    max_length = min(settings.max_length, context_of(model.config) or settings.max_length)
    learned, long = _that_fit(as_dataset(tokenizer, train), max_length, "demonstrations")
    measured, _ = _that_fit(as_dataset(tokenizer, heldout), max_length, "held-out demonstrations")
    steps = settings.num_steps(len(learned))
    config = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=settings.num_train_epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(steps // 20, 1),
        per_device_train_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        per_device_eval_batch_size=settings.per_device_train_batch_size,
        completion_only_loss=True,
        train_sampling_strategy="group_by_length",  # so that little is padded
        max_length=max_length,
        bf16=False,
        activation_checkpointing=False,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
        eval_strategy="epoch",
        eval_on_start=True,
        logging_steps=max(steps // 30, 1),
        router_aux_loss_coef=0.0,  # a mixture's router does not learn
        logging_nan_inf_filter=False,  # or it would hide that training diverged
        save_strategy="no",
        disable_tqdm=True,
        seed=settings.seed,
    )
    trainer = Trainer(
        model,
        args=config,
        train_dataset=learned,
        eval_dataset=measured,
        processing_class=tokenizer,
        peft_config=lora_config(model, settings.lora_r, settings.num_trainable_layers),
    )
    speed_up(trainer.model)
    trainer.remove_callback(PrinterCallback)
    words = model.get_output_embeddings().weight.shape[0]
    trainer.add_callback(LogCallback(lambda log, step: _check_loss(log[-1], step, words, settings)))
    trainer.left_out = long
    trainer.pausing = PausingTraining(trainer)
    return trainer


def _that_fit(rows: Dataset, max_length: int, what: str) -> tuple[Dataset, int]:
    """(rows of at most max_length tokens, how many are longer). Raises ModelError for none.

    A cut answer would teach to stop in mid-sentence, or never to stop.
    """
    lengths = [len(ids) for ids in rows["input_ids"]]
    fit = [number for number, length in enumerate(lengths) if length <= max_length]
    if len(fit) == len(lengths):
        return rows, 0
    long = len(lengths) - len(fit)
    told = (
        f"{long} of {len(lengths)} {what} are longer than max_length={max_length} tokens of prompt "
        f"and answer and left out: more={{'max_length': {max(lengths)}}} would take all, as far as "
        "the model does."
    )
    if not fit:
        raise ModelError(told)
    print(told)
    return rows.select(fit), long


def _check_loss(row: dict, step: int, words: int, settings: SFTSettings) -> None:
    """Raises ModelError for a loss that says that training diverged.

    One that knows nothing has log(words); twice that is one that is sure of what is wrong.
    """
    loss = row.get("loss", row.get("eval_loss", 0.0))
    if step == 0 and not math.isfinite(loss):
        raise ModelError(
            f"The loss is {loss} before anything was learned: the model's weights are damaged, so "
            "load it again or take another model."
        )
    if step and not loss < 2 * math.log(words):
        raise ModelError(
            f"Training diverged: at step {step} the loss is {loss:.3g} nats a token, where one "
            f"that knows nothing has {math.log(words):.1f}: lower "
            f"learning_rate={settings.learning_rate:g}."
        )


def as_dataset(tokenizer, demonstrations: list[Demonstration]) -> Dataset:
    """Token ids and completion mask for TRL. An answer ends with `answer_end`.

    TRL would add the tokenizer's special tokens to a prompt, but sampling does not. So the texts
    become ids here.
    """
    rows, end = [], answer_end(tokenizer)
    for demonstration in demonstrations:
        prompt = chat_prompt(tokenizer, demonstration.prompt.text)
        answer = demonstration.answer + end
        prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        answer_ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        mask = [0] * len(prompt_ids) + [1] * len(answer_ids)
        rows.append({"input_ids": prompt_ids + answer_ids, "completion_mask": mask})
    return Dataset.from_list(rows)


class Trainer(SFTTrainer):
    """TRL's trainer, with the log-probabilities of this suite on a CPU.

    TRL's are made for GPUs and compute every logit twice: a third of a step.
    """

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if model.device.type != "cpu" or return_outputs or self.aux_loss_enabled:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        mask = inputs["attention_mask"].bool()
        return answer_loss(model, inputs["input_ids"], mask, inputs["labels"], num_items_in_batch)


def answer_loss(model, ids: Tensor, mask: Tensor, labels: Tensor, count=None) -> Tensor:
    """The mean −log p of the tokens that are learned, all (B, T).

    labels: the ids of these tokens, −100 elsewhere. count: divides the sum; their number if None.
    """
    labels = labels[:, 1:]
    learned = labels != -100
    trunk = Trunk(model)
    hidden = trunk.upper(trunk.lower(ids, mask), mask)
    logprobs, _ = token_logprobs(trunk.head, hidden[:, :-1][learned], labels[learned], 1.0)
    return -logprobs.sum() / (learned.sum().clamp(min=1) if count is None else count)


class LogCallback(TrainerCallback):
    """Calls `then(log history, step)` whenever the trainer logs."""

    def __init__(self, then):
        self.then = then

    def on_log(self, args, state, control, **kwargs):
        self.then(state.log_history, state.global_step)
