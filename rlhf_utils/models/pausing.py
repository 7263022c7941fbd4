"""Trains in a thread that pauses between two steps, so that an interrupted cell can go on."""

import threading
from collections.abc import Callable

import torch
from transformers import TrainerCallback

from ..errors import RunError
from ..interrupts import deferred

_paused: "PausingTraining | None" = None  # whose thread waits


def end_paused() -> None:
    """Ends a training that waits, which gives its memory back."""
    if training := _paused:
        training.error = RunError(f"This training was given up at {training.done}.")
        training.may_go.set()
        training.ended.wait()


class PausingTraining(TrainerCallback):
    """`trainer.train()`, which an interrupt stops and the next `run` continues.

    Nothing is saved and loaded: the training waits where it is. So its numbers are those of one
    that never stopped.
    """

    def __init__(self, trainer):
        self.trainer = trainer
        self.may_go = threading.Event()  # cleared: pause at the next step's end
        self.idle = threading.Event()  # set while it waits
        self.ended = threading.Event()  # not thread.is_alive(): an interrupted join() breaks that
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None
        trainer.add_callback(self)

    @property
    def done(self) -> str:
        """How far it is, in words."""
        state = self.trainer.state
        return f"step {state.global_step} of {state.max_steps}"

    def run(self, on_log: Callable[[list[dict], int], None] = lambda log, step: None) -> None:
        """Starts or goes on, until the end.

        on_log: called here, in the caller's thread, with the log history and the step. An interrupt
        and a failure of on_log come out of here once training waits.
        """
        try:
            self._go()
            self._follow(on_log)
        except BaseException:
            self._pause()
            raise
        if self.error is not None:
            raise self.error

    def must_be_done(self) -> None:
        """Raises RunError for a training that waits, so that none is saved half trained."""
        if self.error is not None:
            raise self.error
        if not self.ended.is_set():
            raise RunError(f"Training is at {self.done}: run its cell again before this one.")

    def _go(self) -> None:
        with deferred():
            self.idle.clear()
            self.may_go.set()
            if self.thread is None:
                threads = torch.get_num_threads()
                self.thread = threading.Thread(target=self._train, args=(threads,), daemon=True)
                self.thread.start()

    def _follow(self, on_log) -> None:
        told = 0
        while not self.ended.is_set() or told < len(self.trainer.state.log_history):
            self.ended.wait(0.1)
            log = list(self.trainer.state.log_history)
            if len(log) > told:
                told = len(log)
                on_log(log, self.trainer.state.global_step)

    def _pause(self) -> None:
        """Waits until the step is done; more interrupts do not hurry it."""
        self.may_go.clear()
        while not (self.idle.is_set() or self.ended.is_set()):
            try:
                self.idle.wait(0.1)
            except KeyboardInterrupt:
                continue

    # --- in the training's thread

    def _train(self, threads: int) -> None:
        torch.set_num_threads(threads)  # a thread has a number of its own
        try:
            self.trainer.train()
        except BaseException as error:
            self.error = error
        finally:
            self.ended.set()

    def on_step_end(self, args, state, control, **kwargs):
        global _paused
        if threading.current_thread() is not self.thread or self.may_go.is_set():
            return
        gpus = range(torch.cuda.device_count())
        with torch.random.fork_rng(gpus):  # a cell that runs meanwhile may draw
            _paused = self
            self.idle.set()
            self.may_go.wait()
            _paused = None
        if self.error is not None:
            raise self.error

    on_prediction_step = on_step_end
