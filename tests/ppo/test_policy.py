"""The policy: adapters and whole blocks, saved, loaded and merged; lean LoRA layers; the dtype."""

import copy

import pytest
import torch
from helpers_ppo import collect, fresh_run, train, update, whole_blocks
from peft import get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from rlhf_utils.errors import ModelError
from rlhf_utils.fast import matmul
from rlhf_utils.fast.lora import LeanLinear, make_lean
from rlhf_utils.fast.plain import backbone
from rlhf_utils.models import adapters, export, load
from rlhf_utils.models.load import load_model, pick_dtype
from rlhf_utils.models.sampling import sample
from rlhf_utils.models.scoring import score_tokens
from rlhf_utils.ppo.policy import load_policy, make_policy

IDS = torch.randint(1024, (3, 9), generator=torch.Generator().manual_seed(1))


def peft_model(dtype=torch.float32, dropout=0.0):
    model = load_model("tiny", dtype)
    torch.manual_seed(0)
    lora = adapters.lora_config(model, 4)
    lora.lora_dropout = dropout
    model = get_peft_model(model, lora).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def hidden_and_gradients(model):
    """The last states, and the gradients of a sum of them with different weights."""
    hidden = backbone(model)(IDS).last_hidden_state.float()
    (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert len(gradients) == 28
    assert all(g.dtype == torch.float32 and g.abs().max() > 0 for g in gradients.values())
    return hidden.detach(), gradients


def assert_close(found, expected, tolerance):
    """Within a share of the largest number."""
    atol = tolerance * expected.abs().max().item()
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_lean_adapters_are_pefts(dtype, tolerance):
    plain = peft_model(dtype)
    lean = make_lean(copy.deepcopy(plain))
    assert sum(isinstance(module, LeanLinear) for module in lean.modules()) == 14
    assert not any(isinstance(module, LeanLinear) for module in plain.modules())
    expected, slopes = hidden_and_gradients(plain)
    found, own = hidden_and_gradients(lean)
    assert_close(found, expected, tolerance)
    for name in slopes:
        assert_close(own[name], slopes[name], tolerance)
    original = backbone(load_model("tiny", dtype))(IDS).last_hidden_state
    for model in (plain, lean):
        with model.disable_adapter(), torch.no_grad():
            assert torch.equal(backbone(model)(IDS).last_hidden_state, original)


def test_dropout_in_training_is_left_to_peft():
    lean = make_lean(peft_model(dropout=0.5)).train()
    with torch.no_grad():
        assert not torch.equal(lean(IDS).logits, lean(IDS).logits)
        assert torch.equal(lean.eval()(IDS).logits, lean(IDS).logits)


def learned(lora_r: int):
    """A run of two updates, by adapters or by the whole upper block."""
    run = fresh_run() if lora_r else whole_blocks(1)
    train(run, stop=2)
    return run


@pytest.mark.parametrize("lora_r", [8, 0])
def test_a_saved_policy_is_the_same_policy(tmp_path, lora_r):
    run = learned(lora_r)
    folder = tmp_path / "policy"
    folder.mkdir()
    other = "top.safetensors" if lora_r else "adapter_config.json"
    (folder / other).write_text("left by a run of the other kind")
    run.policy.save(folder)
    base = load_model("tiny")
    if lora_r:  # the head of `fresh_run`
        base.lm_head = copy.deepcopy(run.policy.model.get_base_model().lm_head)
    loaded = load_policy(base, folder)
    generator = torch.Generator().manual_seed(0)
    samples = sample(loaded.model, run.tokenizer, ["Hi.", "What is a tree?"], 8, 1.0, generator)
    found, expected = (
        score_tokens(p.model, samples, 1.0, p.reference) for p in (loaded, run.policy)
    )
    assert expected["kl"].max() > 0
    for name in ("logprobs", "ref_logprobs", "kl"):
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=0)


def test_whole_blocks_are_merged_into_a_plain_model(tmp_path):
    run = learned(0)
    expected = run.policy.model(IDS).logits
    export.save_merged(run.policy.model, run.tokenizer, tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(merged(IDS).logits, expected, atol=1e-5, rtol=0)
    assert (load_model("tiny")(IDS).logits - expected).abs().max() > 1e-4


def test_a_folder_that_holds_no_policy_or_another_models_is_refused(tmp_path):
    with pytest.raises(
        ModelError, match="neither an adapter nor top.safetensors: run 04_ppo again"
    ):
        load_policy(load_model("tiny"), tmp_path)
    save_file({"model.layers.1.mlp.extra.weight": torch.zeros(2)}, tmp_path / "top.safetensors")
    with pytest.raises(ModelError, match="not those of this model"):
        load_policy(load_model("tiny"), tmp_path)


@pytest.mark.parametrize("lora_r", [4, 0])
def test_make_policy_learns_by_adapters_or_by_whole_blocks(lora_r):
    policy = make_policy(load_model("tiny"), lora_r, 1)
    names = [name for name in policy.trainable() if not name.startswith("value_head")]
    assert all(".layers.1." in name or name == "model.model.norm.weight" for name in names)
    assert all("lora_" in name for name in names) == bool(lora_r)
    assert len(names) == (14 if lora_r else 10)


def test_the_value_head_starts_at_zero():
    policy = fresh_run().policy
    assert not policy.value_head.weight.any() and not policy.value_head.bias.any()


@pytest.mark.parametrize(
    "rates, taken",
    [((100e9, 350e9), "bfloat16"), ((100e9, 120e9), "float32"), ((100e9, 5e9), "float32")],
)
def test_the_dtype_is_measured_and_told(monkeypatch, capsys, rates, taken):
    monkeypatch.setattr(
        load, "product_rate", lambda dtype, **options: rates[dtype == torch.bfloat16]
    )
    assert pick_dtype("auto") == getattr(torch, taken)
    told = capsys.readouterr().out
    float32, bfloat16 = (f"{rate / 1e9:.0f}" for rate in rates)
    rates_told = f"{float32} GFLOP/s in float32 and {bfloat16} in bfloat16"
    assert f"{rates_told}: {taken} is taken" in told
    assert pick_dtype("float32") == torch.float32
    assert pick_dtype("bfloat16") == torch.bfloat16
    assert not capsys.readouterr().out, "a dtype that is given needs no measuring"


def test_measuring_leaves_the_precision_of_products_as_it_was():
    matmul.product_rate.cache_clear()
    before = torch.get_float32_matmul_precision()
    assert matmul.product_rate(torch.float32, size=64) > 1e6
    assert torch.get_float32_matmul_precision() == before


def test_adapters_of_a_bfloat16_model_are_float32_and_its_ratio_is_1():
    run = fresh_run()
    run.policy = make_policy(load_model("tiny", torch.bfloat16), lora_r=8, num_trainable_layers=1)
    run.optimizer = torch.optim.Adam(run.policy.trainable().values(), lr=1e-2)
    assert {p.dtype for p in run.policy.trainable().values()} == {torch.float32}
    for _ in range(2):  # in the first one lora_B is 0
        rollout = collect(run)
        for name in ("logprobs", "ref_logprobs", "values", "kl_full", "advantages"):
            assert getattr(rollout, name).dtype == torch.float32, name
        assert update(run, rollout)["val/ratio_first"] == pytest.approx(1.0, abs=1e-6)
    assert collect(run).kl_full.sum() > 0
