"""When freed memory goes back to the system."""

import os
import subprocess
import sys

import pytest
import torch

from rlhf_utils.fast import memory
from rlhf_utils.models.load import load_model


@pytest.fixture
def clock(monkeypatch):
    """[the time now], and a list of the times at which memory was handed back."""
    now, released = [100.0], []

    class Libc:
        @staticmethod
        def malloc_trim(pad):
            released.append(now[0])

    monkeypatch.setattr(memory, "_glibc", lambda: Libc)
    monkeypatch.setattr(memory.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(memory, "_last_release", 100.0)
    return now, released


def test_optimizer_steps_hand_memory_back_now_and_then(clock):
    now, released = clock
    load_model("tiny")  # what a loaded model leaves behind goes back at once
    assert released == [100.0]
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.ones(2)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    gap = memory.SECONDS_BETWEEN
    for after in (0.1, 0.5, 1.0, 1.2, 2.0, 2.1):
        now[0] = 100.0 + after * gap
        optimizer.step()
    assert released == [100.0, 100.0 + gap, 100.0 + 2 * gap]


def test_onednn_reads_our_size_of_its_cache_and_the_users_before_it():
    """The variable must be set once rlhf_utils.models is imported, as torch has not used oneDNN."""
    code = "import os, rlhf_utils.models.load; print(os.environ['ONEDNN_PRIMITIVE_CACHE_CAPACITY'])"
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    clean = {key: value for key, value in os.environ.items() if key != name}
    for environment, expected in ((clean, "150"), (clean | {name: "7"}, "7")):
        command = [sys.executable, "-c", code]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert ended.stdout.strip() == expected, ended.stderr
