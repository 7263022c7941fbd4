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


def write_notebook(path, parameters: str) -> None:
    """A notebook that has a parameters cell, and nothing else."""
    import nbformat

    cell = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    nbformat.write(notebook, path)


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
