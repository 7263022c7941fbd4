"""The policy: lean LoRA layers against peft's, saving and loading of adapters and of whole blocks, the value head's start, the choice of a dtype."""

import copy
import json

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import save_file
from test_loop import CONFIG, collect, fresh_run, one_thread, train, weights, whole_blocks  # noqa: F401
from transformers import AutoModelForCausalLM

from rlhf_utils.errors import ModelError, SettingError
from rlhf_utils.fast import matmul
from rlhf_utils.fast.lora import LeanLinear, make_lean
from rlhf_utils.fast.trunk import backbone
from rlhf_utils.models import adapters, export
from rlhf_utils.models.load import load_model, pick_dtype
from rlhf_utils.models.sampling import sample, score_tokens
from rlhf_utils.ppo import loop
from rlhf_utils.ppo.checkpoint import Checkpoints
from rlhf_utils.ppo.policy import load_policy, make_policy
from rlhf_utils.reward.model import make_head

IDS = torch.randint(1024, (3, 9), generator=torch.Generator().manual_seed(1))


def peft_model(dtype=torch.float32, dropout=0.0):
    model = load_model("tiny", dtype)
    torch.manual_seed(0)
    model = get_peft_model(model, adapters.lora_config(model, 4, dropout=dropout)).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_lean_adapters_are_pefts(dtype, tolerance):
    plain = peft_model(dtype)
    lean = make_lean(copy.deepcopy(plain))
    assert sum(isinstance(module, LeanLinear) for module in lean.modules()) == 14 and not any(
        isinstance(m, LeanLinear) for m in plain.modules()
    )
    results = []
    for model in (plain, lean):
        hidden = backbone(model)(IDS).last_hidden_state.float()
        (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        assert (
            all(g.dtype == torch.float32 and g.abs().max() > 0 for g in gradients.values())
            and len(gradients) == 28
        )
        results.append((hidden.detach(), gradients))
        with model.disable_adapter(), torch.no_grad():
            torch.testing.assert_close(
                backbone(model)(IDS).last_hidden_state,
                backbone(load_model("tiny", dtype))(IDS).last_hidden_state,
                atol=0,
                rtol=0,
            )
    (expected, slopes), (found, own) = results
    torch.testing.assert_close(
        found, expected, atol=tolerance * expected.abs().max().item(), rtol=0
    )
    for name in slopes:
        torch.testing.assert_close(
            own[name],
            slopes[name],
            atol=tolerance * slopes[name].abs().max().item(),
            rtol=0,
            msg=name,
        )


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
    (folder / ("adapter_config.json" if not lora_r else "top.safetensors")).write_text(
        "left by a run of the other kind"
    )
    run.policy.save(folder)
    base = load_model("tiny")
    if lora_r:  # the head of `fresh_run`
        base.lm_head = copy.deepcopy(run.policy.model.get_base_model().lm_head)
    loaded = load_policy(base, folder)
    samples = sample(
        loaded.model,
        run.tokenizer,
        ["Hi.", "What is a tree?"],
        8,
        1.0,
        torch.Generator().manual_seed(0),
    )
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
    assert all("lora_" in name for name in names) == bool(lora_r) and len(names) == (
        14 if lora_r else 10
    )


def test_a_resumed_run_of_whole_blocks_is_the_run_that_never_stopped(tmp_path):
    straight = whole_blocks(1)
    expected = train(straight, stop=4)
    run, resumed = whole_blocks(1), whole_blocks(1)
    first = train(run, stop=2)
    Checkpoints(tmp_path, run.policy, run.optimizer, run.generator, run.controller, {}).save(2)
    assert (
        Checkpoints(
            tmp_path, resumed.policy, resumed.optimizer, resumed.generator, resumed.controller, {}
        ).load_last()
        == 2
    )
    assert first + train(resumed, start=2, stop=4) == expected
    assert all(torch.equal(new, weights(straight)[name]) for name, new in weights(resumed).items())


def reward_head(folder, kind="linear", size=64, **settings):
    """The part of a saved reward model that the value head reads."""
    torch.manual_seed(3)
    head = make_head(size, kind, 0.1).eval()
    save_file(torch.nn.ModuleList([head]).state_dict(), folder / "head.safetensors")
    (folder / "reward_config.json").write_text(
        json.dumps({"head": kind, "mean": 0.5, "std": 2.0} | settings)
    )
    return head


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_values_may_start_as_the_reward_models_head(tmp_path, kind):
    head, run = reward_head(tmp_path, kind), fresh_run()
    run.policy.start_values("reward_model", lambda: tmp_path)
    hidden = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(
        run.policy.value_head(hidden), (head(hidden) - 0.5) / 2, atol=1e-6, rtol=0
    )
    assert any(name.startswith("value_head") for name in run.policy.trainable())
    rollout = collect(run)
    assert rollout.values[rollout.mask].abs().min() > 0
    run.optimizer = torch.optim.Adam(run.policy.trainable().values(), lr=1e-3)
    assert (
        loop.update(run.policy, run.optimizer, rollout, CONFIG, run.generator)["loss/value_avg"] > 0
    )


@pytest.mark.parametrize(
    "settings", [{"read_prompt": True}, {"read_middle": True}, {"read_length": True}, {"size": 32}]
)
def test_a_reward_head_that_reads_something_else_is_refused(tmp_path, settings):
    reward_head(tmp_path, "mlp", **settings)
    with pytest.raises(
        SettingError, match="reads one state of 64 numbers.*read_length False.*value_init='zero'"
    ):
        fresh_run().policy.start_values("reward_model", lambda: tmp_path)


def test_values_start_at_zero_and_nowhere_unknown():
    policy = fresh_run().policy
    policy.start_values("zero", reward_model=None)
    assert not policy.value_head.weight.any() and not policy.value_head.bias.any()
    with pytest.raises(SettingError, match="value_init='half' must be 'zero' or 'reward_model'"):
        policy.start_values("half", reward_model=None)


@pytest.mark.parametrize(
    "rates, taken",
    [((100e9, 350e9), "bfloat16"), ((100e9, 120e9), "float32"), ((100e9, 5e9), "float32")],
)
def test_the_dtype_is_measured_and_told(monkeypatch, capsys, rates, taken):
    monkeypatch.setattr(
        models, "product_rate", lambda dtype, **options: rates[dtype == torch.bfloat16]
    )
    assert pick_dtype("auto") == getattr(torch, taken)
    told = capsys.readouterr().out
    assert (
        f"{rates[0] / 1e9:.0f} GFLOP/s in float32 and {rates[1] / 1e9:.0f} in bfloat16: {taken} is taken"
        in told
    )
    assert (
        pick_dtype("float32") == torch.float32
        and pick_dtype("bfloat16") == torch.bfloat16
        and not capsys.readouterr().out
    )


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
        assert {
            getattr(rollout, name).dtype
            for name in ("logprobs", "ref_logprobs", "values", "kl_full", "advantages")
        } == {torch.float32}
        metrics = loop.update(run.policy, run.optimizer, rollout, CONFIG, run.generator)
        assert metrics["val/ratio_first"] == pytest.approx(1.0, abs=1e-6)
    assert collect(run).kl_full.sum() > 0
