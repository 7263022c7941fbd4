"""The reward model: a frozen transformer, and small heads that turn its states into one number.

Several heads make an ensemble for little more than the cost of one.
"""

import contextlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel

from ..data.rows import in_parts
from ..errors import ModelError
from ..files import read_json, write_json
from ..models.export import save_merged
from ..models.load import load_model, load_tokenizer
from .reader import STATES, Reader, States

# (B, m) rewards of m heads → (B,). The cautious two keep PPO from answers that only some heads
# like (Coste 2023, arXiv 2310.02743).
COMBINATIONS = {
    "mean": lambda members: members.mean(1),
    "min": lambda members: members.min(1).values,
    "uncertainty": lambda members: members.mean(1) - members.std(1, unbiased=False),
}

WIDTH = 64  # of the heads' hidden layer


class Standardise(nn.Module):
    """(x − mean) / std of the states that the head learns from; changes nothing before training."""

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


def make_head(size: int, dropout: float) -> nn.Sequential:
    """An MLP: (B, size) states → WIDTH, ReLU → (B, 1) reward, with dropout before both layers.

    The last layer starts with std 1/√(WIDTH + 1) and bias 0 (Stiennon 2020, arXiv 2009.01325).
    """
    last = nn.Linear(WIDTH, 1)
    nn.init.normal_(last.weight, std=1 / (WIDTH + 1) ** 0.5)
    nn.init.zeros_(last.bias)
    return nn.Sequential(
        Standardise(size),
        nn.Dropout(dropout),
        nn.Linear(size, WIDTH),
        nn.ReLU(),
        nn.Dropout(dropout),
        last,
    )


class Heads(nn.ModuleList):
    """Heads side by side: (B, 3·H) states → (B, m) rewards."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return torch.cat([head(states) for head in self], dim=1)


class RewardModel:
    """Scores answers. Only the heads learn, so each text needs to be read only once.

    combine: a key of COMBINATIONS. max_length: see Reader.
    """

    def __init__(
        self,
        backbone: nn.Module,
        tokenizer,
        ensemble: int = 1,
        combine: str = "mean",
        dropout: float = 0.3,
        max_length: int = 512,
    ):
        # The backbone's dropout stays off: its noise would stay in the states for all epochs.
        self.backbone, self.tokenizer = backbone.requires_grad_(False).eval(), tokenizer
        self.reader = Reader(backbone, tokenizer, max_length)
        self.ensemble, self.combine, self.dropout = ensemble, combine, dropout
        self.combined = COMBINATIONS[combine]
        self.heads = self.fresh_heads().eval()
        # Each head's mean less the mean of all heads: a pairwise loss leaves a head's level free.
        self.offsets = torch.zeros(ensemble)
        self.mean, self.std = 0.0, 1.0  # of the raw reward on answers of π_SFT
        self.known: States = {}  # what need not be read again

    def fresh_heads(self) -> Heads:
        """The model's heads as they are before training."""
        size = self.reader.width()
        heads = [make_head(size, self.dropout) for _ in range(self.ensemble)]
        return Heads(heads).to(self.backbone.device)

    @torch.no_grad()
    def members(self, prompts: list[str], answers: list[str]) -> torch.Tensor:
        """(B, m) raw rewards of the m heads, on the CPU and without dropout."""
        texts = list(zip(prompts, answers))
        unread = [text for text in texts if text not in self.known]
        states = self.known | self.reader.read(unread)
        training = self.heads.training
        self.heads.eval()
        rewards = [torch.zeros(0, self.ensemble)]
        for few in in_parts(texts, 512):  # all states at once would be 100 MB or more
            rewards.append(self.heads(torch.stack([states[text] for text in few])).cpu())
        self.heads.train(training)
        return torch.cat(rewards)

    def raw(self, prompts: list[str], answers: list[str]) -> torch.Tensor:
        """(B,) raw rewards, the heads combined, on the CPU."""
        if not prompts:
            return torch.zeros(0)
        return self.combined(self.members(prompts, answers) - self.offsets)

    def score(self, prompts: list[str], completions: list[str], **columns) -> list[float]:
        """Normalised rewards, with the signature of TRL's reward functions."""
        return ((self.raw(prompts, completions) - self.mean) / self.std).tolist()

    __call__ = score  # the model is called like any reward

    def normalise(self, prompts: list[str], answers: list[str]) -> None:
        """Makes `score` have mean 0 and standard deviation 1 on these answers of π_SFT."""
        members = self.members(prompts, answers)
        self.offsets = members.mean(0) - members.mean()
        raw = self.combined(members - self.offsets)
        self.mean, self.std = raw.mean().item(), max(raw.std().item(), 1e-6)

    def save(self, directory: Path) -> None:
        """Writes the backbone as a plain transformers folder, with the heads and settings in it.

        The model reads on as before.
        """

        def tensors() -> list[torch.Tensor]:
            return [*self.backbone.parameters(), *self.backbone.buffers()]

        dtypes = [tensor.dtype for tensor in tensors()]
        save_merged(self.backbone, self.tokenizer, directory)  # turns it into float32
        for tensor, dtype in zip(tensors(), dtypes):
            tensor.data = tensor.data.to(dtype)
        self.backbone.config.use_cache = False
        save_file(self.heads.state_dict(), directory / "head.safetensors")
        settings = {
            "states": STATES,
            "ensemble": self.ensemble,
            "combine": self.combine,
            "max_length": self.reader.max_length,
            "mean": self.mean,
            "std": self.std,
            "offsets": self.offsets.tolist(),
        }
        write_json(directory / "reward_config.json", settings)


def load_reward_model(
    directory: Path, dtype: torch.dtype = torch.float32, device="cpu"
) -> RewardModel:
    """A saved reward model. Raises ModelError for one of an earlier version, or a damaged one."""
    directory = Path(directory)
    with _damage_told(directory / "reward_config.json"):
        settings = {"states": 0} | read_json(directory / "reward_config.json")
    if settings["states"] != STATES:
        raise ModelError(
            f"The reward model in {directory.name}/ was made by an earlier version, whose heads "
            "saw other states: run 03_reward_model again."
        )
    with _damage_told(directory / "head.safetensors"):
        weights = load_file(directory / "head.safetensors")
    backbone = load_model(str(directory), dtype, device, AutoModel)
    tokenizer = load_tokenizer(str(directory))
    with _damage_told(directory / "reward_config.json"):
        model = RewardModel(
            backbone,
            tokenizer,
            ensemble=settings["ensemble"],
            combine=settings["combine"],
            max_length=settings["max_length"],
        )
        model.mean, model.std = float(settings["mean"]), float(settings["std"])
        model.offsets = torch.tensor(settings["offsets"]).reshape(model.ensemble)
    with _damage_told(directory / "head.safetensors"):
        model.heads.load_state_dict(weights)
    return model


@contextlib.contextmanager
def _damage_told(file: Path):
    """Whatever reading the file raises becomes one sentence."""
    try:
        yield
    except Exception as error:
        raise ModelError(
            f"{file.parent.name}/{file.name} is missing or damaged ({type(error).__name__}): "
            "run 03_reward_model again."
        ) from None
