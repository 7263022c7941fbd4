"""A sequence classifier as the reward model: it scores answers; TRL fine-tunes all its weights.

Any classifier of one or two classes will do. What `train_classifier` makes loads in plain
transformers.
"""

from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PrinterCallback

from ..data.rows import in_parts
from ..errors import ModelError
from ..models.load import load_from, load_tokenizer, pick_device
from ..preferences.pairs import Pair
from ..stats import correct

LONGEST = 1024  # tokens of prompt and answer that a classifier reads
TEXTS_PER_PASS = 16
PAIRS_PER_STEP = 8


class ClassifierReward:
    """A sequence classifier with its own tokenizer and chat template.

    Its one logit is the score; of two logits, the second (good) less the first (bad).
    """

    def __init__(self, name: str, dtype: torch.dtype = torch.float32, device="cpu"):
        self.tokenizer = load_from(AutoTokenizer, name)
        self.model, loaded = load_from(
            AutoModelForSequenceClassification, name, dtype=dtype, output_loading_info=True
        )
        self.model.to(device).eval()
        config = self.model.config
        if config.pad_token_id is None:
            config.pad_token_id = self.tokenizer.pad_token_id
        _check_classifier(name, config, loaded["missing_keys"])
        self.tokenizer.pad_token_id = config.pad_token_id
        self.tokenizer.padding_side = "right"  # positions count from the left
        positions = getattr(config, "max_position_embeddings", LONGEST)
        longest = min(self.tokenizer.model_max_length, positions, LONGEST)
        self.tokenizer.model_max_length = longest

    @torch.no_grad()
    def __call__(self, prompts: list[str], completions: list[str], **columns) -> list[float]:
        scores = []
        for few in in_parts(list(zip(prompts, completions)), TEXTS_PER_PASS):
            encoded = encode_conversations(
                self.tokenizer, *zip(*few), padding=True, return_tensors="pt"
            )
            logits = self.model(**encoded.to(self.model.device)).logits.float()
            bad = logits[:, 0] if logits.shape[1] == 2 else 0
            scores += (logits[:, -1] - bad).tolist()
        return scores


def _check_classifier(name: str, config, missing_keys) -> None:
    if missing_keys:  # transformers would go on with a random head
        raise ModelError(
            f"{name!r} is no sequence classifier: it has no weights for "
            f"{', '.join(sorted(missing_keys))}."
        )
    if config.num_labels > 2:
        raise ModelError(
            f"{name!r} tells {config.num_labels} classes apart: a reward needs one logit, or two "
            "(bad, good)."
        )
    if config.pad_token_id is None:
        raise ModelError(
            f"{name!r} has no padding token, so answers cannot be scored together: set "
            "pad_token_id in its config."
        )


def encode_conversations(tokenizer, prompts: list[str], answers: list[str], **options):
    """Each prompt and answer under the tokenizer's chat template; without one, as a pair of texts.

    What is longer than `tokenizer.model_max_length` loses its beginning.
    """
    tokenizer.truncation_side = "left"
    options["truncation"] = True
    if tokenizer.chat_template is None:
        return tokenizer(list(prompts), list(answers), **options)
    conversations = []
    for prompt, answer in zip(prompts, answers):
        asked = {"role": "user", "content": prompt}
        conversations.append([asked, {"role": "assistant", "content": answer}])
    texts = tokenizer.apply_chat_template(conversations, tokenize=False)
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
