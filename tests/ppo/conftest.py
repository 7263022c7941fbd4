"""Tests of PPO compare runs bit for bit, so every sum must have one order."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread(few_threads):
    torch.set_num_threads(1)
