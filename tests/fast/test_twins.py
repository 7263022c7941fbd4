"""Everything that is fast gives the numbers of its plain twin: alone, in PPO and in SFT."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers_models import adapted, close, each_family, padded_ids, seeded, small

from rlhf_utils import fast
from rlhf_utils.fast import logprobs, plain
from rlhf_utils.fast.lora import LeanLinear
from rlhf_utils.fast.matmul import Linear
from rlhf_utils.models.builtin import resolve

TESTS = Path(__file__).parents[1]


def test_each_of_the_six_names_has_a_twin():
    assert len(fast.__all__) == 6
    for name in fast.__all__:
        assert getattr(fast, name) is not getattr(plain, name)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """What one_update.py found in two processes, the fast one and the plain one."""
    folder = tmp_path_factory.mktemp("numbers")
    found = {}
    for value in ("0", "1"):
        path = folder / value
        command = [sys.executable, str(Path(__file__).with_name("one_update.py")), str(path)]
        paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
        environment = os.environ | {"RLHF_PLAIN": value, "PYTHONPATH": paths}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        found[value] = torch.load(path)
    assert found["0"]["module"] == "rlhf_utils.fast.trunk"
    assert found["1"]["module"] == "rlhf_utils.fast.plain"
    return found["0"], found["1"]


@pytest.mark.parametrize("kind", ["lora", "whole blocks", "sft"])
def test_ppo_and_sft_do_not_know_which_twin_they_have(numbers, kind):
    fast_one, plain_one = (found[kind] for found in numbers)
    assert fast_one.keys() == plain_one.keys()
    for name, value in fast_one.items():
        # Adam divides by a gradient's own size, so rounding of a tiny one moves its weight.
        close = 5e-5 if name == "weights" else 1e-5
        torch.testing.assert_close(
            plain_one[name], value, rtol=1e-5, atol=close, msg=lambda text, name=name: name + text
        )
    if kind != "sft":
        assert fast_one["kl_full"].max() > 1e-3, "something was learned"
    if kind == "lora":  # the head of the other run hardly ever ends an answer
        lengths = (fast_one["logprobs"] != 0).sum(1)
        assert lengths.unique().numel() > 1, "rows end on the way"


@pytest.mark.filterwarnings("ignore:This .* runs the whole model")
@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize("layers", [0, 2])
@each_family
def test_trunk_and_decoder(config, splits, layers):
    """The same tokens, read by each twin."""
    model = adapted(small(config), layers) if layers else small(config).requires_grad_(False)
    ids, mask = padded_ids([4, 0, 1])
    repeated = torch.tensor([0, 1, 2, 1])
    results = []
    for twin in (fast, plain):
        trunk = twin.Trunk(model)
        found = [trunk.upper(trunk.lower(ids, mask), mask)[mask]]
        cache = trunk.new_cache()
        hidden, states = trunk.extend(ids, mask, cache)
        assert states.shape[:2] == ids.shape
        found += [hidden[mask], trunk.logits(hidden[mask], 0.7)]
        cache.batch_select_indices(repeated)
        decoder = twin.decoder(trunk, cache, mask[repeated])
        for step in range(6):
            if step == 3:
                decoder.keep(torch.tensor([0, 3]))
            tokens = torch.randint(0, 64, (2 if step >= 3 else 4,), generator=seeded(step))
            hidden, states = decoder.step(tokens)
            assert len(states) == len(tokens)
            found.append(hidden)
        results.append([value.detach() for value in found])
    for value, expected in zip(*results, strict=True):
        close(value, expected, 2e-5)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("biased", [False, True])
def test_logprobs(biased, dtype, tolerance):
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 300, bias=biased).to(dtype)
    states, reference = torch.randn(2, 40, 16)
    labels = torch.randint(0, 300, (40,))
    results = []
    for twin in (logprobs, plain):
        leaf = states.clone().requires_grad_()
        chosen, entropy = twin.token_logprobs(head, leaf, labels, 0.7)
        chosen.sum().backward()
        assert not entropy.requires_grad
        compared = twin.compared_logprobs(head, states, labels, 0.7, reference)
        results.append([chosen.detach(), entropy, leaf.grad, *compared])
        assert all(value.dtype == torch.float32 for value in results[-1])
    for value, expected in zip(*results, strict=True):
        close(value, expected, tolerance)


def test_speed_up_changes_the_way_and_not_the_numbers():
    ids, mask = padded_ids([4, 0, 1])
    results = []
    for twin in (fast, plain):
        model = twin.speed_up(small())
        torch.manual_seed(1)
        model = twin.speed_up(adapted(model, 2))
        trunk = plain.Trunk(model)
        hidden = trunk.upper(trunk.lower(ids, mask), mask)[mask]
        hidden.pow(2).sum().backward()
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        assert len(gradients) == 2 * 2 * 7
        results.append([hidden.detach(), *gradients])
    for value, expected in zip(*results, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


def test_which_layers_and_attention_a_loaded_model_has():
    """Adapters keep peft's layers A and B: only frozen weights are laid out anew."""
    code = """
import torch
from rlhf_utils.models.adapters import add_lora
from rlhf_utils.models.load import load_model
model = add_lora(load_model("tiny"), 4)
print(sorted({type(m).__module__ for m in model.modules() if "Linear" in type(m).__name__}))
print(model.config._attn_implementation)
"""
    assert resolve("tiny")  # made, if it was not there yet
    expected = {
        "0": ["['rlhf_utils.fast.lora', 'rlhf_utils.fast.matmul', 'torch.nn.modules.linear']"],
        "1": ["['peft.tuners.lora.layer', 'torch.nn.modules.linear']"],
    }
    expected["0"].append("grouped")
    expected["1"].append("eager")
    for value, lines in expected.items():
        command = [sys.executable, "-c", code]
        environment = os.environ | {"RLHF_PLAIN": value, "PYTHONPATH": str(TESTS.parent)}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert ended.stdout.splitlines() == lines, ended.stderr
    assert LeanLinear.__module__ in expected["0"][0] and Linear.__module__ in expected["0"][0]


def test_rates_of_products_are_measured():
    for twin in (fast, plain):
        assert twin.product_rate(torch.float32, size=64) > 1e6
