"""An interrupt pauses training: its numbers are those of a training that never stopped."""

import gc
import signal
import threading
import time
import weakref

import pytest
import torch
from test_sft import trainer
from transformers import TrainerCallback

from rlhf_utils.data.rows import Demonstration, Prompt
from rlhf_utils.errors import ModelError, RunError
from rlhf_utils.models import sft
from rlhf_utils.models.load import load_model, load_tokenizer


def losses(made):
    keys = ("loss", "eval_loss", "step")
    return [{key: row[key] for key in keys if key in row} for row in made.state.log_history]


class InterruptAt(TrainerCallback):
    """As a kernel does: the main thread gets a signal, here in the middle of a step."""

    def __init__(self, training, *steps):
        self.training, self.steps = training, list(steps)

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step in self.steps:
            self.steps.remove(state.global_step)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            while self.training.may_go.is_set():
                time.sleep(0.005)


def test_a_paused_training_is_the_training_that_never_stopped(tmp_path):
    whole = trainer(tmp_path / "whole", num_train_epochs=2)
    whole.train()
    stopped = trainer(tmp_path / "stopped", num_train_epochs=2)
    stopped.add_callback(InterruptAt(stopped.pausing, 1, 5))
    told = []
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            stopped.pausing.run()
        told.append(stopped.pausing.done)
        with pytest.raises(RunError, match="Training is at step . of 8: run its cell again"):
            stopped.pausing.must_be_done()
        torch.rand(3)  # what is drawn meanwhile is not drawn in training
    seen = []
    stopped.pausing.run(lambda log, step: seen.append((len(log), step, threading.current_thread())))
    assert told == ["step 2 of 8", "step 6 of 8"]
    assert losses(stopped) == losses(whole) and stopped.state.global_step == 8
    for (name, mine), (_, other) in zip(
        stopped.model.named_parameters(), whole.model.named_parameters()
    ):
        assert torch.equal(mine, other), name
    assert seen[-1][:2] == (len(whole.state.log_history), 8)
    assert {thread for *_, thread in seen} == {threading.main_thread()}


def test_a_cell_that_is_run_again_after_the_end_trains_no_more(tmp_path):
    made = trainer(tmp_path)
    made.pausing.run()
    before = losses(made)
    made.pausing.must_be_done()
    made.pausing.run()
    assert losses(made) == before


def test_what_breaks_in_training_breaks_the_cell(tmp_path):
    made = trainer(tmp_path, learning_rate=1e30)
    with pytest.raises(ModelError, match=r"diverged: at step \d+ .*lower learning_rate=1e\+30"):
        made.pausing.run()
    with pytest.raises(ModelError, match="diverged"):
        made.pausing.must_be_done()


def test_a_picture_that_fails_pauses_and_is_not_lost(tmp_path):
    made = trainer(tmp_path)

    def draw(log, step):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        made.pausing.run(draw)
    made.pausing.run()
    assert made.state.global_step == made.state.max_steps


def test_a_new_trainer_ends_the_one_that_waits_and_takes_its_adapters_out(tmp_path):
    model = load_model("tiny")
    rows = [Demonstration(Prompt(f"Name {i}."), f"It is {i}.") for i in range(8)]
    settings = sft.SFTSettings(1, 1e-2, 2, lora_r=2, seed=0)
    weights = []
    for name in ("first", "second"):
        made = sft.make_trainer(
            model, load_tokenizer("tiny"), rows, rows[:2], tmp_path / name, settings
        )
        weights.append(sum(p.numel() for p in made.model.parameters()))
        if name == "first":
            made.add_callback(InterruptAt(made.pausing, 2))
            with pytest.raises(KeyboardInterrupt):
                made.pausing.run()
            gone, thread = weakref.ref(made), made.pausing.thread
            del made
    gc.collect()
    assert not thread.is_alive() and gone() is None, "its memory is free"
    assert weights[0] == weights[1]
    made.pausing.run()
    whole = sft.make_trainer(
        load_model("tiny"), load_tokenizer("tiny"), rows, rows[:2], tmp_path / "t", settings
    )
    whole.train()
    assert losses(made) == losses(whole)
