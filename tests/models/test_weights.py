"""What is missing, damaged, mistyped or of another kind is told in one sentence; adapters merge."""

import json
import time
from pathlib import Path

import pytest
import torch
from helpers_models import LLAMA, close, resized, saved, seeded, small
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    LlamaForSequenceClassification,
)

from rlhf_utils.data.rows import Demonstration, Prompt
from rlhf_utils.errors import ModelError
from rlhf_utils.models import builtin, sft, source
from rlhf_utils.models.check import check_model
from rlhf_utils.models.export import save_merged
from rlhf_utils.models.load import load_from, load_model, load_tokenizer
from rlhf_utils.ppo.policy import make_policy
from rlhf_utils.reward.classifier import ClassifierReward


@pytest.fixture
def folder(tmp_path):
    saved(tmp_path / "model")
    return tmp_path / "model"


def refused(name, match):
    """Both doors refuse the name, in one sentence."""
    for door in (check_model, load_model):
        with pytest.raises(ModelError, match=match) as caught:
            door(str(name))
        assert "\n" not in str(caught.value)


def without(folder, *parts):
    file = folder / "model.safetensors"
    weights = load_file(file)
    kept = {name: w for name, w in weights.items() if not any(part in name for part in parts)}
    assert len(kept) < len(weights)
    save_file(kept, file, {"format": "pt"})


@pytest.mark.parametrize(
    "parts, told",
    [
        (("layers.2.mlp.up_proj",), r"lacks weights: model.layers.2.mlp.up_proj.weight; copy"),
        (("layers.3.",), r"lacks weights: model.layers.3.input_layernorm.weight, .* and 6 more;"),
        (("embed_tokens",), "lacks weights: .*model.embed_tokens.weight"),
        (("lm_head",), "lacks weights: lm_head.weight"),
    ],
)
def test_missing_weights_are_named(folder, parts, told):
    without(folder, *parts)
    refused(folder, told)


def test_a_reward_model_without_a_layer_is_refused_too(folder):
    without(folder, "layers.1.")
    with pytest.raises(ModelError, match="lacks weights: .*layers.1."):
        load_model(str(folder), auto_class=AutoModel)


def test_a_file_that_was_cut_is_named(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for content in (whole[:-1000], whole[:50], whole[:4], b"", b"\xff" * 2000):
        file.write_bytes(content)
        refused(folder, r"model\.safetensors is damaged")
    file.write_bytes(whole[:8] + b"!" + whole[9:])
    refused(folder, r"model\.safetensors is damaged")


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_json_file_is_named(folder, file):
    path = folder / file
    path.write_text(path.read_text()[:40])
    refused(folder, f"{file} is damaged .*run what made it again")


def test_folders_and_files_that_are_no_models(tmp_path, folder):
    refused(tmp_path, "no model, as it has no config.json: did you mean '.*/model'")
    refused(folder / "model.safetensors", "is a single file: give the folder")
    refused("./somewhere/weights.gguf", "is a single file: give the folder")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin, a pickle")
    (folder / "pytorch_model.bin").unlink()
    refused(folder, "Could not load .*safetensors")


@pytest.mark.parametrize(
    "name",
    ["./modls/tiny", "../modls", "~/modls", "~nobody_here/x", "/modls/tiny", "outputs/demo/sft/x"]
    + ["a\0b", "x" * 5000 + "/", "", " ", "-x", "a b/c", r"models\tiny", "https://hf.co/a/b"],
)
def test_a_path_is_never_asked_of_the_hub(name, monkeypatch):
    monkeypatch.setattr(source.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(source, "_ask_hub", lambda: pytest.fail("asked"))
    refused(name, "There is no model folder")


def test_a_hub_that_does_not_answer_is_told_within_seconds(monkeypatch):
    refused("nobody/at-all", r"hub could not be reached \(HF_HUB_OFFLINE is set\)")
    monkeypatch.setattr(source.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(source.constants, "ENDPOINT", "http://127.0.0.1:9")
    started = time.time()
    refused("nobody/at-all", r"127.0.0.1:9 does not answer, ConnectError\): check the name")
    assert time.time() - started < 10


def test_code_of_a_models_own_is_never_run(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("raise SystemExit('it ran')")
    refused(folder, "brings code of its own .*never run")


def test_a_kind_that_is_not_known_is_told(folder):
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "mine"}
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, "of a kind that this transformers does not know")


def test_an_encoder_is_refused(tmp_path):
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(**sizes, num_hidden_layers=1, vocab_size=1024)
    saved(tmp_path, model=BertForMaskedLM(config))
    refused(tmp_path, "is an encoder .bert. and cannot continue a text")


# --- adapters


@pytest.fixture
def base(tmp_path):
    return saved(tmp_path / "base", resized(LLAMA))


def tuned(base, folder, **options):
    """A LoRA adapter that changes much, as peft saves it; returns the model with it."""
    settings = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], **options)
    causal = options["task_type"] == "CAUSAL_LM"
    kind = AutoModelForCausalLM if causal else LlamaForSequenceClassification
    head = {} if causal else {"num_labels": 1}
    torch.manual_seed(3)
    model = get_peft_model(kind.from_pretrained(base, **head), settings).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "score" in name:
                parameter.normal_(std=0.3, generator=seeded(len(name)))
    model.save_pretrained(folder)
    load_tokenizer("tiny").save_pretrained(folder)
    return model


IDS = torch.tensor([[5, 200, 17, 300, 999]])


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def test_an_adapter_is_the_model_that_it_makes_in_every_stage(base, tmp_path):
    expected = logits(tuned(base, tmp_path / "lora", task_type="CAUSAL_LM"))
    name = str(tmp_path / "lora")
    assert (expected - logits(load_model(base))).abs().max() > 0.1
    model = load_model(name)
    close(logits(model), expected, 1e-4)
    assert not hasattr(model, "peft_config")
    assert check_model(name).parameters == sum(p.numel() for p in model.parameters())

    rows = [Demonstration(Prompt(f"Name {i}."), f"It is {i}.") for i in range(8)]
    settings = sft.SFTSettings(1, 1e-9, 4, lora_r=4, seed=0)
    trainer = sft.make_trainer(model, load_tokenizer(name), rows, rows, tmp_path / "t", settings)
    trainer.train()
    save_merged(trainer.model, load_tokenizer(name), tmp_path / "policy")
    assert not (tmp_path / "policy/adapter_config.json").exists()
    close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "policy")), expected, 1e-3)

    policy = make_policy(load_model(name), 4, 1)
    with policy.reference():
        close(logits(policy.model), expected, 1e-4)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    states = load_model(name, auto_class=AutoModel)(IDS).last_hidden_state
    close(states, plain.base_model(IDS).last_hidden_state, 1e-3)


def test_an_adapter_without_a_tokenizer_has_its_bases(base, tmp_path):
    tuned(base, tmp_path / "lora", task_type="CAUSAL_LM")
    for file in [*(tmp_path / "lora").glob("token*"), *(tmp_path / "lora").glob("chat*")]:
        file.unlink()
    assert load_tokenizer(str(tmp_path / "lora")).get_vocab() == load_tokenizer(base).get_vocab()


def test_an_adapter_without_its_base_is_told(base, tmp_path):
    tuned(base, tmp_path / "lora", task_type="CAUSAL_LM")
    Path(base).rename(tmp_path / "elsewhere")
    refused(tmp_path / "lora", r"is an adapter for '.*/base', which could not be loaded: There is")
    saved(base, resized(LLAMA, hidden_size=64))
    refused(tmp_path / "lora", "does not fit '.*/base'")


def test_a_damaged_adapter_is_told(base, tmp_path):
    tuned(base, tmp_path / "lora", task_type="CAUSAL_LM")
    file = tmp_path / "lora/adapter_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    refused(tmp_path / "lora", r"adapter_model\.safetensors is damaged")
    file.unlink()
    refused(tmp_path / "lora", "has no adapter_model.safetensors")


def test_a_reward_model_may_be_an_adapter(base, tmp_path):
    kind = {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
    expected = tuned(base, tmp_path / "judge", **kind)
    model, loaded = load_from(
        AutoModelForSequenceClassification, str(tmp_path / "judge"), output_loading_info=True
    )
    assert model.config.num_labels == 1 and not loaded["missing_keys"]
    expected.config.pad_token_id = model.config.pad_token_id = 0
    close(logits(model.eval()), logits(expected), 1e-4)
    scores = ClassifierReward(str(tmp_path / "judge"))(["Hi?"] * 2, ["Hello.", "No."])
    assert scores[0] != scores[1]


# --- the built-in models


def test_a_damaged_cache_is_made_anew_and_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path))
    folder = builtin.resolve("tiny")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for content in (whole[:-500], whole[:-500] + bytes(500)):
        weights.write_bytes(content)
        assert load_model("tiny")
        assert f"The files of tiny in {folder} were damaged" in capsys.readouterr().out
        assert weights.read_bytes() == whole
    (folder / "config.json").unlink()
    (folder / ".DS_Store").write_text("of the desktop, no damage")
    assert load_model("tiny") and (folder / "config.json").is_file()


def test_a_cache_of_an_earlier_version_gets_its_digests(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path))
    listed = builtin.resolve("tiny") / builtin.DIGESTS
    text = listed.read_text()
    listed.unlink()
    assert load_model("tiny") and listed.read_text() == text
    listed.unlink()
    (listed.parent / "model.safetensors").write_bytes(b"half")
    assert load_model("tiny") and "were damaged" in capsys.readouterr().out


def test_loading_is_what_transformers_loads(folder):
    plain = AutoModelForCausalLM.from_pretrained(folder)
    close(logits(load_model(str(folder))), logits(plain), 1e-5)
    close(logits(small(resized(LLAMA))), logits(plain), 1e-5)
