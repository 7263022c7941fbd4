"""A sequence classifier as the reward model: it scores answers; TRL fine-tunes all its weights.

Which of several labels is paid for is read in its config, or named by the user. Half of the
classifiers that one finds have the bad label last ({0: nothate, 1: hate}), so the place of a label
says nothing. What `fine_tune` makes loads in plain transformers.
"""

import math
import unicodedata

import torch
from datasets import Dataset
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PrinterCallback

from ..data.conversations import MARK, messages_of
from ..data.rows import in_parts
from ..errors import ModelError, SettingError
from ..models.chat import write_chat
from ..models.kinds import context_of, text_config
from ..models.load import load_from, load_tokenizer, pick_device
from ..preferences.pairs import Pair
from ..stats import correct
from .wrapped import in_words

LONGEST = 1024  # tokens of prompt and answer that a classifier reads
TEXTS_PER_PASS = 16
PAIRS_PER_STEP = 8

# of these two labels everybody would pay for the first
CLEAR = {
    "positive": "negative",
    "pos": "neg",
    "good": "bad",
    "chosen": "rejected",
    "acceptable": "unacceptable",
    "helpful": "unhelpful",
    "safe": "unsafe",
    "harmless": "harmful",
}
BAD = {*CLEAR.values(), "toxic", "toxicity", "hate", "spam"}  # not paid for unless they are named
APART = ("multi_label_classification", "regression")  # each label has a number of its own
SHOWN = 12  # labels in an error


class ClassifierReward:
    """A sequence classifier with its own tokenizer and chat template.

    label: the one that is paid for; may be empty where there is no doubt. On the device "meta" no
    weights are read. Raises ModelError for a model that is no classifier, and SettingError for a
    label that it does not have.
    """

    def __init__(self, name: str, dtype: torch.dtype = torch.float32, device="cpu", label=""):
        self.name, self.tokenizer = name, load_from(AutoTokenizer, name)
        options = {"device_map": "meta"} if str(device) == "meta" else {"dtype": dtype}
        self.model, loaded = load_from(
            AutoModelForSequenceClassification, name, output_loading_info=True, **options
        )
        made_for = ", ".join(self.model.config.architectures or ["another model"])
        missing = sorted(loaded["missing_keys"])  # transformers would go on with a random head
        if missing or "ForTokenClassification" in made_for:
            raise ModelError(
                f"{name!r} is no sequence classifier but {made_for}"
                + (f": it has no weights for {', '.join(missing[:3])}." if missing else ".")
            )
        self.model.to(device).eval()
        self.labels = labels_of(self.model.config)
        self.label = paid_label(name, self.labels, label)
        self.tokenizer.padding_side = "right"  # positions count from the left
        self.pads = _set_padding(self.model, self.tokenizer)
        longest = min(self.tokenizer.model_max_length, _positions_of(self.model), LONGEST)
        self.tokenizer.model_max_length = longest
        if str(device) != "meta":
            self.pads = self._reads() and self.pads

    def __str__(self) -> str:
        paid = self.labels[self.label]
        if len(self.labels) == 1:
            return f"classifier {self.name}, whose one logit is the score (label {paid!r})"
        others = ", ".join(repr(own) for own in self.labels if own != paid)
        return f"classifier {self.name}, pays for label {paid!r} (not {others})"

    @torch.no_grad()
    def __call__(self, prompts: list[str], completions: list[str], **columns) -> list[float]:
        scores = []
        at_once = TEXTS_PER_PASS if self.pads else 1
        for few in in_parts(list(zip(prompts, completions)), at_once):
            encoded = encode_conversations(
                self.tokenizer, *zip(*few), padding=self.pads, return_tensors="pt"
            )
            try:
                logits = self.model(**encoded.to(self.model.device)).logits.float()
            except Exception as error:
                raise ModelError(
                    f"The classifier {self.name!r} cannot read {few[0][0][:60]!r} with an answer: "
                    f"{in_words(error)}."
                ) from error
            scores += log_odds(logits, self.label, self.model.config.problem_type).tolist()
        return scores

    def _reads(self) -> bool:
        """Tries it. Whether padding changes nothing; in XLNet and FNet it changes a score."""
        (alone,) = self(["Hi?"], ["Yes."])
        beside, _ = self(["Hi?"] * 2, ["Yes.", "Yes. " * 30])
        return math.isclose(alone, beside, rel_tol=0.02, abs_tol=0.02)


# --- which label is paid for


def labels_of(config) -> list[str]:
    """The label of each logit."""
    return [str(config.id2label.get(i, f"LABEL_{i}")) for i in range(config.num_labels)]


def paid_label(name: str, labels: list[str], label: str = "") -> int:
    """The number of the label that is paid for; `label` may be empty where there is no doubt.

    Raises SettingError that lists the labels.
    """
    lower = list(map(_folded, labels))
    found = [i for i, own in enumerate(labels) if own == label]
    if label and not found:
        found = [i for i, own in enumerate(lower) if own == _folded(label)]
    if not label and len(labels) == 1 and lower[0] not in BAD:
        found = [0]
    if not label and len(labels) == 2:
        found = [i for i in (0, 1) if CLEAR.get(lower[i]) == lower[1 - i]]
    if len(found) == 1:
        return found[0]
    wrong = f"has no one label {label!r}" if label else "does not say which label is good"
    listed = ", ".join(map(repr, labels[:SHOWN])) + ", …" * (len(labels) > SHOWN)
    ways = " or ".join(f"reward={f'{name}#{own}'!r}" for own in labels[:2])
    raise SettingError(f"{name!r} {wrong}: it has {listed}; name the one to pay for, {ways}.")


def _folded(label: str) -> str:
    return unicodedata.normalize("NFC", label).casefold().strip()


def log_odds(logits: torch.Tensor, label: int, problem_type: str | None = None) -> torch.Tensor:
    """(B, L) logits → (B,) the label's logit less the logsumexp of the others: its log-odds.

    The logit alone where there is one, or where the labels do not exclude each other.
    """
    own = logits[:, label]
    if logits.shape[1] == 1 or problem_type in APART:
        return own
    others = torch.cat([logits[:, :label], logits[:, label + 1 :]], dim=1)
    return own - others.logsumexp(1)


# --- texts


def _positions_of(model: nn.Module) -> int:
    """The most tokens that it takes. RoBERTa and its kin count from the padding token's row on."""
    found = [context_of(model.config) or LONGEST]
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            before = 0 if module.padding_idx is None else module.padding_idx + 1
            found.append(module.num_embeddings - before)
    return min(found)


def _set_padding(model: nn.Module, tokenizer) -> bool:
    """Gives both the same token for padding; False if none has an embedding."""
    size = getattr(text_config(model.config), "vocab_size", 0)
    for pad in (model.config.pad_token_id, tokenizer.pad_token_id):
        if pad is not None and 0 <= pad < size:
            model.config.pad_token_id = tokenizer.pad_token_id = pad
            return True
    model.config.pad_token_id = None  # a model that pools at the last token then takes the last
    return False


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
    texts = [
        write_chat(tokenizer, [*messages_of(prompt), {"role": "assistant", "content": answer}])
        for prompt, answer in zip(prompts, answers)
    ]
    return tokenizer(texts, add_special_tokens=False, **options)


# --- fine-tuning


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
    """Fine-tunes all weights of π_SFT with TRL's RewardTrainer, in one pass over the pairs.

    Saves a plain AutoModelForSequenceClassification in `stage.dir`/classifier, which 04_ppo takes
    as its `reward`; a live plot shows its loss. Ties are left out. half: the weights are float32,
    but multiply in bfloat16. Returns the share of the held-out pairs that it orders as labelled.
    """
    from trl import RewardConfig, RewardTrainer  # takes seconds; only for those who fine-tune

    from ..models.sft import LogCallback
    from ..show import figures
    from ..show.notebook import LivePlot
    from .report_card import margins

    pairs = [pair for pair in train if not pair.tie]
    steps = -(-len(pairs) // PAIRS_PER_STEP)
    plot = LivePlot(lambda rows, title: figures.reward_training(rows, [], title), steps, "step")

    def show_log(log: list[dict], step: int) -> None:
        stage.progress("classifier", step, steps)
        plot([row for row in log if "loss" in row], step)

    folder, device = str(stage.dir / "classifier"), pick_device()
    tokenizer = load_tokenizer(policy)
    tokenizer.model_max_length = max_length
    torch.manual_seed(seed)
    model = load_from(AutoModelForSequenceClassification, policy, num_labels=1, dtype=torch.float32)
    config = RewardConfig(
        output_dir=folder,
        num_train_epochs=1,
        learning_rate=2e-5,
        per_device_train_batch_size=PAIRS_PER_STEP,
        gradient_checkpointing=False,
        max_length=max_length,
        bf16=half,
        use_cpu=device.type == "cpu",
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
        train_dataset=_token_ids(tokenizer, pairs),
        callbacks=[LogCallback(show_log)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    if not all(weight.isfinite().all() for weight in trainer.model.parameters()):
        raise ModelError("The classifier's training diverged: its weights are not finite.")
    trainer.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    judge = ClassifierReward(folder, torch.bfloat16 if half else torch.float32, device)
    return float(correct(margins(judge, heldout)).mean())


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
