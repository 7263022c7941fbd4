"""Tests leave the user's outputs/ alone, and never go to the network."""

import os

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def few_threads():
    torch.set_num_threads(2)


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """A scratch folder in place of outputs/."""
    monkeypatch.setenv("RLHF_OUTPUTS", str(tmp_path))
    return tmp_path
