"""The policy: adapters and whole blocks, saved, loaded and merged."""

import copy

import pytest
import torch
from helpers_ppo import collect, fresh_run, train, update, whole_blocks
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from rlhf_utils.errors import ModelError
from rlhf_utils.models import export
from rlhf_utils.models.load import load_model, load_tokenizer
from rlhf_utils.models.sampling import sample
from rlhf_utils.models.scoring import score_tokens
from rlhf_utils.ppo import policy as policy_module
from rlhf_utils.ppo.policy import load_policy, make_policy, save_and_check

IDS = torch.randint(1024, (3, 9), generator=torch.Generator().manual_seed(1))


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


def test_the_policy_of_another_model_is_refused(tmp_path):
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


def test_a_merged_model_that_is_another_one_is_an_error(tmp_path, monkeypatch):
    run = learned(0)
    told = save_and_check(run.policy, run.tokenizer, "tiny", tmp_path, "Hi.")
    assert 0 <= told < 1e-4
    assert (tmp_path / "policy/top.safetensors").is_file()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "policy-merged").eval()
    torch.testing.assert_close(merged(IDS).logits, run.policy.model(IDS).logits, atol=1e-5, rtol=0)

    def save_half(model, tokenizer, directory):
        model.lm_head.weight.data *= 0.5
        export.save_merged(model, tokenizer, directory)

    monkeypatch.setattr(policy_module, "save_merged", save_half)
    with pytest.raises(ModelError, match="not the trained policy: a logit differs by"):
        save_and_check(run.policy, run.tokenizer, "tiny", tmp_path, "Hi.")


def test_an_adapter_names_its_base_by_its_place_in_the_run(tmp_path):
    """No path of this machine; and a run that was moved is the model that it was."""
    export.save_merged(load_model("tiny"), load_tokenizer("tiny"), tmp_path / "a/sft/policy")
    policy = make_policy(load_model(str(tmp_path / "a/sft/policy")), 4, 1)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter += 0.05 * torch.randn(parameter.shape)
    expected = policy.model(IDS).logits
    policy.save(tmp_path / "a/ppo/policy")
    assert str(tmp_path) not in (tmp_path / "a/ppo/policy/adapter_config.json").read_text()
    (tmp_path / "a").rename(tmp_path / "b")
    moved = load_model(str(tmp_path / "b/ppo/policy"))
    torch.testing.assert_close(moved(IDS).logits, expected, atol=1e-4, rtol=0)
