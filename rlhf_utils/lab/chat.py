"""Talk to it: one prompt, and the base model, π_SFT and π_RLHF answer beside each other.

Answers come token by token, from the sampler that PPO uses. Left out: a conversation of several
turns, because nothing here was trained on one.
"""

import contextlib
import functools
import html
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..data.rows import Prompt, columns_of, load_prompts
from ..errors import ExplainedError, RunError
from ..evaluation.compare import has_gold, score_answers
from ..models.chat import end_ids, token_texts
from ..models.load import load_model, load_tokenizer, pick_device, pick_dtype
from ..models.sampling import Sampling, sample_many
from ..models.scoring import score_tokens
from ..ppo.policy import Policy, load_policy
from ..reward.functions import load_reward
from ..run.manifest import read_manifest
from ..stats import finite_scores

FULL = 1.0  # nats of log-ratio that get the full colour


@dataclass
class Speaker:
    """Who answers. within: what π_SFT speaks in; reference: what π_RLHF is compared with."""

    name: str
    model: object
    tokenizer: object
    within: Callable = contextlib.nullcontext
    reference: Callable | None = None


@dataclass
class Reply:
    """One answer: its tokens, log π − log π_SFT of each (of π_RLHF alone), and numbers in words."""

    tokens: list[str]
    logratio: list[float] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)


def speakers_of(base, tokenizer, policy: Policy) -> list[Speaker]:
    """Base model, π_SFT and π_RLHF. base: (model, tokenizer); the two others share one model."""
    return [
        Speaker("base", *base),
        Speaker("π_SFT", policy.model, tokenizer, within=policy.reference),
        Speaker("π_RLHF", policy.model, tokenizer, reference=policy.reference),
    ]


@dataclass
class Chat:
    """The speakers, the reward that scores them (None: nobody does), and how they are sampled."""

    speakers: list[Speaker]
    reward: Callable | None = None
    response_length: int = 48
    temperature: float = 0.7
    seed: int = 0  # one more with each question
    lacks: list[str] = field(default_factory=list)  # a sentence on each thing that is missing

    def ask(self, text: str, told: Callable[[int, list[str]], None]) -> Iterator[Reply]:
        """The speakers' answers one after another. Raises ModelError for a prompt too long.

        told: gets the speaker's number and its tokens so far, at each token.
        """
        prompt = known_prompts().get(text, Prompt(text))
        self.seed += 1
        for number, speaker in enumerate(self.speakers):
            with speaker.within():
                samples, reply = self._answer(speaker, text, functools.partial(told, number))
            reply.numbers = self._numbers(prompt, samples.answers)
            if speaker.reference:
                both = score_tokens(speaker.model, samples, self.temperature, speaker.reference)
                reply.logratio = (both["logprobs"] - both["ref_logprobs"])[0].tolist()
                reply.numbers.append(f"KL {both['kl'].sum():.1f} nats")
            yield reply

    def _answer(self, speaker: Speaker, text: str, told: Callable):
        model, tokenizer = speaker.model, speaker.tokenizer
        ends = end_ids(model, tokenizer)

        def texts(ids) -> list[str]:
            return token_texts(tokenizer, ids[0].tolist(), ends)

        settings = Sampling(self.response_length, self.temperature, keep_states=True)
        settings.each = lambda ids: told(texts(ids))
        generator = torch.Generator(model.device).manual_seed(self.seed)
        ((_, samples),) = sample_many(model, tokenizer, [text], settings, generator)
        return samples, Reply(texts(samples.answer_ids))

    def _numbers(self, prompt: Prompt, answers: list[str]) -> list[str]:
        """Reward and gold, as far as they are known."""
        found = []
        if self.reward:
            with contextlib.suppress(ExplainedError):  # it may need columns that only rows have
                columns = columns_of([prompt])
                scores = self.reward(prompts=[prompt.text], completions=answers, **columns)
                score = round(finite_scores(scores, 1)[0], 2) + 0.0  # no -0.00
                found.append(f"reward {score:+.2f}")
        if has_gold([prompt]):
            found.append(f"gold {score_answers([prompt], answers)[0].gold:.2f} of 5")
        return found


@functools.cache
def known_prompts() -> dict[str, Prompt]:
    """The built-in prompts by their text: of these, key points and category are known."""
    found = [prompt for kind in ("prompts", "heldout") for prompt in load_prompts("builtin", kind)]
    return {prompt.text: prompt for prompt in found}


# --- from a run's folder


def load(run: Path) -> Chat:
    """All that the run has of the three. Raises RunError without π_SFT."""
    if not (run / "sft" / "manifest.json").is_file():
        raise RunError(
            f"Run {run.name!r} has nobody to talk to yet, as 01_sft is not finished: "
            f"`rlhf resume {run.name}` goes on with it."
        )
    parameters = read_manifest(run / "sft", "parameters")["parameters"]
    device = pick_device()
    dtype = pick_dtype(parameters["dtype"], device)
    place, name = str(run / "sft" / "policy"), parameters["model"]
    tokenizer, sft = load_tokenizer(place), load_model(place, dtype, device)
    base = load_model(name, dtype, device), load_tokenizer(name)
    chat = Chat([Speaker("base", *base), Speaker("π_SFT", sft, tokenizer)])
    paid_by = "reward_model"
    if (run / "ppo" / "manifest.json").is_file():
        told = read_manifest(run / "ppo", "parameters")
        paid_by, settings = told["parameters"]["reward"], told["settings"]
        chat.speakers = speakers_of(base, tokenizer, load_policy(sft, run / "ppo" / "policy"))
        chat.response_length = settings["response_length"]
        chat.temperature = settings["temperature"]
    else:
        chat.lacks.append("π_RLHF is missing, as 04_ppo of this run is not finished.")
    try:
        chat.reward = load_reward(paid_by, lambda: _trained(run), dtype, device)
    except ExplainedError as error:
        chat.lacks.append(f"Answers get no reward: {error}")
    return chat


def _trained(run: Path) -> Path:
    if not (run / "reward_model" / "manifest.json").is_file():
        raise RunError("03_reward_model is not finished.")
    return run / "reward_model"


# --- in a notebook


def talk(chat: Chat, question: str) -> None:
    """The answers to `question`; and, where somebody can type, a form for more questions."""
    from IPython import get_ipython
    from IPython.display import HTML, display

    replies = list(chat.ask(question, lambda number, tokens: None))
    display(HTML(table(chat, question, replies)))
    kernel = getattr(get_ipython(), "kernel", None)
    if getattr(kernel, "_allow_stdin", False):  # not in papermill and nbval
        display(form(chat))


def form(chat: Chat):
    """A line to type in, a button, and the answers below as they come."""
    import ipywidgets

    line = ipywidgets.Text(placeholder="Ask something", layout={"width": "70%"})
    button, shown = ipywidgets.Button(description="Ask"), ipywidgets.HTML()

    def ask(_) -> None:
        button.disabled, replies = True, []

        def told(number: int, tokens: list[str]) -> None:
            shown.value = table(chat, line.value, [*replies, Reply(tokens)])

        try:
            for reply in chat.ask(line.value, told):
                replies.append(reply)
                shown.value = table(chat, line.value, replies)
        except ExplainedError as error:
            shown.value = html.escape(str(error))
        except KeyboardInterrupt:
            shown.value += "(stopped)"
        finally:
            button.disabled = False

    button.on_click(ask)
    line.on_submit(ask)  # Enter
    return ipywidgets.VBox([ipywidgets.HBox([line, button]), shown])


def table(chat: Chat, question: str, replies: list[Reply]) -> str:
    """HTML with the answers beside each other, π_RLHF's tokens coloured as in the inspector."""
    width = 100 // len(chat.speakers)
    cell = f"style='text-align:left;vertical-align:top;padding:4px 14px 4px 0;width:{width}%'"
    names = "".join(f"<th {cell}>{html.escape(speaker.name)}</th>" for speaker in chat.speakers)
    columns = []
    for reply in replies:
        numbers = " · ".join(map(html.escape, reply.numbers))
        columns.append(f"<td {cell}>{coloured(reply)}<br><small>{numbers}</small></td>")
    return (
        f"<p><b>{html.escape(question)}</b></p><table style='width:100%'><tr>{names}</tr>"
        f"<tr>{''.join(columns)}</tr></table>"
    )


def coloured(reply: Reply) -> str:
    """The tokens as HTML: blue are likelier than under π_SFT, orange less likely."""
    ratios = reply.logratio or [0.0] * len(reply.tokens)
    parts = []
    for text, ratio in zip(reply.tokens, ratios):
        text = html.escape(text).replace("\n", "<br>")
        if ratio:
            rgb = "213,94,0" if ratio < 0 else "0,114,178"
            strength = 0.6 * min(abs(ratio) / FULL, 1)
            style = f"background:rgba({rgb},{strength:.2f});border-radius:3px"
            text = f"<span style='{style}' title='log-ratio {ratio:+.2f}'>{text}</span>"
        parts.append(text)
    return "".join(parts)
