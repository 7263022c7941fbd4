import pytest
import torch

from rlhf_utils.models.load import load_tokenizer


@pytest.fixture(autouse=True)
def one_thread(few_threads):
    torch.set_num_threads(1)  # models this small are slower on two


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("tiny")
