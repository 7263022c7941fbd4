"""What a prompt looks like to a model, and which tokens end an answer.

Every text is tokenised with add_special_tokens=False: what a tokenizer would add is written here.
"""

import contextlib

from jinja2 import TemplateError

from ..data.rows import messages_of
from ..errors import ModelError

PROBE = "An answer."


def chat_prompt(tokenizer, prompt: str) -> str:
    """The prompt as the model sees it, up to where its answer begins.

    Without a chat template it is the plain text, or a transcript of the conversation, after the
    BOS token where the tokenizer adds one.
    """
    messages = messages_of(prompt)
    if tokenizer.chat_template is None:
        return _after_bos(tokenizer, _transcript(messages))
    return write_chat(tokenizer, messages, add_generation_prompt=True)


def write_chat(tokenizer, messages: list[dict], **options) -> str:
    """The messages under the chat template.

    A system message that it refuses, as Gemma's does, goes to the head of the user's first turn.
    Raises ModelError for a conversation that it refuses all the same.
    """
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except Exception as error:  # a template is a program, which may raise anything
        roles = [message["role"] for message in messages]
        if roles[:2] == ["system", "user"]:
            return write_chat(tokenizer, _without_system(messages), **options)
        raise ModelError(
            "The model's chat template refuses a conversation of these roles: "
            f"{', '.join(roles)} ({error}). "
            f"It begins {messages[0]['content'][:60]!r}: leave it out, or take another model."
        ) from None


def answer_end(tokenizer) -> str:
    """The token that ends an answer: the one after a turn in the chat template, else eos."""
    if tokenizer.chat_template is None:
        return tokenizer.eos_token
    turns = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": PROBE}]
    with contextlib.suppress(TemplateError):
        whole = tokenizer.apply_chat_template(turns, tokenize=False)
        after = tokenizer(whole.rpartition(PROBE)[2], add_special_tokens=False)["input_ids"]
        for token in after:
            if token in _special(tokenizer):
                return tokenizer.convert_ids_to_tokens(token)
    return tokenizer.eos_token


def end_ids(model, tokenizer) -> list[int]:
    """The tokens that end an answer: eos, the template's, and those of the generation config."""
    told = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(answer_end(tokenizer))]
    ends += told if isinstance(told, list) else [told]
    # A config's default may be any number: only special tokens count.
    known = _special(tokenizer)
    return [token for token in dict.fromkeys(ends) if token in known]


def check_room(context: int | None, tokenizer, prompts: list[str], response_length: int) -> None:
    """Raises ModelError for the first prompt that leaves no room for an answer in the context."""
    if context is None:
        return
    for prompt in dict.fromkeys(prompts):
        text = chat_prompt(tokenizer, prompt)
        if len(text.encode()) + response_length <= context:  # a token has a byte or more
            continue
        count = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        if count + response_length > context:
            raise ModelError(
                f"The prompt {prompt[:60]!r} has {count:,} tokens, which with an answer of "
                f"{response_length} are more than the {context:,} that the model takes: shorten "
                "it or leave it out, or give a smaller response_length."
            )


def _special(tokenizer) -> set[int]:
    return {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}


def _without_system(messages: list[dict]) -> list[dict]:
    """The messages with the system message written at the head of the user's first turn."""
    system, user, *rest = messages
    content = f"{system['content']}\n\n{user['content']}"
    return [{"role": "user", "content": content}, *rest]


def _transcript(messages: list[dict]) -> str:
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"].rstrip() + "\n"
    turns = [f"{turn['role'].capitalize()}: {turn['content'].strip()}" for turn in messages]
    return "\n\n".join([*turns, "Assistant:\n"])


def _after_bos(tokenizer, text: str) -> str:
    """The text, begun as the tokenizer would begin it.

    Some tokenizers put a space before a text, but not after a token that is written out.
    """
    ids, bos = tokenizer(text)["input_ids"], tokenizer.bos_token
    if bos is None or ids[:1] != [tokenizer.bos_token_id] or text.startswith(bos):
        return text
    for begun in (bos + text, f"{bos} {text}"):
        own = tokenizer(begun, add_special_tokens=False)["input_ids"]
        if own == ids[: len(own)]:
            return begun
    return bos + text
