"""A sequence classifier as the reward model: it scores answers; TRL fine-tunes all its weights.

labels.py says which of several labels is paid for. What `train_classifier` makes loads in plain
transformers.
"""

from pathlib import Path

import torch
from datasets import Dataset
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PrinterCallback

from ..data.conversations import MARK, messages_of
from ..data.rows import in_parts
from ..errors import ModelError
from ..models.load import load_from, load_tokenizer, pick_device
from ..preferences.pairs import Pair
from ..stats import correct
from .labels import log_odds, paid_label

LONGEST = 1024  # tokens of prompt and answer that a classifier reads
TEXTS_PER_PASS = 16
PAIRS_PER_STEP = 8


class ClassifierReward:
    """A sequence classifier with its own tokenizer and chat template.

    label: the one that is paid for; may be empty where there is no doubt. Raises ModelError for a
    model that is no classifier, and SettingError for a label that it does not have.
    """

    def __init__(self, name: str, dtype: torch.dtype = torch.float32, device="cpu", label=""):
        self.tokenizer = load_from(AutoTokenizer, name)
        self.model, loaded = load_from(
            AutoModelForSequenceClassification, name, dtype=dtype, output_loading_info=True
        )
        if loaded["missing_keys"]:  # transformers would go on with a random head
            raise ModelError(
                f"{name!r} is no sequence classifier: it has no weights for "
                f"{', '.join(sorted(loaded['missing_keys']))}."
            )
        self.model.to(device).eval()
        self.label = paid_label(name, self.model.config, label)
        self.tokenizer.padding_side = "right"  # positions count from the left
        self.pads = _set_padding(self.model, self.tokenizer)
        longest = min(self.tokenizer.model_max_length, positions_of(self.model), LONGEST)
        self.tokenizer.model_max_length = longest

    @torch.no_grad()
    def __call__(self, prompts: list[str], completions: list[str], **columns) -> list[float]:
        scores = []
        at_once = TEXTS_PER_PASS if self.pads else 1
        for few in in_parts(list(zip(prompts, completions)), at_once):
            encoded = encode_conversations(
                self.tokenizer, *zip(*few), padding=self.pads, return_tensors="pt"
            )
            logits = self.model(**encoded.to(self.model.device)).logits.float()
            scores += log_odds(logits, self.label, self.model.config.problem_type).tolist()
        return scores


def _set_padding(model: nn.Module, tokenizer) -> bool:
    """Gives both the same token for padding; False if none has an embedding."""
    size = model.get_input_embeddings().num_embeddings
    for pad in (model.config.pad_token_id, tokenizer.pad_token_id):
        if pad is not None and 0 <= pad < size:
            model.config.pad_token_id = tokenizer.pad_token_id = pad
            return True
    model.config.pad_token_id = None  # a model that pools at the last token then takes the last
    return False


def positions_of(model: nn.Module) -> int:
    """How many tokens the model has positions for; LONGEST if any number will do.

    RoBERTa and its kin begin to count after the padding token's row.
    """
    named = getattr(model.config.get_text_config(), "max_position_embeddings", None) or LONGEST
    found = [named] if named > 0 else []  # XLNet says −1
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            before = 0 if module.padding_idx is None else module.padding_idx + 1
            found.append(module.num_embeddings - before)
    return min(found, default=LONGEST)


def encode_conversations(tokenizer, prompts: list[str], answers: list[str], **options):
    """Each prompt and answer under the tokenizer's chat template; without one, as a pair of texts.

    What is longer than `tokenizer.model_max_length` loses its beginning. Raises ModelError for a
    template that cannot write a prompt.
    """
    tokenizer.truncation_side = "left"
    options["truncation"] = True
    if tokenizer.chat_template is None:
        plain = [prompt.replace(MARK, "") for prompt in prompts]
        return tokenizer(plain, list(answers), **options)
    conversations = [
        [*messages_of(prompt), {"role": "assistant", "content": answer}]
        for prompt, answer in zip(prompts, answers)
    ]
    try:
        texts = tokenizer.apply_chat_template(conversations, tokenize=False)
    except Exception as error:  # whatever the template, which is a program, raises
        raise ModelError(
            f"The chat template of the classifier {tokenizer.name_or_path!r} cannot write a "
            f"prompt such as {prompts[0][:80]!r}: {error}."
        ) from error
    return tokenizer(texts, add_special_tokens=False, **options)


def train_classifier(
    policy: str,
    pairs: list[Pair],
    folder: Path,
    *,
    max_length: int,
    half: bool,
    seed: int,
    on_log,
) -> None:
    """Fine-tunes all weights of π_SFT with TRL's RewardTrainer, in one pass over the pairs.

    Saves a plain AutoModelForSequenceClassification in `folder`, which 04_ppo takes as its
    `reward`. Ties are left out. half: the weights are float32, but multiply in bfloat16.
    on_log: called with the trainer's log history and the number of the step.
    """
    from trl import RewardConfig, RewardTrainer  # takes seconds; only for those who fine-tune

    from ..models.sft import LogCallback

    tokenizer = load_tokenizer(policy)
    tokenizer.model_max_length = max_length
    torch.manual_seed(seed)
    model = load_from(AutoModelForSequenceClassification, policy, num_labels=1, dtype=torch.float32)
    config = RewardConfig(
        output_dir=str(folder),
        num_train_epochs=1,
        learning_rate=2e-5,
        per_device_train_batch_size=PAIRS_PER_STEP,
        gradient_checkpointing=False,
        max_length=max_length,
        bf16=half,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=seed,
    )
    trainer = RewardTrainer(
        model,
        args=config,
        processing_class=tokenizer,
        train_dataset=_token_ids(tokenizer, [pair for pair in pairs if not pair.tie]),
        callbacks=[LogCallback(on_log)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    if not all(weight.isfinite().all() for weight in trainer.model.parameters()):
        raise ModelError("The classifier's training diverged: its weights are not finite.")
    trainer.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def fine_tune(
    policy: str,
    train: list[Pair],
    heldout: list[Pair],
    stage,
    *,
    max_length: int,
    half: bool,
    seed: int,
) -> float:
    """Trains a classifier in `stage.dir`/classifier, with a live plot of its loss.

    Returns the share of the held-out pairs that it orders as labelled.
    """
    from ..show import figures  # what draws and counts is only for those who fine-tune, too
    from ..show.notebook import LivePlot
    from .report_card import margins

    steps = -(-sum(not pair.tie for pair in train) // PAIRS_PER_STEP)
    plot = LivePlot(lambda rows, title: figures.reward_training(rows, [], title), steps, "step")

    def show_log(log: list[dict], step: int) -> None:
        stage.progress("classifier", step, steps)
        plot([row for row in log if "loss" in row], step)

    folder = stage.dir / "classifier"
    train_classifier(
        policy, train, folder, max_length=max_length, half=half, seed=seed, on_log=show_log
    )
    dtype = torch.bfloat16 if half else torch.float32
    fine_tuned = ClassifierReward(str(folder), dtype, pick_device())
    return float(correct(margins(fine_tuned, heldout)).mean())


def _token_ids(tokenizer, pairs: list[Pair]) -> Dataset:
    """The ids that ClassifierReward gives to a classifier later.

    They are cut here, because TRL would leave out what is too long.
    """
    prompts = [pair.prompt.text for pair in pairs]
    columns = {}
    for side in ("chosen", "rejected"):
        answers = [getattr(pair, side) for pair in pairs]
        encoded = encode_conversations(tokenizer, prompts, answers)
        columns[f"{side}_ids"] = encoded["input_ids"]
    return Dataset.from_dict(columns)
