"""What a prompt looks like to a model, and which tokens end an answer.

Every text is tokenised with add_special_tokens=False: what a tokenizer would add is written here.
"""

import contextlib

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
    """The messages under the chat template, in the first form of them that it takes.

    Raises ModelError for a conversation that it refuses, or leaves something out of.
    """
    why = ""
    for form in (messages, _without_system(messages), _in_parts(messages)):
        try:
            text = tokenizer.apply_chat_template(form, tokenize=False, **options)
        except Exception as error:  # whatever the template, which is a program, raises
            why = why or f" ({error})"
            continue
        asked = (turn["content"].strip() for turn in messages if turn["role"] != "assistant")
        if all(content in text for content in asked):
            return text
    raise ModelError(
        "The model's chat template cannot write a conversation of these roles: "
        f"{', '.join(message['role'] for message in messages)}{why}. "
        f"It begins {messages[0]['content'][:60]!r}: leave it out, or take another model."
    )


def _without_system(messages: list[dict]) -> list[dict]:
    """The messages with the system message at the head of the user's first turn: Gemma's way."""
    if [message["role"] for message in messages[:2]] != ["system", "user"]:
        return messages
    content = "\n\n".join(message["content"] for message in messages[:2])
    return [{"role": "user", "content": content}, *messages[2:]]


def _in_parts(messages: list[dict]) -> list[dict]:
    """The messages as templates of models that read pictures, too, may want them."""
    return [m | {"content": [{"type": "text", "text": m["content"]}]} for m in messages]


def answer_end(tokenizer) -> str:
    """The token that ends an answer: the one after a turn in the chat template, else eos."""
    if tokenizer.chat_template is None:
        return tokenizer.eos_token
    turns = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": PROBE}]
    for form in (turns, _in_parts(turns)):
        with contextlib.suppress(Exception):
            whole = tokenizer.apply_chat_template(form, tokenize=False)
            _, found, after = whole.rpartition(PROBE)
            for token in tokenizer(after, add_special_tokens=False)["input_ids"] if found else ():
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


def token_texts(tokenizer, ids: list[int], ends: list[int]) -> list[str]:
    """The text of each token of an answer; joined, they are its text and the name of its end.

    A letter of several tokens stands with its last one; special tokens but the end are empty.
    """
    ended = ids[-1:] if ids and ids[-1] in ends else []
    ids = ids[: len(ids) - len(ended)]
    so_far = [tokenizer.decode(ids[:n], skip_special_tokens=True) for n in range(len(ids) + 1)]
    texts, start = [], 0
    for text in so_far[1:]:
        stop = start if text.endswith("\ufffd") else max(start, len(text))
        texts.append(so_far[-1][start:stop])
        start = stop
    if texts:
        texts[-1] += so_far[-1][start:]
    return texts + tokenizer.convert_ids_to_tokens(ended)


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
