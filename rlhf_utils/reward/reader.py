"""What the reward model's heads see of an answer: states of a frozen transformer.

Whether an answer is good depends on what was asked ("I can't help with that."). So the heads see
not only where the answer ends, but also the prompt, and how the answer begins. They see all of it
at two layers: the last layer is busy with the next word, and some things, such as whether a prompt
is harmful, are plainer in the middle. Left out: recurrent models, such as Mamba.
"""

import copy
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from ..models.load import chat_prompt

STATES = 10  # states that the heads see of an answer: five at each of two layers
MIDDLE = 0.6  # where the middle layer is, as a share of all layers
MOST_TOKENS = 4096  # in one pass, with padding; a pass holds the states of every layer at once

States = dict[tuple[str, str], torch.Tensor]  # (prompt, answer) → (10·H,) what the heads see


@dataclass
class Text:
    """A prompt and its answer, as strings and as token ids; the answer ends the sequence."""

    prompt: str
    answer: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)

    def cut(self, max_length: int) -> "Text":
        """The text without its beginning, if it is too long.

        Where nothing is left of the prompt, the first token left of the answer stands for it.
        """
        ids = (self.prompt_ids + self.answer_ids)[-max_length:]
        split = max(len(ids) - len(self.answer_ids), 1)
        return Text(self.prompt, self.answer, ids[:split], ids[split:])


@dataclass
class PromptStates:
    """What is kept of B prompts, padded on the left to P tokens, to read their answers."""

    rows: dict[tuple[int, ...], int]  # the ids of a prompt → its row
    mask: torch.Tensor  # (B, P) bool, True at real tokens
    cache: DynamicCache  # keys and values of every layer
    ends: list[torch.Tensor]  # of each of the two layers, (B, 1, H) states at the last token
    means: list[torch.Tensor]  # of each of the two layers, (B, H) mean over the prompt


class Reader:
    """Reads answers with a frozen transformer, a prompt only once for all of its answers.

    max_length: in tokens, of prompt and answer together; a longer text loses its beginning.
    """

    def __init__(self, backbone, tokenizer, max_length: int):
        self.backbone, self.tokenizer, self.max_length = backbone, tokenizer, max_length
        self.middle = round(MIDDLE * backbone.config.num_hidden_layers)

    @torch.no_grad()
    def read(self, texts: list[tuple[str, str]], batch_size: int = 32, track=iter) -> States:
        """The states of each different (prompt, answer), computed in batches of like length.

        track: wraps the loop over batches of prompts, to show progress.
        """
        by_prompt: dict[tuple[int, ...], list[Text]] = {}
        for text in self.tokenize(list(dict.fromkeys(texts))):
            text = text.cut(self.max_length)
            by_prompt.setdefault(text.prompt_ids, []).append(text)
        states: States = {}
        for prompts in track(in_batches(list(by_prompt), batch_size)):
            asked = self.read_prompts(prompts)
            answers = [text for prompt in prompts for text in by_prompt[prompt]]
            for few in in_batches(answers, batch_size):
                for text, seen in zip(few, self.read_answers(asked, few)):
                    states[text.prompt, text.answer] = seen
        return states

    def tokenize(self, texts: list[tuple[str, str]]) -> list[Text]:
        """Each (prompt, answer) with its token ids, not yet cut."""
        if not texts:
            return []  # the tokenizer cannot take an empty list
        openings, wholes = [], []
        for prompt, answer in texts:
            opening = chat_prompt(self.tokenizer, prompt)
            openings.append(opening)
            wholes.append(opening + answer + self.tokenizer.eos_token)
        opening_ids = self.tokenizer(openings, add_special_tokens=False)["input_ids"]
        whole_ids = self.tokenizer(wholes, add_special_tokens=False)["input_ids"]
        found = []
        for (prompt, answer), before, ids in zip(texts, opening_ids, whole_ids):
            split = len(before)
            found.append(Text(prompt, answer, tuple(ids[:split]), tuple(ids[split:])))
        return found

    def read_prompts(self, prompts: list[tuple[int, ...]]) -> PromptStates:
        """Reads the token ids of B different prompts."""
        ids, mask = self._pad(prompts, "left")
        cache = DynamicCache(config=self.backbone.config)
        layers = self._run(ids, mask, cache)
        return PromptStates(
            rows={prompt: row for row, prompt in enumerate(prompts)},
            mask=mask,
            cache=cache,
            ends=[layer[:, -1:] for layer in layers],
            means=[mean_over(layer, mask) for layer in layers],
        )

    def read_answers(self, asked: PromptStates, texts: list[Text]) -> torch.Tensor:
        """(N, 10·H) states of the answers of N texts, whose prompts were read before."""
        rows = [asked.rows[text.prompt_ids] for text in texts]
        rows = torch.tensor(rows, device=self.backbone.device)
        ids, mask = self._pad([text.answer_ids for text in texts], "right")
        cache = copy.deepcopy(asked.cache)
        cache.batch_select_indices(rows)
        layers = self._run(ids, torch.cat([asked.mask[rows], mask], dim=1), cache)
        layers = [torch.cat([end[rows], layer], dim=1) for end, layer in zip(asked.ends, layers)]
        return pool(layers, [mean[rows] for mean in asked.means], lengths=mask.sum(1))

    def _pad(self, rows, side: str) -> tuple[torch.Tensor, torch.Tensor]:
        """((B, L) ids, (B, L) bool mask) of rows of token ids."""
        rows = {"input_ids": [list(ids) for ids in rows]}
        padded = self.tokenizer.pad(rows, padding_side=side, return_tensors="pt")
        padded = padded.to(self.backbone.device)
        return padded["input_ids"], padded["attention_mask"].bool()

    def _run(self, ids: torch.Tensor, mask: torch.Tensor, cache) -> list[torch.Tensor]:
        """The (B, L, H) states of the last and of the middle layer for ids that follow the cache.

        mask: also covers what is in the cache. Positions count real tokens only, so that padding
        moves nothing.
        """
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)
        output = self.backbone(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=positions[:, -ids.shape[1] :],
            past_key_values=cache,
            use_cache=True,
            output_hidden_states=True,
        )
        return [output.last_hidden_state, output.hidden_states[self.middle]]


def pool(
    layers: list[torch.Tensor], prompt_means: list[torch.Tensor], lengths: torch.Tensor
) -> torch.Tensor:
    """(B, 10·H) float32, what the heads see of B answers; the last layer first, then the middle.

    layers: (B, 1 + L, H) states of the token before the answer and of its L tokens, with padding.
    prompt_means: (B, H) means over the prompt. lengths: (B,) tokens of the answers.
    """
    rows = torch.arange(len(lengths), device=lengths.device)
    places = torch.arange(layers[0].shape[1], device=lengths.device)
    of_answer = (places > 0) & (places <= lengths[:, None])
    third = lengths.clamp(max=3)
    parts = []
    for layer, prompt_mean in zip(layers, prompt_means):
        ends = [layer[rows, lengths], layer[:, 0], layer[rows, third]]
        parts += [*ends, mean_over(layer, of_answer), prompt_mean]
    return torch.cat([part.float() for part in parts], dim=1)


def mean_over(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(B, H) float32 mean of (B, L, H) states over the (B, L) bool places; 0 if there are none."""
    weights = places.float() / places.sum(1, keepdim=True).clamp(min=1)
    return torch.einsum("bl,blh->bh", weights, states.float())


def in_batches(items: list, batch_size: int) -> list[list]:
    """Batches of at most `batch_size` items and MOST_TOKENS tokens, where len(item) is its tokens.

    The longest come first: what they leave of memory holds the others.
    """
    rest = sorted(items, key=len, reverse=True)
    batches = []
    while rest:
        size = min(batch_size, max(MOST_TOKENS // len(rest[0]), 1))
        batches.append(rest[:size])
        rest = rest[size:]
    return batches
