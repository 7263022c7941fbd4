"""Conversations: messages in, whatever their spelling, and as one text that holds them all."""

MARK = "\u2063"  # invisible; begins each turn of a conversation that is written as one text
ROLES = ("system", "user", "assistant")

# as OpenAI, ShareGPT, OASST and Gemma call them → ROLES
ROLE_OF = {role: role for role in ROLES} | {
    "developer": "system",
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}

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
    if isinstance(value, list):
        kinds = {bool: "truth values", int: "numbers", float: "numbers", str: "texts"}
        return f"a list of {kinds.get(type(value[0]), 'objects')}" if value else "an empty list"
    return "a text" if isinstance(value, str) else type(value).__name__


def check_letters(text: str) -> None:
    """Raises ValueError for a text that no file or tokenizer could hold."""
    if len(text) > MOST_LETTERS:
        raise ValueError(f"it has {len(text):,} characters; at most {MOST_LETTERS:,} are read")
    if "\0" in text:
        raise ValueError("it holds the character NUL")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        place = error.start + 1
        raise ValueError(f"it holds half a character (a lone surrogate) at place {place}") from None


def text_of(value) -> str:
    """A text, or the texts of content parts, a line each. Raises ValueError for all else."""
    if isinstance(value, list) and value and all(map(_is_part, value)):
        value = "\n".join(map(_text_of_part, value))
    if not isinstance(value, str):
        raise ValueError(f"it is {described(value)}, not a text")
    check_letters(value)
    if MARK in value:
        raise ValueError("it holds the invisible character U+2063, which marks turns here")
    return value


def _is_part(value) -> bool:
    """Whether it is a content part such as {"type": "text", "text": …}."""
    return isinstance(value, dict) and isinstance(value.get("type"), str)


def _text_of_part(part: dict) -> str:
    if part["type"] not in ("text", "input_text", "output_text"):
        raise ValueError(f"it has a part of type {part['type'][:40]!r}; only texts can be used")
    if not isinstance(part.get("text"), str):
        raise ValueError(f"it has a part whose text is {described(part.get('text'))}")
    return part["text"]


# --- messages


def turns_of(value, role: str | None) -> list[dict]:
    """The turns {"role", "content"} of a text, a message or a list of messages.

    A text is a turn of `role`, if that is given, or a whole `conversation`. Empty system messages
    are left out. Raises ValueError for unknown roles, calls of tools, and what is no text.
    """
    if isinstance(value, str) and value.startswith(MARK):
        messages = messages_of(value)
        ours = conversation(messages) == value and all(turn["role"] in ROLES for turn in messages)
        value = messages if ours else value
    if _is_message(value):
        value = [value]
    if not isinstance(value, list) or not value or not all(map(_is_message, value)):
        if role is None:
            raise ValueError(f"it is {described(value)}, not a list of messages")
        return [{"role": role, "content": text_of(value)}]
    turns = []
    for number, message in enumerate(value, 1):
        try:
            turn = turn_of(message)
        except ValueError as error:
            raise ValueError(f"in turn {number}, {error}") from None
        if turn["content"].strip():
            turns.append(turn)
        elif turn["role"] != "system":
            raise ValueError(f"turn {number} is empty")
    return turns


def _is_message(value) -> bool:
    return isinstance(value, dict) and ("role" in value or "from" in value)


def turn_of(message: dict) -> dict:
    """A message of OpenAI's or ShareGPT's spelling as {"role", "content"}."""
    named, content = ("role", "content") if "role" in message else ("from", "value")
    role = message.get(named)
    known = ROLE_OF.get(role.strip().lower()) if isinstance(role, str) else None
    if known is None:
        raise ValueError(f"the role is {role!r:.60}; only {', '.join(ROLES)} can be used")
    if message.get("tool_calls") or message.get("function_call"):
        raise ValueError("tools are called; only texts can be used")
    return {"role": known, "content": text_of(message.get(content))}
