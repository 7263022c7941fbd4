"""`rlhf chat` in a terminal: questions in, answers out as they come."""

import contextlib
import io
import os
import sys
from pathlib import Path

from ..errors import ExplainedError
from ..files import printable
from ..interrupts import at_stops
from ..run.stage import quiet_libraries
from .chat import FULL, Chat, Reply, load

LIKELIER, LESS, END = "\x1b[38;5;33m", "\x1b[38;5;166m", "\x1b[0m"  # read on black and on white
WIDTH = 8  # of the names


def open_chat(run: Path, question: str | None) -> None:
    """Loads what the run has, then talks."""
    quiet_libraries()
    if sys.stderr.isatty():
        print("Loading the models …", file=sys.stderr)
    with contextlib.redirect_stdout(io.StringIO()):  # what loading tells is not news here
        chat = load(run)
    for line in chat.lacks:
        print(printable(line, 2000), file=sys.stderr)
    if question is None:
        converse(chat)
    else:
        answer(chat, question)


def converse(chat: Chat) -> None:
    """Answers each line that comes, until an empty one or the end of input."""
    person = sys.stdin.isatty()
    if person:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # lets input() edit lines and bring back earlier ones
        print("Ask something; an empty line ends, Ctrl-C stops an answer.")
        if has_colours():
            print(f"PPO made {LIKELIER}these tokens{END} likelier, {LESS}these{END} less likely.")
    while True:
        try:
            line = input("> " if person else "").strip()
        except EOFError:
            return
        if not line:
            return
        try:
            answer(chat, line)
        except KeyboardInterrupt:
            print("\n(stopped)")
        except ExplainedError as error:
            print(printable(str(error), 2000), file=sys.stderr)


def answer(chat: Chat, question: str) -> None:
    """Prints each speaker's answer token by token, then what is known of it."""
    printed = {}  # speaker's number → the text so far

    def told(number: int, tokens: list[str]) -> None:
        if number not in printed:
            print(f"{chat.speakers[number].name:{WIDTH}}", end="")
        before = printed.get(number, "")
        # a letter of several tokens is "\ufffd" until the last one comes
        printed[number] = shown("".join(tokens).rstrip("\ufffd"))
        print(printed[number][len(before) :], end="", flush=True)

    with at_stops():
        for reply in chat.ask(question, told):
            print()
            if reply.numbers:
                print(" " * WIDTH + " · ".join(reply.numbers))
            if reply.logratio and has_colours():
                print(" " * WIDTH + coloured(reply))
    print(flush=True)


def shown(text: str) -> str:
    """A model's text: lines below each other, control characters as escapes."""
    return ("\n" + " " * WIDTH).join(map(printable, text.split("\n")))


def coloured(reply: Reply) -> str:
    """The answer once more: blue tokens are likelier than under π_SFT, orange ones less likely."""
    parts = []
    for text, ratio in zip(reply.tokens, reply.logratio):
        colour = "" if abs(ratio) < FULL / 10 else LESS if ratio < 0 else LIKELIER
        strong = "\x1b[4m" if abs(ratio) >= FULL else ""
        parts.append(colour + strong + shown(text) + (END if colour or strong else ""))
    return "".join(parts)


def has_colours() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
