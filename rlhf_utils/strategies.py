"""Which item's label would tell most: the one on which small reward models, each of a bootstrap of the labels so far, disagree.

The models are linear in features of the answers (Bradley and Terry 1952 with a ridge), so that a refit takes a fraction of a second
and no annotator waits. Whether this beats asking at random is measured by tests/benchmarks/label_strategies.py.
Left out: choosing several items at once for their variety; sampling answers that differ.
"""

from collections.abc import Callable

import torch
from torch.distributions import Bernoulli

from .preferences import ranking_to_pairs
from .reward import RewardModel

DIMENSIONS = 64  # principal components of the features that the heads see


def answer_features(model, tokenizer, items: list[dict], track=iter) -> dict[str, torch.Tensor]:
    """Item id → (k, 5H) float32: the model's last states at each answer's end, before it and at its third token, and their means over answer and prompt."""
    texts = [(item["prompt"], answer) for item in items for answer in item["responses"]]
    found = RewardModel(model, tokenizer, read_prompt=True).read_texts(
        list(dict.fromkeys(texts)), track=track
    )
    return {
        item["id"]: torch.stack(
            [found[item["prompt"], answer] for answer in item["responses"]]
        ).cpu()
        for item in items
    }


def principal_components(
    features: dict[str, torch.Tensor], count: int = DIMENSIONS
) -> dict[str, torch.Tensor]:
    """Item id → (k, count) scores on the first principal components, of standard deviation 1 each, from item id → (k, D) features."""
    from sklearn.decomposition import PCA

    table = torch.cat(list(features.values())).float()
    pca = PCA(min(count, *table.shape), random_state=0)  # of many features it draws
    scores = torch.from_numpy(pca.fit_transform((table / (table.std(0) + 1e-3)).numpy()))
    scores = scores / (scores.std(0) + 1e-6)
    return dict(zip(features, scores.split([len(value) for value in features.values()])))


def fit_head(
    differences: torch.Tensor,
    weights: torch.Tensor,
    prior: torch.Tensor | float = 0.0,
    steps: int = 50,
) -> torch.Tensor:
    """(D,) w that minimises Σ weights·softplus(−differences·w) + D/2·|w − prior|²; differences are (N, D) chosen − rejected.

    The price D makes margins of standardised features some 1.4 before any label. Each step solves with an upper bound of the curvature,
    which is the same for all and never overshoots (Böhning and Lindsay 1988).
    """
    size = differences.shape[1]
    w = differences.new_zeros(size) + prior
    bound = torch.linalg.cholesky(
        differences.T @ (differences * weights[:, None]) / 4 + size * torch.eye(size)
    )
    for _ in range(steps):
        wrong = torch.sigmoid(-(differences @ w))
        gradient = size * (w - prior) - differences.T @ (weights * wrong)
        w = w - torch.cholesky_solve(gradient[:, None], bound)[:, 0]
    return w


def information(margins: torch.Tensor) -> torch.Tensor:
    """(N,) nats that a label is expected to tell which of the heads is right, from their (heads, N) margins: H(mean p) − mean H(p).

    (Houlsby 2011, arXiv 1112.5745.)
    """
    return Bernoulli(torch.sigmoid(margins).mean(0)).entropy() - Bernoulli(
        logits=margins
    ).entropy().mean(0)


class Uncertainty:
    """Item id → the information that ranking its answers is expected to give, averaged over its pairs. Refits after every few new labels."""

    def __init__(
        self,
        features: dict[str, torch.Tensor],
        labels: Callable[[], list[dict]],
        heads: int = 16,
        every: int = 10,
        seed: int = 0,
    ):
        """features: of each item's (k, D) answers. labels: gives the rankings so far (LabelStore.rows)."""
        self.features, self.labels, self.heads, self.every, self.seed = (
            principal_components(features),
            labels,
            heads,
            every,
            seed,
        )
        self.fitted_at, self.worth = -1, {}

    def __call__(self) -> dict[str, float]:
        rows = [row for row in self.labels() if row["item_id"] in self.features]
        if self.fitted_at < 0 or len(rows) >= self.fitted_at + self.every:
            self.fitted_at, self.worth = len(rows), self._measure(rows)
        return self.worth

    def _measure(self, rows: list[dict]) -> dict[str, float]:
        pairs = [
            (number, self.features[row["item_id"]][better] - self.features[row["item_id"]][worse])
            for number, row in enumerate(rows)
            for better, worse in ranking_to_pairs(row["ranks"])
        ]
        generator = torch.Generator().manual_seed(self.seed)
        if not pairs:  # nothing is known: any order is as good as another
            return dict(
                zip(self.features, torch.rand(len(self.features), generator=generator).tolist())
            )
        owner, differences = (
            torch.tensor([number for number, _ in pairs]),
            torch.stack([difference for _, difference in pairs]),
        )
        drawn = [
            torch.bincount(
                torch.randint(len(rows), (len(rows),), generator=generator), minlength=len(rows)
            )
            for _ in range(self.heads)
        ]
        # Each head is held to a random prior of its own, else all would agree where no label has been (Osband 2018, arXiv 1806.03335).
        priors = (
            torch.randn(self.heads, differences.shape[1], generator=generator)
            / differences.shape[1] ** 0.5
        )
        heads = torch.stack(
            [
                fit_head(differences, counts[owner].float(), prior=prior)
                for counts, prior in zip(drawn, priors)
            ]
        )
        worth = {}
        for item, states in self.features.items():
            first, second = torch.combinations(torch.arange(len(states)), 2).T
            worth[item] = information(heads @ (states[first] - states[second]).T).mean().item()
        return worth
