"""Tests leave the user's outputs/ alone, and never go to the network."""

import os
import signal

import pytest
import torch

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background; tests interrupt
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def one_thread():
    """Tests compare numbers bit for bit, so sums have one order; tiny models are faster so, too."""
    torch.set_num_threads(1)


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """A scratch folder in place of outputs/."""
    monkeypatch.setenv("RLHF_OUTPUTS", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def tokenizer():
    from rlhf_utils.models.load import load_tokenizer

    return load_tokenizer("tiny")


@pytest.fixture(scope="session")
def chromium():
    """A headless browser for all tests; skips, or fails in CI, where there is none."""
    from browser import chromium_or_skip
    from playwright.sync_api import sync_playwright

    path = chromium_or_skip()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
