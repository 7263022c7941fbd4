"""What PPO may take for a reward: models, functions and weighted sums, each called with TRL's signature."""

import sys
import types

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModel,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from rlhf_utils.errors import ModelError, PPOError
from rlhf_utils.models import adapters
from rlhf_utils.models.load import load_model, load_tokenizer
from rlhf_utils.reward.functions import ClassifierReward, digest_of, load_reward
from rlhf_utils.reward.model import RewardModel
from rlhf_utils.stats import as_scores

PROMPTS, COMPLETIONS = (
    ["Hi?", "How do plants drink?", "Why?"],
    ["Hello.", "By their roots, with the help of the sun.", "Because."],
)


@pytest.fixture
def mine(monkeypatch):
    module = types.ModuleType("mine")
    module.length = lambda prompts, completions, **columns: [float(len(c)) for c in completions]
    module.category = lambda prompts, completions, category, **columns: [
        float(c == "x") for c in category
    ]
    monkeypatch.setitem(sys.modules, "mine", module)


def classifier(folder, labels: int, template: bool = True) -> str:
    """A random classifier on disk, with the built-in tokenizer under its own chat template."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer("tiny")
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
        if template
        else None
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_labels=labels,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.5,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_the_digest_follows_weights_and_source(tmp_path, monkeypatch):
    """Under the same name, another model or an edited function scores otherwise."""
    (tmp_path / "edited.py").write_text(
        "def polite(prompts, completions): return [1.0] * len(prompts)\n"
    )
    (tmp_path / "model").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    spec, found = "0.5*reward_model + edited:polite", set()
    for number in range(2):
        (tmp_path / "model" / "weights").write_text(str(number))
        found |= {digest_of(spec, lambda: tmp_path / "model") for _ in range(2)}
        monkeypatch.delitem(sys.modules, "edited")
    (tmp_path / "edited.py").write_text(
        "def polite(prompts, completions): return [2.0, 3.0] * len(prompts)\n"
    )
    assert len(found | {digest_of(spec, lambda: tmp_path / "model")}) == 3


@pytest.mark.parametrize("template", [True, False])
@pytest.mark.parametrize("labels", [1, 2])
def test_a_classifier_reads_the_whole_conversation(tmp_path, labels, template):
    reward = load_reward(classifier(tmp_path, labels, template), trained=None)
    reward.batch_size = 2  # so that some rows are padded
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


def test_a_classifier_of_many_classes_is_no_reward(tmp_path):
    with pytest.raises(ModelError, match="3 classes"):
        ClassifierReward(classifier(tmp_path, 3))


def test_weighted_sums_and_columns(mine, tmp_path):
    torch.manual_seed(0)
    model = RewardModel(
        adapters.add_lora(load_model("tiny", auto_class=AutoModel), 4),
        load_tokenizer("tiny"),
    ).eval()
    model.normalise(PROMPTS, COMPLETIONS)
    own = model.score(PROMPTS, COMPLETIONS)
    model.save(tmp_path)
    call = dict(prompts=PROMPTS, completions=COMPLETIONS, category=["x", "y", "x"])
    assert load_reward("reward_model", lambda: tmp_path)(**call) == pytest.approx(own, abs=1e-5)
    both = load_reward(
        f"0.5*reward_model + -2*mine:category + mine:length + 0.25*{tmp_path}", lambda: tmp_path
    )(**call)
    assert both == pytest.approx(
        [
            0.75 * r - 2 * (c == "x") + len(text)
            for r, c, text in zip(own, call["category"], COMPLETIONS)
        ],
        abs=1e-5,
    )


@pytest.mark.parametrize(
    ("spec", "error", "told"),
    [
        ("mine:nothing", ValueError, "reward='mine:nothing' cannot be imported"),
        ("nowhere:f", ValueError, "nowhere"),
        ("half*reward_model", ValueError, "'half\\*reward_model' is no reward"),
        ("", ValueError, "is no reward"),
        ("mine:length + ", ValueError, "is no reward"),
        ("mine:__name__", ValueError, "is no function but str"),
        ("/no/such/folder", ModelError, "/no/such/folder"),
        (
            "tiny",
            ModelError,
            "'tiny' is no sequence classifier: it has no weights for score.weight",
        ),
    ],
)
def test_what_is_no_reward_is_named(mine, spec, error, told):
    with pytest.raises(error, match=told):
        load_reward(spec, trained=None)


def test_scores_may_be_scalars_of_numpy_and_torch():
    for found in (
        [np.float32(0.5), torch.tensor(2.0), 1],
        np.array([0.5, 2.0, 1.0]),
        torch.tensor([0.5, 2.0, 1.0]),
    ):
        assert torch.equal(as_scores(found, 3), torch.tensor([0.5, 2.0, 1.0]))


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ([1.0], "but gave 1 of them"),
        (None, "but gave None"),
        ([1.0, None, 2.0], "but gave None for answer 2"),
        ([1.0, 2.0, float("nan")], "but gave nan for answer 3"),
        ([1.0, 2.0, 1e39], r"but gave 1e\+39 for answer 3"),
        ([10**400, 1.0, 2.0], "but gave 1000.* for answer 1"),
    ],
)
def test_a_part_that_gives_no_number_for_each_answer_is_named(mine, found, told):
    sys.modules["mine"].odd = lambda prompts, completions, **columns: found
    with pytest.raises(
        PPOError, match=f"'mine:odd' must give one finite number for each of 3 answers, {told}"
    ):
        load_reward("mine:length + mine:odd", trained=None)(
            prompts=PROMPTS, completions=COMPLETIONS
        )


def test_what_is_too_long_for_a_classifier_keeps_the_end_of_the_answer(tmp_path):
    reward = ClassifierReward(classifier(tmp_path, 1))
    reward.max_length = 8
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
