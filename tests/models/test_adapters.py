"""What learns and what stays behind: whole top blocks, layers of names, the reference."""

import contextlib
import os
import signal

import pytest
import torch
from helpers_models import adapted, close, each_family, padded_ids, seeded, small

from rlhf_utils.errors import SettingError
from rlhf_utils.fast import Trunk
from rlhf_utils.models import adapters
from rlhf_utils.models.load import load_model


def change(model, by=0.1):
    """One step of a training that changes all that learns."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += by * torch.randn(parameter.shape, generator=seeded(1))


def last_states(model):
    ids, mask = padded_ids([5, 0, 0])
    trunk = Trunk(model)
    with torch.no_grad():
        return trunk.upper(trunk.lower(ids, mask), mask)[mask]


@pytest.mark.parametrize(
    "name, layer",
    [
        ("model.layers.3", 3),
        ("base_model.model.model.layers.12.mlp.up_proj.weight", 12),
        ("transformer.h.0.attn.c_attn", 0),
        ("model.norm.weight", -1),
        ("lm_head", -1),
    ],
)
def test_the_layer_of_a_name(name, layer):
    assert adapters.layer_of(name) == layer


@pytest.mark.filterwarnings("ignore:This .* runs the whole model")
@pytest.mark.parametrize("layers", [2, 0])
@each_family
def test_whole_top_blocks_learn_and_the_reference_stays(config, splits, layers):
    model = small(config)
    before = last_states(model)
    head = model.get_output_embeddings().weight.clone()
    adapters.unfreeze_top(model, layers)
    learned = [name for name, p in model.named_parameters() if p.requires_grad]
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    numbers = {adapters.layer_of(name) for name in learned}
    assert numbers == {-1} | set(range(4 - (layers or 4), 4))
    assert {adapters.layer_of(name) for name in frozen} == {-1} | set(range(4 - (layers or 4)))
    outside = [name for name in learned if adapters.layer_of(name) < 0]
    assert all("norm" in name or "ln_f" in name for name in outside), outside

    reference = adapters.reference_of(model)
    close(last_states(model), before, 1e-5)
    change(model)
    after = last_states(model)
    assert (after - before).abs().max() > 0.01
    with reference():
        close(last_states(model), before, 1e-5)
    assert torch.equal(last_states(model), after)
    assert torch.equal(model.get_output_embeddings().weight, head)


def test_a_failure_within_the_reference_gives_the_policy_back():
    model = adapters.unfreeze_top(small(), 2)
    reference = adapters.reference_of(model)
    change(model)
    after = last_states(model)
    with pytest.raises(ZeroDivisionError), reference():
        1 / 0  # noqa: B018
    assert torch.equal(last_states(model), after)


def test_the_reference_of_adapters_is_the_model_without_them():
    plain, model = small(), adapted(small(), 2)
    with adapters.reference_of(model)():
        close(last_states(model), last_states(plain), 1e-5)
    assert (last_states(model) - last_states(plain)).abs().max() > 0.01


@pytest.mark.parametrize("place", ["there", "within", "back"])
@pytest.mark.parametrize(
    "kind", [lambda: adapters.unfreeze_top(small(), 2), lambda: adapted(small())]
)
def test_an_interrupt_leaves_no_reference_behind(kind, place, monkeypatch):
    model = kind()
    reference, after = adapters.reference_of(model), last_states(model)

    def pressed(*args):
        os.kill(os.getpid(), signal.SIGINT)

    done = []
    with pytest.raises(KeyboardInterrupt):
        context = reference()
        if place == "there":
            monkeypatch.setattr(adapters, "deferred", once(adapters.deferred, pressed))
        with context:
            done.append("used")
            if place == "within":
                pressed()
            monkeypatch.setattr(adapters, "deferred", once(adapters.deferred, pressed))
    assert torch.equal(last_states(model), after)
    assert bool(done) == (place != "there")


def once(context, then):
    """The context, which does this when it begins."""

    @contextlib.contextmanager
    def pressed():
        with context():
            then()
            yield

    return pressed


def test_mixed_precision_keeps_no_cast_of_the_other_weights():
    """Autocast keeps bfloat16 casts of weights. They must follow the exchange, within it too."""
    model = adapters.unfreeze_top(small().bfloat16(), 2)
    reference = adapters.reference_of(model)
    before = last_states(model)
    change(model)
    after = last_states(model)
    assert (after - before).abs().max() > 0.1
    trunk = Trunk(model)
    ids, mask = padded_ids([5, 0, 0])
    states = trunk.lower(ids, mask)
    with trunk.mixed():  # several passes share their casts
        for _ in range(2):
            # with gradients, because only these casts are kept
            assert torch.equal(trunk.upper(states, mask)[mask].detach(), after)
            with reference():
                assert torch.equal(trunk.upper(states, mask)[mask].detach(), before)


@pytest.mark.parametrize("layers", [0, 1])
def test_what_learns_above_a_bfloat16_trunk_is_float32(layers):
    model = adapters.unfreeze_top(load_model("tiny", torch.bfloat16), layers)
    learned = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in learned} == {torch.float32}
    assert all(p.is_contiguous() for p in learned)
    frozen = {p.dtype for p in model.parameters() if not p.requires_grad}
    assert frozen == {torch.bfloat16}
    assert last_states(model).dtype == torch.float32


def test_impossible_numbers_of_layers_and_ranks_are_refused():
    model = load_model("tiny")
    with pytest.raises(SettingError, match="num_trainable_layers=-1 must be 0"):
        adapters.unfreeze_top(model, -1)
    with pytest.raises(SettingError, match="lora_r=0: adapters need a rank of at least 1"):
        adapters.add_lora(model, 0)


def test_a_model_with_fewer_layers_learns_whole_and_one_line_tells(capsys):
    """The default of 12 layers is made for a model of 30."""
    learned = adapters.add_lora(load_model("tiny"), 2, num_trainable_layers=12)
    numbers = {adapters.layer_of(name) for name, p in learned.named_parameters() if p.requires_grad}
    assert numbers == {0, 1}
    assert capsys.readouterr().out == ("num_trainable_layers=12: the model has 2, and all learn.\n")
