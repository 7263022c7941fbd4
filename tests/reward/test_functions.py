"""What PPO may take for a reward: models and functions, each called with TRL's signature."""

import sys
import types

import pytest
import torch
from helpers_reward import classifier, make_model
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModel,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from rlhf_utils.errors import ModelError, SettingError
from rlhf_utils.models.load import load_model
from rlhf_utils.reward import classifier as classifier_module
from rlhf_utils.reward.classifier import ClassifierReward
from rlhf_utils.reward.functions import digest_of, load_reward

PROMPTS = ["Hi?", "How do plants drink?", "Why?"]
COMPLETIONS = ["Hello.", "By their roots, with the help of the sun.", "Because."]


@pytest.fixture
def mine(monkeypatch):
    module = types.ModuleType("mine")
    module.length = lambda prompts, completions, **columns: [float(len(c)) for c in completions]
    module.category = lambda prompts, completions, category, **columns: [
        float(c == "x") for c in category
    ]
    monkeypatch.setitem(sys.modules, "mine", module)


def test_the_digest_follows_weights_and_source(tmp_path, monkeypatch):
    """Under the same name, another model or an edited function scores otherwise."""
    source, weights = tmp_path / "edited.py", tmp_path / "model" / "weights"
    weights.parent.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for number in range(2):
        source.write_text(f"def polite(prompts, completions): return [{number}.0] * len(prompts)")
        weights.write_text(str(number))
        for _ in range(2):
            found.append(digest_of("reward_model", lambda: weights.parent))
            found.append(digest_of(str(weights.parent), None))
            found.append(digest_of("edited:polite", None))
        monkeypatch.delitem(sys.modules, "edited")
    assert found[:3] == found[3:6] and found[6:9] == found[9:]
    assert found[0] == found[1] and len(set(found)) == 4
    assert digest_of("some/classifier", None) != digest_of("another/classifier", None)
    assert digest_of("math:sqrt", None) == digest_of("math:sqrt", None)  # has no source


@pytest.mark.parametrize("template", [True, False])
@pytest.mark.parametrize("labels", [1, 2])
def test_a_classifier_reads_the_whole_conversation(tmp_path, monkeypatch, labels, template):
    monkeypatch.setattr(classifier_module, "TEXTS_PER_PASS", 2)  # some rows are padded
    names = ["score"] if labels == 1 else ["BAD", "GOOD"]
    reward = load_reward(classifier(tmp_path, names, template), trained=None)
    scores = reward(prompts=PROMPTS, completions=COMPLETIONS, category=["a"] * 3)
    for prompt, completion, score in zip(PROMPTS, COMPLETIONS, scores):
        if template:
            eos = reward.tokenizer.eos_token
            ids = reward.tokenizer(
                f"<user>{prompt}{eos}<assistant>{completion}{eos}",
                add_special_tokens=False,
                return_tensors="pt",
            )
        else:
            ids = reward.tokenizer(prompt, completion, return_tensors="pt")
        logits = reward.model(**ids).logits[0]
        assert score == pytest.approx(
            (logits[0] if labels == 1 else logits[1] - logits[0]).item(), abs=1e-5
        )
    assert len(set(scores)) == 3


def test_a_name_gives_the_model_or_the_function(mine, tmp_path):
    model = make_model(ensemble=2)
    model.normalise(PROMPTS, COMPLETIONS)
    own = pytest.approx(model.score(PROMPTS, COMPLETIONS), abs=1e-5)
    model.save(tmp_path)
    call = {"prompts": PROMPTS, "completions": COMPLETIONS, "category": ["x", "y", "x"]}
    assert load_reward("reward_model", lambda: tmp_path)(**call) == own
    assert load_reward(str(tmp_path), trained=None)(**call) == own
    assert load_reward("mine:category", trained=None)(**call) == [1.0, 0.0, 1.0]
    assert load_reward("mine:length", trained=None)(**call) == [len(c) for c in COMPLETIONS]


def test_a_saved_model_reads_on_as_before(tmp_path):
    """Report cards are made after saving: in bfloat16, what is saved in float32 scores alike."""
    model = make_model(load_model("tiny", torch.bfloat16, auto_class=AutoModel), ensemble=2)
    before = model.raw(PROMPTS, COMPLETIONS)
    model.save(tmp_path)
    assert torch.equal(model.raw(PROMPTS, COMPLETIONS), before)
    assert model.backbone.dtype == torch.bfloat16
    assert load_file(tmp_path / "model.safetensors")["norm.weight"].dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("mine:nothing", SettingError, "reward='mine:nothing' cannot be imported"),
        ("nowhere:f", SettingError, "nowhere"),
        ("broken:f", SettingError, "'broken:f' cannot be imported: ZeroDivisionError: "),
        ("", SettingError, "is no reward"),
        (" ", SettingError, "is no reward: give reward_model, "),
        ("0.5*mine:length + mine:length", SettingError, "is a sum"),
        ("mine:__name__", SettingError, "is no function but str"),
        ("/no/such/folder", ModelError, "/no/such/folder"),
        (
            "tiny",
            ModelError,
            "'tiny' is no sequence classifier but LlamaForCausalLM",
        ),
        (__file__, SettingError, "is a file: name a function in it"),
        ("broken", SettingError, "such as broken.py:polite"),
        ("broken.f", SettingError, "such as broken.py:polite"),
        ("#good", SettingError, "is no reward: give reward_model, "),
    ],
)
def test_what_is_no_reward_is_named(mine, tmp_path, monkeypatch, name, error, told):
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.setenv("RLHF_CWD", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(error, match=told):
        load_reward(name, trained=None)


def test_what_is_too_long_for_a_classifier_keeps_the_end_of_the_answer(tmp_path):
    reward = ClassifierReward(classifier(tmp_path, 1))
    reward.tokenizer.model_max_length = 8
    long, other = reward(["Hi? " * 40] * 2, ["Yes, I can.", "No, I will not."])
    assert long != other and reward(["Ho! " * 40], ["Yes, I can."]) == pytest.approx(
        [long], abs=1e-5
    )


def test_a_classifier_reads_texts_by_its_own_tokenizer(tmp_path):
    """Four words, none of the policy's ids: the answers go over as text."""
    words = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "yes": 2, "no": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=1,
        pad_token_id=0,
    )
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    scores = load_reward(str(tmp_path), trained=None)(["yes?", "no"], ["no yes", "yes"])
    expected = [model(torch.tensor([ids])).logits.item() for ids in ([2, 1, 3, 2], [3, 2])]
    assert scores == pytest.approx(expected, abs=1e-5) and abs(scores[0] - scores[1]) > 1e-4
