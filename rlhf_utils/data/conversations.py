"""Conversations: messages in, whatever their spelling, and as one text that holds them all."""

MARK = "\u2063"  # invisible; begins each turn of a conversation that is written as one text
ROLES = ("system", "user", "assistant")

# as OpenAI, ShareGPT, OASST and Gemma call them → ROLES
ROLE_OF = {
    "developer": "system",
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
ROLE_OF |= {role: role for role in ROLES}

MOST_LETTERS = 200_000  # of one text; a prompt of 1 MB would ask for 40 GB of memory


# --- as one text


def conversation(messages: list[dict]) -> str:
    """The messages {"role", "content"} as one text, from which `messages_of` gets them back.

    A single message of a user is its plain text. Several read like a transcript, `User: …`, with
    an invisible MARK before each turn.
    """
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    turns = [f"{MARK}{turn['role'].capitalize()}: {turn['content']}" for turn in messages]
    return "\n\n".join(turns)


def messages_of(text: str) -> list[dict]:
    """The messages of a prompt's text; a plain text is one message of the user."""
    if not text.startswith(MARK):
        return [{"role": "user", "content": text}]
    messages = []
    for turn in text[len(MARK) :].split(f"\n\n{MARK}"):
        role, _, content = turn.partition(": ")
        messages.append({"role": role.lower(), "content": content})
    return messages


def readable(text: str) -> str:
    """The text of a prompt for people: without the invisible marks."""
    return text.replace(MARK, "")


def written_turns(text: str) -> list[dict]:
    """messages_of a text that somebody brought. Raises ValueError for a MARK that is not ours."""
    messages = messages_of(text)
    if MARK in text:
        roles = {turn["role"] for turn in messages}
        marks = sum(turn["content"].count(MARK) for turn in messages)
        if marks or not roles <= set(ROLES) or conversation(messages) != text:
            raise ValueError(
                "it holds the invisible character U+2063, which marks the turns of conversations "
                "here"
            )
    return messages


# --- texts


def described(value) -> str:
    """What a value is, in words and without its content: never is a repr taken for a text."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"a truth value ({value})"
    if isinstance(value, (int, float)):
        return f"a number ({str(value)[:40]})"
    if isinstance(value, dict):
        names = ", ".join(repr(str(name)[:40]) for name in list(value)[:5])
        return f"an object with {names}" if names else "an empty object"
    if isinstance(value, (list, tuple)):
        kinds = {bool: "truth values", int: "numbers", float: "numbers", str: "texts"}
        return f"a list of {kinds.get(type(value[0]), 'objects')}" if value else "an empty list"
    return "a text" if isinstance(value, str) else type(value).__name__


def check_letters(text: str) -> None:
    """Raises ValueError for a text that no file or tokenizer could hold."""
    if len(text) > MOST_LETTERS:
        raise ValueError(f"it has {len(text):,} characters; at most {MOST_LETTERS:,} are read")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"it holds half a character (a lone surrogate) at place {error.start + 1}"
        ) from None


def text_of(value) -> str:
    """A text, or the texts of content parts, a line each. Raises ValueError for all else."""
    if is_part(value):
        value = [value]
    if isinstance(value, list) and value and all(map(is_part, value)):
        value = "\n".join(map(_text_of_part, value))
    if not isinstance(value, str):
        raise ValueError(f"it is {described(value)}, not a text")
    check_letters(value)
    return value


def is_part(value) -> bool:
    """Whether it is a content part such as {"type": "text", "text": …}."""
    return isinstance(value, dict) and isinstance(value.get("type"), str) and "role" not in value


def _text_of_part(part: dict) -> str:
    if part["type"] not in ("text", "input_text", "output_text"):
        raise ValueError(f"it has a part of type {part['type'][:40]!r}; only texts can be used")
    if not isinstance(part.get("text"), str):
        raise ValueError(f"it has a part whose text is {described(part.get('text'))}")
    return part["text"]


# --- messages


def is_message(value) -> bool:
    return isinstance(value, dict) and (
        ("role" in value and ("content" in value or "tool_calls" in value))
        or ("from" in value and "value" in value)
    )


def are_messages(value) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_message, value))


def turn_of(message: dict) -> dict:
    """A message of OpenAI's or ShareGPT's spelling as {"role", "content"}.

    Raises ValueError for roles other than ROLE_OF, calls of tools, and content that is no text.
    """
    named, content = ("role", "content") if "role" in message else ("from", "value")
    role = message[named]
    known = ROLE_OF.get(role.strip().lower()) if isinstance(role, str) else None
    if known is None:
        role = repr(role[:40]) if isinstance(role, str) else described(role)
        raise ValueError(f"it has a turn of {role}; only {', '.join(ROLES)} can be used")
    if message.get("tool_calls") or message.get("function_call"):
        raise ValueError("it has a turn that calls tools; only texts can be used")
    try:
        text = text_of(message.get(content))
    except ValueError as error:
        raise ValueError(f"in a turn of the {known}, {error}") from None
    if MARK in text:
        raise ValueError("it holds the invisible character U+2063, which marks turns here")
    return {"role": known, "content": text}


def turns_of(messages: list[dict]) -> list[dict]:
    """The turns of messages, without empty system messages. Raises ValueError as turn_of does."""
    turns = []
    for number, message in enumerate(messages, 1):
        turn = turn_of(message)
        if turn["content"].strip():
            turns.append(turn)
        elif turn["role"] != "system":
            raise ValueError(f"turn {number} is empty")
    return turns
