"""Interrupts (Ctrl-C, Kernel › Interrupt) that come where they break nothing off half-way."""

import contextlib
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

_waiting: "_Waiting | None" = None  # of the innermost `at_stops`


class _Waiting:
    """A signal handler that counts the first interrupt and raises the second."""

    def __init__(self):
        self.count = 0

    def __call__(self, number, frame) -> None:
        self.count += 1
        if self.count > 1:
            raise KeyboardInterrupt


@contextlib.contextmanager
def at_stops():
    """Within, an interrupt waits for the next `stop`, or for the end. A second one does not."""
    global _waiting
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outer, mine = _waiting, _Waiting()
    before = signal.signal(signal.SIGINT, mine)
    _waiting = mine
    try:
        yield
    finally:
        _waiting = outer
        signal.signal(signal.SIGINT, before or signal.default_int_handler)
    if mine.count:
        raise KeyboardInterrupt


def stop() -> None:
    """Raises the interrupt that waits, if one does."""
    if _waiting and _waiting.count:
        _waiting.count = 0
        raise KeyboardInterrupt


@contextlib.contextmanager
def deferred():
    """Within, interrupts wait for the end, however many there are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen = []
    before = signal.signal(signal.SIGINT, lambda *args: seen.append(args))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.default_int_handler)
        if seen and callable(before):
            before(*seen[0])


def steady(
    context: Callable[[], AbstractContextManager],
) -> Callable[[], AbstractContextManager]:
    """A context manager whose beginning and end no interrupt breaks off half-way."""

    @contextlib.contextmanager
    def whole():
        inside = context()
        entered = False
        try:
            with deferred():
                inside.__enter__()
                entered = True
            yield
        finally:
            with deferred():
                if entered:
                    inside.__exit__(None, None, None)

    return whole
