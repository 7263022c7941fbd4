"""The report card as a table in plain words, as bars, and as results of the run."""

import math

from .refusals import KINDS
from .report_card import FEWEST_PAIRS

RESULTS = ("accuracy", "accuracy_ci", "accuracy_ood", "accuracy_ood_ci", "ceiling", "longer")
RESULTS += ("bag_of_words", "prefers_direct", "ece", "ece_raw", "temperature")
RESULTS += ("length_correlation", "refusal_auc", "refusal_auc_learned")


def results(report: dict) -> dict:
    """What the run's results keep of the report card."""
    return {f"reward_model.{name}": report[name] for name in RESULTS}


def accuracies(report: dict) -> list[tuple]:
    """(name, accuracy, interval or None) of the model, of simple rules and of the ceiling."""
    bars = [
        ("reward model", report["accuracy"], report["accuracy_ci"]),
        ("other categories", report["accuracy_ood"], report["accuracy_ood_ci"]),
        ("single words", report["bag_of_words"], None),
        ("always longer", report["longer"], None),
        ("always shorter", 1 - report["longer"], None),
        ("ceiling", report["ceiling"], None),
    ]
    return [bar for bar in bars if not math.isnan(bar[1])]


def rows(report: dict) -> list[dict]:
    """One row a question, in plain words; what is not known is left out."""
    apart = f"the labels {report['labels_prefer_direct']:.1%} ({report['direct_pairs']} pairs)"
    by_category = report["prefers_refusing"]
    asked = f"{sum(row['prompts'] for row in by_category if row['category'] in KINDS)} prompts"
    if not math.isnan(report["refusal_auc_learned"]):
        asked += f"; {report['refusal_auc_learned']:.2f} on those it learned from"
    questions = [
        ("Pairs ordered as labelled", "accuracy", ".1%", _between(report["accuracy_ci"])),
        ("… in other categories", "accuracy_ood", ".1%", _between(report["accuracy_ood_ci"])),
        ("… by the hidden rubric", "ceiling", ".1%", "the ceiling: the rest is noise"),
        ("… by a rule on single words", "bag_of_words", ".1%", "needs no language model"),
        ("… by “the longer answer wins”", "longer", ".1%", "a coin has 50%"),
        ("The answer without filler preferred", "prefers_direct", ".1%", apart),
        ("When to refuse, AUC", "refusal_auc", ".2f", asked),
        ("Reward and length, correlation", "length_correlation", "+.2f", "within a prompt"),
    ]
    found = []
    for question, name, form, beside in questions:
        value = report[name]
        if name == "bag_of_words" and math.isnan(value):
            found.append({"held out": question, "value": "–", "beside it": "too few shared words"})
        elif not math.isnan(value):
            found.append({"held out": question, "value": f"{value:{form}}", "beside it": beside})
    value, beside = _calibration(report)
    return [*found, {"held out": "How sure minus how right", "value": value, "beside it": beside}]


def _between(interval) -> str:
    low, high = interval
    return f"95% interval {low:.1%} to {high:.1%}"


def _calibration(report: dict) -> tuple[str, str]:
    """The calibration error, and what comes of it once the margins are scaled."""
    for pairs, kind in ((report["pairs"], "held-out"), (report["validation_pairs"], "validation")):
        if pairs < FEWEST_PAIRS:
            return "too few to say", f"{pairs} {kind} pairs; {FEWEST_PAIRS} are needed"
    scaled = f"{report['ece']:.1%} with margins divided by {report['temperature']:.2f}"
    return f"{report['ece_raw']:.1%}", scaled
