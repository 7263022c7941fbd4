"""Interrupts (Ctrl-C, Kernel › Interrupt) that come where they break nothing off half-way."""

import contextlib
import functools
import math
import signal
import threading

_waiting: "_Interrupts | None" = None  # of the innermost `at_stops`


class _Interrupts:
    """A signal handler that counts the first interrupts and raises one more."""

    def __init__(self, patience: float):
        self.count = 0
        self.patience = patience

    def __call__(self, number, frame) -> None:
        self.count += 1
        if self.count > self.patience:
            raise KeyboardInterrupt


@contextlib.contextmanager
def at_stops(patience: float = 1):
    """Within, so many interrupts wait for the next `stop`, or for the end. One more does not."""
    global _waiting
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outer, mine = _waiting, _Interrupts(patience)
    before = signal.signal(signal.SIGINT, mine) or signal.default_int_handler
    _waiting = mine
    try:
        yield
    finally:
        _waiting = outer
        signal.signal(signal.SIGINT, before)
        if mine.count and callable(before):
            before(signal.SIGINT, None)


deferred = functools.partial(at_stops, math.inf)  # all wait for the end


def stop() -> None:
    """Raises the interrupt that waits, if one does."""
    if _waiting and _waiting.count:
        _waiting.count = 0
        raise KeyboardInterrupt
