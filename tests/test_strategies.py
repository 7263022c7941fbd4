"""Where a label would tell most: heads against a slow optimum, information by hand, features against one text at a time."""

import math

import pytest
import torch

from rlhf_utils import data, models
from rlhf_utils.strategies import (
    Uncertainty,
    answer_features,
    fit_head,
    information,
    principal_components,
)


def test_fit_head_finds_the_optimum_that_gradient_descent_finds():
    torch.manual_seed(0)
    differences, weights = torch.randn(60, 5), torch.randint(0, 4, (60,)).float()
    prior, slow = torch.randn(5), torch.zeros(5, requires_grad=True)
    optimizer = torch.optim.LBFGS([slow], max_iter=500, tolerance_grad=1e-9)

    def closure():
        optimizer.zero_grad()
        loss = (weights * torch.nn.functional.softplus(-differences @ slow)).sum() + 0.5 * 5 * (
            slow - prior
        ).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.allclose(fit_head(differences, weights, prior), slow.detach(), atol=1e-4)


def test_information_by_hand():
    """Heads that agree tell nothing, sure or unsure; two that are sure of opposite sides: a label is worth log 2."""
    margins = torch.tensor([[0.0, 9.0, 40.0, 1.0], [0.0, 9.0, -40.0, -1.0]])
    p = 1 / (1 + math.exp(-1))
    entropy = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    assert information(margins).tolist() == pytest.approx(
        [0, 0, math.log(2), math.log(2) - entropy], abs=1e-5
    )


def test_principal_components_keep_distances_where_nothing_is_cut():
    torch.manual_seed(1)
    features = {str(n): torch.randn(3, 4) for n in range(20)}
    scores = torch.cat(list(principal_components(features, 4).values()))
    assert scores.shape == (60, 4) and torch.allclose(scores.std(0), torch.ones(4), atol=1e-3)
    assert torch.allclose(torch.corrcoef(scores.T), torch.eye(4), atol=1e-3)


def test_uncertainty_asks_for_what_no_label_has_shown():
    """Labels so far differ along one direction only: items that differ along another are worth more, and refits wait for new labels."""
    torch.manual_seed(2)
    seen = {f"seen{n}": torch.tensor([[float(n % 3), 0.0], [0.0, 0.0]]) for n in range(30)}
    unseen = {f"unseen{n}": torch.tensor([[0.0, 1.0 + n], [0.0, 0.0]]) for n in range(5)}
    rows = [{"item_id": f"seen{n}", "ranks": [1, 2]} for n in range(30) if n % 3]
    uncertainty = Uncertainty(seen | unseen, lambda: rows, every=5)
    worth = uncertainty()
    assert worth["unseen4"] > max(worth[item] for item in seen)
    rows += [{"item_id": "unseen4", "ranks": [1, 2]}] * 4
    assert uncertainty() is worth
    rows += [{"item_id": "unseen4", "ranks": [1, 2]}] * 8
    assert uncertainty()["unseen4"] < worth["unseen4"]  # once it is known, it tells less


def test_without_labels_every_order_is_as_good():
    features = {str(n): torch.randn(2, 3) for n in range(6)}
    assert set(Uncertainty(features, list)()) == set(features)


def test_answer_features_are_those_of_each_text_alone():
    tokenizer, model = models.load_tokenizer("tiny"), models.load_model("tiny")
    items = [
        {"id": "0", "prompt": "Why?", "responses": ["a", "because it is so"]},
        {"id": "1", "prompt": "How do plants drink?", "responses": ["Roots.", "Roots."]},
    ]
    found = answer_features(model, tokenizer, items)
    for item in items:
        for own, answer in zip(found[item["id"]], item["responses"]):
            asked = data.chat_prompt(tokenizer, item["prompt"])
            ids = tokenizer(
                asked + answer + tokenizer.eos_token, add_special_tokens=False, return_tensors="pt"
            )["input_ids"]
            before = len(tokenizer(asked, add_special_tokens=False)["input_ids"]) - 1
            with torch.no_grad():
                states = model.model(ids).last_hidden_state[0]
            wanted = torch.cat(
                [
                    states[-1],
                    states[before],
                    states[min(before + 3, len(states) - 1)],
                    states[before + 1 :].mean(0),
                    states[: before + 1].mean(0),
                ]
            )
            assert torch.allclose(own, wanted, atol=1e-4)
