"""Trains in a thread that pauses between two steps, so that an interrupted cell can go on."""

import random
import threading
from collections.abc import Callable

import numpy as np
import torch
from transformers import TrainerCallback

from ..errors import RunError


class PausingTraining:
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
        trainer.add_callback(_Pause(self))

    @property
    def done(self) -> str:
        """How far it is, in words."""
        state = self.trainer.state
        return f"step {state.global_step} of {state.max_steps}"

    def run(self, on_log: Callable[[list[dict], int], None] = lambda log, step: None) -> None:
        """Starts or goes on, until the end.

        on_log: called here, in the caller's thread, with the log history and the step. Raises
        RunError after an interrupt, and whatever the training raises.
        """
        try:
            self._go()
            self._follow(on_log)
        except KeyboardInterrupt:
            self._pause()
            raise RunError(f"Stopped after {self.done}. Run this cell again to go on.") from None
        except BaseException:  # the picture failed, not the training
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

    def _train(self, threads: int) -> None:
        torch.set_num_threads(threads)  # a thread has a number of its own
        try:
            self.trainer.train()
        except BaseException as error:
            self.error = error
        finally:
            self.ended.set()

    def wait_if_told(self) -> None:
        """Called in the training's thread between two steps."""
        if threading.current_thread() is self.thread and not self.may_go.is_set():
            state = _random_state()  # a cell that runs meanwhile may draw
            self.idle.set()
            self.may_go.wait()
            _set_random_state(*state)


def _random_state() -> tuple:
    gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return torch.get_rng_state(), gpu, np.random.get_state(), random.getstate()


def _set_random_state(cpu, gpu, numpy_state, python_state) -> None:
    torch.set_rng_state(cpu)
    if gpu:
        torch.cuda.set_rng_state_all(gpu)
    np.random.set_state(numpy_state)
    random.setstate(python_state)


class _Pause(TrainerCallback):
    def __init__(self, training: PausingTraining):
        self.training = training

    def on_step_end(self, args, state, control, **kwargs):
        self.training.wait_if_told()

    def on_prediction_step(self, args, state, control, **kwargs):
        self.training.wait_if_told()
