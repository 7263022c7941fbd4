"""Samples answers in batches, with their float32 log-probabilities.

Sampling is plain: no top-k, no top-p, no minimum length, whatever the model's generation_config
says. PPO's ratio is right only if the distribution that is sampled is the one that is trained.
Left out: beam search, speculative decoding, static caches and CUDA graphs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..data.rows import in_parts
from ..errors import SettingError
from ..fast import Trunk, decoder
from ..interrupts import stop as stop_if_interrupted
from .chat import chat_prompt, check_room, end_ids
from .drawing import draw_tokens
from .kinds import context_of

# after how many tokens ended rows are looked for; looking makes a GPU wait for the host
CHECK_EVERY = {"cuda": 8}


@dataclass
class Samples:
    """B prompts and their answers, P prompt tokens and T answer tokens wide."""

    prompts: list[str]
    prompt_ids: Tensor  # (B, P) int64, padded on the left
    prompt_mask: Tensor  # (B, P) bool, False on padding
    answer_ids: Tensor  # (B, T) int64, padded on the right
    answer_mask: Tensor  # (B, T) bool, True up to the token that ends the answer, included
    logprobs: Tensor  # (B, T) float32, 0 on padding
    ended: Tensor  # (B,) bool, True where a token that ends an answer was sampled
    answers: list[str]  # decoded, without special tokens
    # (B, P + T − 1, H) the frozen lower blocks' states of all tokens but the last. They are the ids
    # (B, P + T − 1) for a model that runs whole, and None if no states were kept.
    trunk: Tensor | None
    cut: int  # the first block that has not yet run on `trunk`

    @property
    def predicting(self) -> Tensor:
        """(B, P + T − 1) bool, True for each token that another real token follows."""
        return torch.cat([self.prompt_mask, self.answer_mask[:, 1:]], dim=1)

    def parts(self, rows: Tensor, size: int) -> tuple[Tensor, ...]:
        """The row numbers in parts of `size` and of like length, so that little is padded."""
        lengths = self.predicting[rows].sum(1)
        return rows[lengths.argsort(stable=True)].split(size)


@dataclass
class Sampling:
    """The settings of `sample_many` and `sample_answers`."""

    max_new_tokens: int  # of an answer
    temperature: float | list[float]  # above 0; one number, or one for each prompt
    batch_size: int = 64  # prompts answered at once
    keep_states: bool = False  # keep what scoring.py reads
    # For each prompt: must its answer start with another token than the batch's other answers to it
    # that are not apart? `logprobs` are those of this narrower choice.
    apart: list[bool] | None = None
    # Place in the prompts → answer, filled batch after batch. What is there already is not asked
    # again: so an interrupted call goes on, with the same generator.
    answers: dict[int, str] | None = None
    # Called after each step with the batch's answers so far, (B, step + 1) token ids.
    each: Callable[[Tensor], None] | None = None


def sample(
    model,
    tokenizer,
    prompts: list[str],
    max_new_tokens: int,
    temperature: float | list[float],
    generator: torch.Generator,
) -> Samples:
    """One answer to each prompt, all in one batch, with the states that scoring.py reads.

    Raises SettingError for a temperature of 0 or less, ModelError for a prompt that is too long.
    """
    check_room(context_of(model.config), tokenizer, prompts, max_new_tokens)
    settings = Sampling(max_new_tokens, temperature, keep_states=True)
    return _sample_batch(model, tokenizer, prompts, settings, generator)


def sample_many(
    model, tokenizer, prompts: list[str], settings: Sampling, generator, track=iter
) -> Iterator[tuple[list[int], Samples]]:
    """(places in `prompts`, their Samples) of one batch after another.

    A batch holds prompts of like length, so that little is padded. `track` wraps the loop over the
    batches to show progress. Raises ModelError for a prompt that is too long.
    """
    check_room(context_of(model.config), tokenizer, prompts, settings.max_new_tokens)
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers = {} if settings.answers is None else settings.answers
    for places in track(in_parts(by_length, settings.batch_size)):
        if places[-1] in answers:
            continue
        before = generator.get_state()
        temperature, apart = _pick(settings.temperature, places), _pick(settings.apart, places)
        here = replace(settings, temperature=temperature, apart=apart)
        asked = [prompts[i] for i in places]
        try:
            samples = _sample_batch(model, tokenizer, asked, here, generator)
            answers.update(zip(places, samples.answers))
        except BaseException:
            if places[-1] not in answers:
                generator.set_state(before)
            raise
        yield places, samples


def _pick(values, places: list[int]):
    return [values[i] for i in places] if isinstance(values, list) else values


def sample_answers(
    model, tokenizer, prompts: list[str], settings: Sampling, generator, track=iter
) -> list[str]:
    """The texts that `sample_many` gives, in the order of `prompts`.

    Interrupted and called again with the same `settings.answers` and generator, it goes on with
    the batch that was not finished, and draws what it would have drawn.
    """
    answers = {} if settings.answers is None else settings.answers
    settings = replace(settings, answers=answers)
    for _ in sample_many(model, tokenizer, prompts, settings, generator, track):
        pass
    return [answers[place] for place in range(len(prompts))]


def sample_several(
    model, tokenizer, prompts: list[str], settings: Sampling, contrast: bool, generator, track=iter
) -> list[list[str]]:
    """Answers to choose from: one to each prompt at each of the temperatures in `settings`.

    contrast: the last answer to a prompt starts with another token than the others to it.
    """
    count = len(settings.temperature)
    asked = [prompt for prompt in prompts for _ in range(count)]
    apart = ([False] * (count - 1) + [contrast]) * len(prompts)
    batch_size = max(settings.batch_size // count, 1) * count  # a prompt's answers in one batch
    temperatures = settings.temperature * len(prompts)
    settings = replace(settings, temperature=temperatures, apart=apart, batch_size=batch_size)
    answers = sample_answers(model, tokenizer, asked, settings, generator, track)
    return in_parts(answers, count)


@torch.no_grad()
def _sample_batch(model, tokenizer, prompts: list[str], settings: Sampling, generator) -> Samples:
    batch = _Batch(model, tokenizer, prompts, settings)
    with batch.trunk.mixed():
        hidden = batch.read_prompts()
        for step in range(settings.max_new_tokens):
            stop_if_interrupted()
            tokens = batch.draw(hidden, step, generator)
            if settings.each:
                settings.each(batch.answer_ids[:, : step + 1])
            if step + 1 == settings.max_new_tokens:
                break
            if (step + 1) % CHECK_EVERY.get(model.device.type, 1) == 0:
                if batch.ended.all():
                    break
                tokens = batch.drop_ended_rows(tokens, step)
            hidden = batch.read_tokens(tokens, step)
    return batch.finish()


class _Batch:
    """B answers while they are sampled, with the names of `Samples`.

    Rows that have ended are dropped now and then; `active` holds the numbers of those that are
    left. The tokens and hidden states of a step have a row for each of them.
    """

    def __init__(self, model, tokenizer, prompts: list[str], settings: Sampling):
        self.tokenizer = tokenizer
        self.prompts = prompts
        self.settings = settings
        self.trunk = Trunk(model)
        self.device = model.device
        self.temperatures = torch.as_tensor(
            settings.temperature, dtype=torch.float32, device=self.device
        ).expand(len(prompts))
        if (self.temperatures <= 0).any():
            raise SettingError(
                f"temperature={settings.temperature} must be above 0: sampling at 0 has no "
                "log-probabilities to train on."
            )
        size = (len(prompts), settings.max_new_tokens)
        self.answer_ids = torch.full(size, tokenizer.pad_token_id, device=self.device)
        self.answer_mask = torch.zeros(size, dtype=torch.bool, device=self.device)
        self.logprobs = torch.zeros(size, device=self.device)
        self.ended = torch.zeros(len(prompts), dtype=torch.bool, device=self.device)
        self.active = torch.arange(len(prompts), device=self.device)
        self.ends = torch.tensor(end_ids(model, tokenizer), device=self.device)

    def read_prompts(self) -> Tensor:
        """(B, H) states that predict the first tokens. Each different prompt is read once."""
        numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(self.prompts))}
        encoded = self.tokenizer(
            [chat_prompt(self.tokenizer, prompt) for prompt in numbers],
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,
        ).to(self.device)
        ids, mask = encoded["input_ids"], encoded["attention_mask"].bool()
        cache = self.trunk.new_cache()
        hidden, states = self.trunk.extend(ids, mask, cache)

        # which of the different prompts each row asks; from here on, a row for each answer
        self.number = torch.tensor([numbers[p] for p in self.prompts], device=self.device)
        self.prompt_ids, self.prompt_mask = ids[self.number], mask[self.number]
        cache.batch_select_indices(self.number)
        self.decoder = decoder(self.trunk, cache, self.prompt_mask)
        if self.settings.keep_states:
            rows, width = self.prompt_ids.shape
            length = width + self.settings.max_new_tokens - 1
            self.states = states.new_zeros(rows, length, *states.shape[2:])
            self.states[:, :width] = states[self.number]
        return hidden[self.number, -1]

    def draw(self, hidden: Tensor, step: int, generator) -> Tensor:
        """The next token of each active row, drawn and recorded."""
        rows = self.active
        logits = self.trunk.logits(hidden, self.temperatures[rows, None])
        tokens, logprobs = draw_tokens(logits, generator)
        if step == 0 and self.settings.apart:
            self._draw_apart(logits, tokens, logprobs, generator)

        real = ~self.ended[rows]
        self.answer_ids[rows, step] = tokens.where(real, self.tokenizer.pad_token_id)
        self.answer_mask[rows, step] = real
        self.logprobs[rows, step] = logprobs.where(real, 0.0)
        self.ended[rows] = ~real | torch.isin(tokens, self.ends)
        return tokens

    def _draw_apart(self, logits, tokens, logprobs, generator) -> None:
        """Draws the first tokens of answers that are to start differently once more, in place."""
        apart = torch.tensor(self.settings.apart, device=self.device)
        taken = torch.zeros_like(logits, dtype=torch.bool)  # a row for each different prompt
        taken[self.number[~apart], tokens[~apart]] = True
        free = logits[apart].masked_fill_(taken[self.number[apart]], -torch.inf)
        tokens[apart], logprobs[apart] = draw_tokens(free, generator)

    def drop_ended_rows(self, tokens: Tensor, step: int) -> Tensor:
        """The tokens of the rows that go on. Drops a quarter or more, as a copy costs a step."""
        going = ~self.ended[self.active]
        if self.settings.keep_states:
            # an ended row stays one step longer: a seed's draws depend on it
            going = self.answer_mask[self.active, step]
        going = going.nonzero()[:, 0]
        if len(going) > 0.75 * len(self.active):
            return tokens
        self.decoder.keep(going)
        self.active = self.active[going]
        return tokens[going]

    def read_tokens(self, tokens: Tensor, step: int) -> Tensor:
        """(rows, H) states that predict the next tokens."""
        hidden, states = self.decoder.step(tokens)
        if self.settings.keep_states:
            self.states[self.active, self.prompt_ids.shape[1] + step] = states
        return hidden

    def finish(self) -> Samples:
        """The samples, as wide as the longest answer."""
        del self.decoder  # its keys and values are most of what sampling holds
        self.trunk.free_memory()
        length = int(self.answer_mask.sum(1).max())
        answer_ids = self.answer_ids[:, :length]
        ids = [row[mask].tolist() for row, mask in zip(self.answer_ids, self.answer_mask)]
        ends = set(self.ends.tolist())  # special or not
        ids = [row[:-1] if row[-1] in ends else row for row in ids]
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        trunk = None
        if self.settings.keep_states:
            trunk = self.states[:, : self.prompt_ids.shape[1] + length - 1].clone()
        return Samples(
            prompts=self.prompts,
            prompt_ids=self.prompt_ids,
            prompt_mask=self.prompt_mask,
            answer_ids=answer_ids,
            answer_mask=self.answer_mask[:, :length],
            logprobs=self.logprobs[:, :length],
            ended=self.ended,
            answers=[text.strip() for text in texts],
            trunk=trunk,
            cut=self.trunk.cut,
        )
