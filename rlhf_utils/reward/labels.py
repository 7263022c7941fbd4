"""Which label of a classifier a reward pays for: read in its config, or named by the user.

Half of the classifiers that one finds have the bad label last ({0: nothate, 1: hate}), so the
place of a label says nothing.
"""

import re
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig

from ..errors import ModelError, SettingError
from ..models.load import load_from

CLEAR = (  # two labels of which everybody would pay for the first
    {"positive", "negative"},
    {"pos", "neg"},
    {"good", "bad"},
    {"chosen", "rejected"},
    {"acceptable", "unacceptable"},
    {"helpful", "unhelpful"},
    {"safe", "unsafe"},
    {"harmless", "harmful"},
)
GOOD = {"positive", "pos", "good", "chosen", "acceptable", "helpful", "safe", "harmless"}
APART = ("multi_label_classification", "regression")  # each label has a number of its own
SHOWN = 12  # labels in an error

# architectures whose weights have no head for a label
OTHER_WORK = "For(CausalLM|MaskedLM|Token|Question|Conditional|PreTraining)|LMHead"


def labels_of(config) -> list[str]:
    """The label of each logit."""
    return [str(config.id2label.get(i, f"LABEL_{i}")) for i in range(config.num_labels)]


def paid_label(name: str, config, label: str = "") -> int:
    """The number of the label that is paid for; `label` may be empty where there is no doubt.

    Raises SettingError that lists the labels.
    """
    labels = labels_of(config)
    lower = [own.casefold() for own in labels]
    if label:
        found = [i for i, own in enumerate(labels) if own == label]
        found = found or [i for i, own in enumerate(lower) if own == label.casefold()]
        if len(found) == 1:
            return found[0]
        raise SettingError(f"{name!r} has no one label {label!r}: {_choices(name, labels)}")
    if len(labels) == 1:
        return 0
    if len(labels) == 2 and set(lower) in CLEAR:
        return 0 if lower[0] in GOOD else 1
    raise SettingError(f"{name!r} does not say which label is good: {_choices(name, labels)}")


def _choices(name: str, labels: list[str]) -> str:
    listed = ", ".join(map(repr, labels[:SHOWN])) + ", …" * (len(labels) > SHOWN)
    ways = " or ".join(f"reward={f'{name}#{label}'!r}" for label in labels[:2])
    return f"it has {listed}; name the one to pay for, {ways}."


def log_odds(logits: torch.Tensor, label: int, problem_type: str | None = None) -> torch.Tensor:
    """(B, L) logits → (B,) the label's logit less the logsumexp of the others: its log-odds.

    The logit alone where there is one, or where the labels do not exclude each other.
    """
    own = logits[:, label]
    if logits.shape[1] == 1 or problem_type in APART:
        return own
    others = torch.cat([logits[:, :label], logits[:, label + 1 :]], dim=1)
    return own - others.logsumexp(1)


def describe_classifier(name: str, label: str = "") -> str:
    """In a few words, without its weights. Raises SettingError or ModelError."""
    config = _with_labels_of_adapter(load_from(AutoConfig, name), Path(name))
    labels = labels_of(config)
    paid = labels[paid_label(name, config, label)]
    if len(labels) == 1:
        return f"classifier {name}, whose one logit is the score (label {paid!r})"
    others = ", ".join(repr(own) for own in labels if own != paid)
    return f"classifier {name}, pays for label {paid!r} (not {others})"


def _with_labels_of_adapter(config, folder: Path):
    """The config, where the folder holds an adapter with as many labels as its head has.

    Raises ModelError for what has no head for a label.
    """
    adapter = folder / "adapter_model.safetensors"
    if adapter.is_file() and not (folder / "config.json").is_file():
        with safe_open(adapter, "pt") as file:
            heads = filter(re.compile(r"(score|classifier).*\.weight$").search, file.keys())
            sizes = [file.get_slice(key).get_shape()[0] for key in heads]
        if not sizes:
            raise ModelError(f"The adapter {str(folder)!r} brings no head that gives a score.")
        config.num_labels = sizes[-1]
        return config
    made_for = getattr(config, "architectures", None) or []
    if made_for and all(re.search(OTHER_WORK, known) for known in made_for):
        raise ModelError(
            f"{str(folder)!r} is no sequence classifier but {', '.join(made_for)}, which gives no "
            "score; if it is an adapter's name, merge the adapter first, and give its folder."
        )
    return config
