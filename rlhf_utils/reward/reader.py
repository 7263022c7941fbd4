"""What the reward model's heads see of an answer: states of a frozen transformer.

Three of them: the mean over the answer in the last layer and in a middle one, and the middle state
just before the answer, where the model has read the whole prompt. The last layer is busy with the
next word; in the middle it is plainer whether a prompt is harmful. More states only gave the heads
more to learn by heart (notes/defaults.md).
"""

import copy
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from ..models.kinds import context_of, text_config
from ..models.load import answer_end, chat_prompt

STATES = 3  # states that the heads see of an answer
MIDDLE = 0.6  # where the middle layer is, as a share of all layers
MOST_TOKENS = 1024  # in one pass, with padding; in larger ones more of it would be padding

States = dict[tuple[str, str], torch.Tensor]  # (prompt, answer) → (3·H,) what the heads see


@dataclass
class Text:
    """A prompt and its answer, as strings and as token ids with the end of sequence."""

    prompt: str
    answer: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    length: int  # tokens of the whole text, before it was cut


@dataclass
class PromptStates:
    """What is kept of B prompts, padded on the left to P tokens, to read their answers."""

    rows: dict[tuple[int, ...], int]  # the ids of a prompt → its row
    mask: torch.Tensor  # (B, P) bool, True at real tokens
    cache: DynamicCache  # keys and values of every layer
    middle: torch.Tensor  # (B, H) middle state of the last token


class Reader:
    """Reads answers with a frozen transformer, a prompt only once for all of its answers.

    max_length: in tokens, of prompt and answer together, at most the context of the transformer; a
    longer text loses its beginning.
    """

    def __init__(self, backbone, tokenizer, max_length: int):
        self.backbone, self.tokenizer = backbone, tokenizer
        most = min(max_length, context_of(backbone.config) or max_length)
        self.max_length = max(most, 2)  # a token of the prompt, one of the answer
        self.middle = round(MIDDLE * text_config(backbone.config).num_hidden_layers)

    @torch.no_grad()
    def width(self) -> int:
        """How many numbers `read` gives of a text. A last layer may be narrower, as in OPT-350m."""
        one = torch.ones(1, 1, dtype=torch.int64, device=self.backbone.device)
        last, middle = self._run(one, one.bool(), DynamicCache(config=self.backbone.config))
        return last.shape[-1] + (STATES - 1) * middle.shape[-1]

    @torch.no_grad()
    def read(self, texts: list[tuple[str, str]]) -> States:
        """The states of each different (prompt, answer), computed in batches of like length."""
        by_prompt: dict[tuple[int, ...], list[Text]] = {}
        for text in self.tokenize(list(dict.fromkeys(texts))):
            by_prompt.setdefault(text.prompt_ids, []).append(text)
        states = {}
        for prompts in in_batches(list(by_prompt)):
            asked = self.read_prompts(prompts)
            answers = [text for prompt in prompts for text in by_prompt[prompt]]
            for few in in_batches(answers, lambda text: len(text.answer_ids)):
                for text, seen in zip(few, self.read_answers(asked, few)):
                    states[text.prompt, text.answer] = seen
        return states

    def tokenize(self, texts: list[tuple[str, str]]) -> list[Text]:
        """Each (prompt, answer) with its token ids.

        Where a cut leaves no prompt, the first token left of the answer stands for it.
        """
        if not texts:
            return []  # the tokenizer cannot take an empty list
        end = answer_end(self.tokenizer)
        openings = [chat_prompt(self.tokenizer, prompt) for prompt, _ in texts]
        wholes = [opening + answer + end for opening, (_, answer) in zip(openings, texts)]
        opening_ids = self.tokenizer(openings, add_special_tokens=False)["input_ids"]
        whole_ids = self.tokenizer(wholes, add_special_tokens=False)["input_ids"]
        found = []
        for (prompt, answer), before, ids in zip(texts, opening_ids, whole_ids):
            kept = tuple(ids[-self.max_length :])
            split = max(len(before) - (len(ids) - len(kept)), 1)
            found.append(Text(prompt, answer, kept[:split], kept[split:], len(ids)))
        return found

    def read_prompts(self, prompts: list[tuple[int, ...]]) -> PromptStates:
        """Reads B different prompts, given as token ids."""
        ids, mask = self._pad(prompts, "left")
        rows = {prompt: row for row, prompt in enumerate(prompts)}
        cache = DynamicCache(config=self.backbone.config)
        _, middle = self._run(ids, mask, cache)
        return PromptStates(rows, mask, cache, middle[:, -1])

    def read_answers(self, asked: PromptStates, texts: list[Text]) -> torch.Tensor:
        """(N, 3·H) states of N texts whose prompts were read before."""
        rows = [asked.rows[text.prompt_ids] for text in texts]
        rows = torch.tensor(rows, device=self.backbone.device)
        ids, mask = self._pad([text.answer_ids for text in texts], "right")
        cache = copy.deepcopy(asked.cache)
        cache.batch_select_indices(rows)
        last, middle = self._run(ids, torch.cat([asked.mask[rows], mask], dim=1), cache)
        seen = [mean_over(last, mask), asked.middle[rows].float(), mean_over(middle, mask)]
        return torch.cat(seen, dim=1)

    def _pad(self, rows, side: str) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, L) ids and bool mask."""
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


def mean_over(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(B, H) float32 mean of (B, L, H) states over the (B, L) bool places; 0 if there are none."""
    weights = places.float() / places.sum(1, keepdim=True).clamp(min=1)
    return torch.einsum("bl,blh->bh", weights, states.float())


def in_batches(items: list, tokens=len) -> list[list]:
    """Batches of at most MOST_TOKENS tokens, where tokens(item) are an item's.

    The longest come first: what they leave of memory holds the others.
    """
    rest = sorted(items, key=tokens, reverse=True)
    batches = []
    while rest:
        size = max(MOST_TOKENS // tokens(rest[0]), 1)
        batches.append(rest[:size])
        rest = rest[size:]
    return batches
