"""The reward model: a transformer without its language-model head, and a small head that turns its states into one number a sequence.

Whether an answer is good depends on what was asked ("I can't help with that."), so the head may also see the states of the token
before the answer and of the answer's third token, and the means over the prompt and the answer, and weigh the one by the other in its hidden layer.
It may also see these states halfway up, where the trunk is cut: what the last layer is no longer concerned with, such as whether a
prompt is harmful, is plainer there. And it may be given the number of words, which none of these tells well. Several heads on the same states make an ensemble for little more than the cost of one. Training is in reward_training.py.
Left out: ensembles of whole top layers.
"""

import copy
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification

from ..data.rows import in_parts
from ..errors import ModelError, SettingError
from ..fast.memory import release_freed_memory
from ..fast.trunk import Trunk, share_blocks
from ..models.export import save_merged
from ..models.load import chat_prompt, load_model, load_tokenizer
from ..models.sampling import Samples

SETTINGS = (
    "head",
    "max_length",
    "read_prompt",
    "read_middle",
    "read_length",
    "num_trainable_layers",
    "ensemble",
    "combine",
)  # that are saved with a model
States = dict[
    tuple[str, str], torch.Tensor
]  # (prompt, completion) → (S,) states that the heads read


class RewardModel(nn.Module):
    """Scores sequences; `mean` and `std` of the raw reward on π_SFT samples make `score` read in standard deviations.

    num_trainable_layers: the trunk is cut below that many top blocks, also after loading, when nothing learns; 0: as adapters tell.
    cache_gb: trunk states are kept for training up to this size; texts beyond it are run again at each visit.

    Raises SettingError for parts that do not fit together.
    """

    def __init__(
        self,
        backbone: nn.Module,
        tokenizer,
        head: str = "mlp",
        dropout: float = 0.1,
        max_length: int = 512,
        read_prompt: bool = False,
        read_middle: bool = False,
        read_length: bool = False,
        num_trainable_layers: int = 0,
        ensemble: int = 1,
        combine: str = "mean",
        cache_gb: float = 2.0,
    ):
        super().__init__()
        self.read_prompt = read_prompt  # whether the heads also see the states before the answer and at its third token, and the means over prompt and answer
        self.read_middle = read_middle  # whether they see all these at the trunk's cut too
        self.read_length = read_length  # whether they also see how many words the answer has
        self.backbone, self.tokenizer, self.head, self.max_length = (
            backbone,
            tokenizer,
            head,
            max_length,
        )
        self.num_trainable_layers, self.combine, self.cache_bytes = (
            num_trainable_layers,
            combine,
            cache_gb * 1e9,
        )
        self.dropout, self.ensemble = dropout, ensemble
        self.heads = self.fresh_heads()
        self.offsets = torch.zeros(
            ensemble
        )  # each head's mean less the mean of all: a pairwise loss leaves it free
        self.mean, self.std = 0.0, 1.0
        self.first_states: States = {}  # before the adapters have learned
        self.cache: dict[
            tuple[str, str], tuple[torch.Tensor, int]
        ] = {}  # (prompt, completion) → (L, H) trunk states, tokens after the prompt
        self.lent_cut: int | None = (
            None  # where the states that a policy sampled with enter, see `load_reward_model`
        )
        if read_length and head == "linear":
            raise SettingError(
                "head='linear' reads one state only: give read_length=False, or head='mlp'."
            )
        if ensemble < 1 or combine not in COMBINATIONS:
            raise SettingError(
                f"ensemble={ensemble} must be at least 1, and combine={combine!r} one of {', '.join(COMBINATIONS)}."
            )
        trunk = self.trunk
        if read_middle and not (trunk.splits and 0 < trunk.cut < len(trunk.blocks)):
            raise SettingError(
                f"read_middle=True needs a trunk that ends halfway up, but num_trainable_layers={num_trainable_layers} "
                f"of {backbone.config.num_hidden_layers}: give read_middle=False, or fewer layers that learn."
            )
        if trunk.splits and any(
            p.requires_grad for block in trunk.blocks[: trunk.cut] for p in block.parameters()
        ):
            raise SettingError(
                f"num_trainable_layers={num_trainable_layers}, but blocks below these learn too: give as many to both."
            )

    def fresh_heads(self) -> Heads:
        """The model's `ensemble` heads as they are before training."""
        states = (5 if self.read_prompt else 1) * (2 if self.read_middle else 1)
        heads = [
            make_head(self.backbone.config.hidden_size, self.head, self.dropout, states)
            for _ in range(self.ensemble)
        ]
        return Heads(map(AndLength, heads) if self.read_length else heads).to(self.device)

    @property
    def trunk(self) -> Trunk:
        """The backbone, split below its top `num_trainable_layers` blocks."""
        trunk = Trunk(self.backbone)
        if trunk.splits and self.num_trainable_layers:
            trunk.cut = len(trunk.blocks) - self.num_trainable_layers
        return trunk

    def combined(self, members: torch.Tensor) -> torch.Tensor:
        """(B,) from the (B, m) rewards of the heads."""
        return COMBINATIONS[self.combine](members - self.offsets.to(members.device))

    def states(
        self,
        rows: list[torch.Tensor],
        after: list[int],
        completions: list[str],
        cut: int | None = None,
    ) -> torch.Tensor:
        """(B, S) float32 states that the heads read of B texts: one, five (`read_prompt`) or twice as many (`read_middle`) times H numbers; one more with `read_length`.

        rows: each text's (length, H) trunk states, or what enters block number `cut`. after: how many of its tokens follow the prompt.
        """
        lower, mask = pad_rows(rows)
        lower = lower if cut is None else self.trunk.lower_from(lower, mask, cut)
        last = mask.sum(1) - 1
        before = (last - torch.tensor(after, device=last.device)).clamp(
            min=0
        )  # of a prompt whose end was cut off, the first token left
        layers = [self.trunk.upper(lower, mask), lower][: 1 + self.read_middle]
        prompt = torch.arange(lower.shape[1], device=last.device) <= before[:, None]
        return self.pick(
            layers, [mean_over(layer, prompt) for layer in layers], before, last, completions
        )

    def pick(
        self,
        layers: list[torch.Tensor],
        prompts: list[torch.Tensor],
        before: torch.Tensor,
        last: torch.Tensor,
        completions: list[str],
    ) -> torch.Tensor:
        """(B, S) what the heads read of the (B, L, H) last states, with `read_middle` of those in the middle, and of their (B, H) means over the prompt.

        before, last: (B,) places of the prompt's and the answer's last token. completions: the B answers, whose words count with `read_length`.
        """
        rows = torch.arange(len(last), device=last.device)
        place = torch.arange(layers[0].shape[1], device=last.device)
        answer = (place > before[:, None]) & (place <= last[:, None])
        ends = (last, before, torch.minimum(before + 3, last)) if self.read_prompt else (last,)
        found = []
        for layer, prompt in zip(layers, prompts):
            found += [layer[rows, at].float() for at in ends] + (
                [mean_over(layer, answer), prompt] if self.read_prompt else []
            )
        if self.read_length:
            found.append(
                torch.tensor(
                    [[float(len(text.split()))] for text in completions], device=last.device
                )
            )
        return torch.cat(found, dim=-1)

    @torch.no_grad()
    def read_texts(self, texts: list[tuple[str, str]], batch_size: int = 32, track=iter) -> States:
        """The `states` of each (prompt, completion), where what is alike before the answers is run once for all of them.

        track: wraps the loop over batches of different prompts, to show progress.
        """
        trunk, by_prompt = (
            self.trunk,
            {},
        )  # the ids before the answers → (ids of an answer, its text)
        for text, ids, after in zip(texts, *self.tokens(*zip(*texts))) if texts else ():
            ids = ids[-self.max_length :]
            cut = max(len(ids) - after, 1)  # the beginning that is lost may be the whole prompt
            by_prompt.setdefault(tuple(ids[:cut]), []).append((ids[cut:], text))
        order, found = (
            sorted(by_prompt, key=len, reverse=True),
            {},
        )  # the longest first: what they leave of memory holds the others
        for few in track(in_parts(order, batch_size)):
            prompt = self.tokenizer.pad(
                {"input_ids": [list(ids) for ids in few]}, return_tensors="pt", padding_side="left"
            ).to(self.device)
            mask, cache = prompt["attention_mask"].bool(), trunk.new_cache()
            asked = trunk.both(prompt["input_ids"], mask, cache)[: 1 + self.read_middle]
            ends, means = (
                [layer[:, -1:] for layer in asked],
                [mean_over(layer, mask) for layer in asked],
            )
            answers = sorted(
                ((ids, text, row) for row, ids in enumerate(few) for ids, text in by_prompt[ids]),
                key=lambda answer: -len(answer[0]),
            )
            for part in in_parts(answers, batch_size):
                which, last = (
                    torch.tensor([row for *_, row in part], device=self.device),
                    torch.tensor([len(ids) for ids, *_ in part], device=self.device),
                )
                ids, real = pad_rows([torch.tensor(ids, device=self.device) for ids, *_ in part])
                own = copy.deepcopy(cache)
                own.batch_select_indices(which)
                layers = trunk.both(ids, torch.cat([mask[which], real], dim=1), own)
                layers = [torch.cat([end[which], layer], dim=1) for end, layer in zip(ends, layers)]
                read = [text for _, text, _ in part]
                found |= zip(
                    read,
                    self.pick(
                        layers,
                        [mean[which] for mean in means],
                        torch.zeros_like(last),
                        last,
                        [answer for _, answer in read],
                    ),
                )
        release_freed_memory()
        return found

    def tokens(
        self, prompts: list[str], completions: list[str]
    ) -> tuple[list[list[int]], list[int]]:
        """Token ids of prompt, completion and end-of-sequence, and how many of them follow the prompt."""
        before = [chat_prompt(self.tokenizer, prompt) for prompt in prompts]
        asked = self.tokenizer(before, add_special_tokens=False)["input_ids"]
        texts = [
            start + completion + self.tokenizer.eos_token
            for start, completion in zip(before, completions)
        ]
        whole = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return whole, [len(ids) - len(before) for ids, before in zip(whole, asked)]

    def encode(self, prompts: list[str], completions: list[str]) -> dict:
        """`input_ids` and `attention_mask`, both (B, L), and a list `after`, as `states` takes it; what is too long loses its beginning."""
        whole, after = self.tokens(prompts, completions)
        batch = self.tokenizer.pad(
            {"input_ids": [ids[-self.max_length :] for ids in whole]}, return_tensors="pt"
        ).to(self.device)
        return {**batch, "after": after}

    def cached(self, prompts: list[str], completions: list[str]) -> torch.Tensor:
        """(B, m) rewards of the heads with gradients, from trunk states that are computed once."""
        return self.heads(self.cached_states(prompts, completions))

    def cached_states(self, prompts: list[str], completions: list[str]) -> torch.Tensor:
        """The (B, S) `states`; a text's trunk states are computed at its first visit and kept, in the trunk's dtype."""
        texts = list(zip(prompts, completions))
        known = {text: self.cache[text] for text in texts if text in self.cache}
        if fresh := [text for text in dict.fromkeys(texts) if text not in known]:
            batch = self.encode(*zip(*fresh))
            lower = self.trunk.lower(batch["input_ids"], batch["attention_mask"])
            for text, states, mask, after in zip(
                fresh, lower, batch["attention_mask"].bool(), batch["after"]
            ):
                known[text] = states[mask].clone(), after
                if (
                    self.cache_bytes >= known[text][0].nbytes
                ):  # each pass comes by all texts, so the first ones are as good to keep as any
                    self.cache[text], self.cache_bytes = (
                        known[text],
                        self.cache_bytes - known[text][0].nbytes,
                    )
        return self.states(*zip(*(known[text] for text in texts)), completions)

    def forget(self) -> None:
        """Empties the cache, and what was read before the adapters learned."""
        self.first_states = {}
        self.cache_bytes += sum(states.nbytes for states, _ in self.cache.values())
        self.cache.clear()

    def train(self, mode: bool = True):
        """Only the heads' dropout follows `mode`: the backbone's would make what is cached of it one noisy draw for all epochs."""
        super().train(mode)
        self.backbone.eval()
        return self

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device

    def raw(self, prompts: list[str], completions: list[str], batch_size: int = 32) -> torch.Tensor:
        """(B,) raw rewards on the CPU, computed without dropout over batches of like length; equal texts are computed once."""
        return self.combined(self.members(prompts, completions, batch_size))

    @torch.no_grad()
    def members(
        self, prompts: list[str], completions: list[str], batch_size: int = 32
    ) -> torch.Tensor:
        """(B, m) rewards of the m heads, as `raw` computes them."""
        was_training = self.training
        self.eval()
        texts = list(dict.fromkeys(zip(prompts, completions)))
        known = {} if self.adapters_learned else self.first_states
        states, found = (
            known | self.read_texts([text for text in texts if text not in known], batch_size),
            {},
        )
        for few in in_parts(texts, 512):
            found |= zip(few, self.heads(torch.stack([states[text] for text in few])).cpu())
        self.train(was_training)
        return (
            torch.stack([found[text] for text in zip(prompts, completions)])
            if found
            else torch.zeros(0, self.ensemble)
        )

    @property
    def adapters_learned(self) -> bool:
        """Whether the backbone is no longer what it was made from."""
        return any(p.any() for name, p in self.backbone.named_parameters() if "lora_B" in name)

    def score(self, prompts: list[str], completions: list[str], **columns) -> list[float]:
        """Normalised rewards, with the signature of TRL's reward functions."""
        return ((self.raw(prompts, completions) - self.mean) / self.std).tolist()

    forward = score  # the model is called as any reward is

    @torch.no_grad()
    def score_samples(self, samples: Samples, **columns) -> list[float]:
        """`score` of answers that the policy which lent its trunk has just sampled, from the trunk states that this left behind.

        Answers whose texts do not give the tokens that were sampled (another split into words, or too long) are read anew.
        """
        whole, after = self.tokens(samples.prompts, samples.responses)
        closed = (
            samples.closed(self.tokenizer.eos_token_id)
            if samples.cut == self.lent_cut and samples.ends is not None
            else []
        )
        same = [
            i
            for i, (ids, _) in enumerate(closed)
            if ids == whole[i] and len(ids) <= self.max_length
        ]
        raw = torch.zeros(len(whole))
        for few in in_parts(sorted(same, key=lambda i: len(whole[i])), 32):
            states = self.states(
                [closed[i][1] for i in few],
                [after[i] for i in few],
                [samples.responses[i] for i in few],
                self.lent_cut,
            )
            raw[few] = self.combined(self.heads(states)).cpu()
        if rest := [i for i in range(len(whole)) if i not in same]:
            raw[rest] = self.raw(
                [samples.prompts[i] for i in rest], [samples.responses[i] for i in rest]
            )
        return ((raw - self.mean) / self.std).tolist()

    def normalise(self, prompts: list[str], completions: list[str]) -> None:
        """Sets `mean` and `std` so that `score` has mean 0 and standard deviation 1 on these samples of π_SFT."""
        members = self.members(prompts, completions)
        self.offsets = members.mean(0) - members.mean()
        raw = self.combined(members)
        self.mean, self.std = raw.mean().item(), max(raw.std().item(), 1e-6)

    def save(self, directory: Path) -> None:
        """Writes the backbone (adapters folded in) as a plain transformers directory, and the heads and their settings beside it.

        With one linear head that directory is an AutoModelForSequenceClassification with one label, which gives the raw
        reward of the same tokens to whoever reads such models.
        """
        save_merged(self.backbone, self.tokenizer, directory)
        self.forget()  # folding in may have moved what the trunk is
        if self.head == "linear" and self.ensemble == 1:
            classifier = AutoModelForSequenceClassification.from_pretrained(
                directory, num_labels=1, dtype=torch.float32
            )
            if isinstance(
                getattr(classifier, "score", None), nn.Linear
            ):  # the name in all families that the trunk knows
                classifier.score.weight.data = self.heads[0].weight.detach().float().cpu()
                classifier.save_pretrained(directory)
        save_file(self.heads.state_dict(), Path(directory) / "head.safetensors")
        settings = {name: getattr(self, name) for name in SETTINGS} | {
            "mean": self.mean,
            "std": self.std,
            "offsets": self.offsets.tolist(),
        }
        (Path(directory) / "reward_config.json").write_text(json.dumps(settings, indent=1))


def pad_rows(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """((B, L, H) states padded on the right, (B, L) bool mask) from rows of (length, H)."""
    states = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    lengths = torch.tensor([[len(row)] for row in rows], device=states.device)
    return states, torch.arange(states.shape[1], device=states.device) < lengths


def load_reward_model(
    directory: Path, dtype: torch.dtype = torch.float32, device="cpu", trunk_of=None
) -> RewardModel:
    """A saved reward model, in evaluation mode. Raises ModelError for heads of another shape.

    trunk_of: a policy; where its frozen lower blocks hold the same weights, the reward model takes these very modules for its own, and
    `score_samples` goes on from the states that the policy sampled with.
    """
    settings = json.loads((Path(directory) / "reward_config.json").read_text())
    backbone = load_model(str(directory), dtype, device, AutoModel).requires_grad_(False)
    model = RewardModel(
        backbone,
        load_tokenizer(str(directory)),
        **{name: settings[name] for name in SETTINGS if name in settings},
    )
    try:
        model.heads.load_state_dict(load_file(Path(directory) / "head.safetensors"))
    except RuntimeError:
        raise ModelError(
            f"The head in {Path(directory).name}/ is not of the shape that this version makes: run 03_reward_model again."
        ) from None
    model.mean, model.std, model.offsets = (
        settings["mean"],
        settings["std"],
        torch.tensor(settings["offsets"]),
    )
    if trunk_of is not None:
        model.lent_cut = share_blocks(model.trunk, Trunk(trunk_of))
    return model.eval()


"""The reward model's heads: from states of the backbone, or their means, to one number, and from several heads' numbers to one."""


# (B,) from the (B, m) rewards of m heads. The cautious two keep PPO from answers that only some heads like (Coste 2023, arXiv 2310.02743).
COMBINATIONS = {
    "mean": lambda members: members.mean(1),
    "min": lambda members: members.min(1).values,
    "uncertainty": lambda members: members.mean(1) - members.std(1, unbiased=False),
}


def mean_over(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(B, H) float32 mean of the (B, L, H) states over the (B, L) bool places; 0 where there are none."""
    weights = places.float() / places.sum(1, keepdim=True).clamp(min=1)
    return torch.einsum("bl,blh->bh", weights, states.float())


class Standardise(nn.Module):
    """x less the mean, over the standard deviation, of the states that the head learns from; does nothing until these are known."""

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


class AndLength(nn.Module):
    """A head's reward of the states, and a curve over the number of words, which comes last in (B, S + 1) input: states tell it badly.

    The curve is a sum of steps at 2 to 360 words, flat at first, and beyond what it has learned from.
    """

    def __init__(self, head: nn.Module):
        super().__init__()
        self.register_buffer("words", 2 ** (1 + torch.arange(46) / 6), persistent=False)
        self.head, self.curve = head, nn.Linear(len(self.words), 1, bias=False)
        nn.init.zeros_(self.curve.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x[:, :-1]) + self.of_length(x[:, -1])

    def of_length(self, words: torch.Tensor) -> torch.Tensor:
        """(B, 1) the reward for (B,) numbers of words alone."""
        return 10 * self.curve(
            (words[:, None] > self.words).float()
        )  # 10: Adam would move these few weights too slowly beside the head's many


def make_head(hidden_size: int, kind: str, dropout: float = 0.1, states: int = 1) -> nn.Module:
    """ "mlp": states·hidden, standardised → hidden, ReLU, → 1, with dropout before both layers; "linear": hidden → 1.

    The last layer starts with std 1/√(d+1) and bias 0; a linear head has no bias at all, as sequence classifiers have none.

    Raises SettingError for another kind, and for a linear head over several states.
    """
    if kind not in ("mlp", "linear"):
        raise SettingError(f"head={kind!r} is unknown: give 'mlp' or 'linear'.")
    if kind == "linear" and states > 1:
        raise SettingError(
            "head='linear' reads one state only: give read_prompt=False and read_middle=False, or head='mlp'."
        )
    last = nn.Linear(hidden_size, 1, bias=kind == "mlp")
    nn.init.normal_(last.weight, std=1 / (hidden_size + 1) ** 0.5)
    if kind == "linear":
        return last
    nn.init.zeros_(last.bias)
    size = states * hidden_size
    return nn.Sequential(
        Standardise(size),
        nn.Dropout(dropout),
        nn.Linear(size, hidden_size),
        nn.ReLU(),
        nn.Dropout(dropout),
        last,
    )


class Heads(nn.ModuleList):
    """Heads side by side: (B, m) rewards from the (B, S) states that all m of them read."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return torch.cat([head(states) for head in self], dim=1)
