"""Which label of a classifier is paid for, and classifiers of odd kinds."""

import pytest
import torch
from helpers_reward import classifier
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForTokenClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from rlhf_utils.data.rows import conversation
from rlhf_utils.errors import ModelError, SettingError
from rlhf_utils.models.load import load_from, load_tokenizer
from rlhf_utils.reward.classifier import ClassifierReward, encode_conversations, log_odds
from rlhf_utils.reward.functions import check_reward, digest_of, load_reward

PROMPTS = ["Where is Rome?", "Hm?", "Say it again, please, and more slowly."]
COMPLETIONS = ["In Italy, on the Tiber.", "Yes.", "Once more: no."]


def logits_of(reward: ClassifierReward) -> torch.Tensor:
    rows = []
    for prompt, answer in zip(PROMPTS, COMPLETIONS):
        encoded = encode_conversations(reward.tokenizer, [prompt], [answer], return_tensors="pt")
        rows.append(reward.model(**encoded).logits[0].detach())
    return torch.stack(rows)


# --- the label


@pytest.mark.parametrize(
    "labels",
    [
        ["fine", "spam"],
        ["LABEL_0", "LABEL_1"],
        ["neutral", "toxic"],
        ["joy", "anger", "sadness"],
        ["NEGATIVE", "neutral", "POSITIVE"],
    ],
)
def test_a_label_in_doubt_must_be_named(tmp_path, labels):
    folder = classifier(tmp_path, labels)
    for load in (load_reward, check_reward):
        with pytest.raises(SettingError) as error:
            load(folder, None)
        for label in labels:
            assert repr(label) in str(error.value)
        assert f"reward='{folder}#{labels[0]}'" in str(error.value)


@pytest.mark.parametrize("labels", [["bad", "good"], ["Positive", "Negative"], ["unsafe", "safe"]])
def test_an_unmistakable_label_is_paid_for_wherever_it_stands(tmp_path, capsys, labels):
    folder = classifier(tmp_path, labels)
    reward = load_reward(folder, None)
    good = next(i for i, label in enumerate(labels) if label in ("good", "Positive", "safe"))
    logits = logits_of(reward)
    expected = (logits[:, good] - logits[:, 1 - good]).tolist()
    assert reward(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=1e-5)
    told = f"classifier {folder}, pays for label {labels[good]!r} (not {labels[1 - good]!r})"
    assert check_reward(folder, None) == told and told in capsys.readouterr().out


@pytest.mark.parametrize("label", ["joy", "SADNESS", "anger"])
def test_a_named_label_is_scored_by_its_log_odds(tmp_path, label):
    labels = ["joy", "anger", "sadness"]
    reward = load_reward(f"{classifier(tmp_path, labels)}#{label}", None)
    shares, place = logits_of(reward).double().softmax(1), labels.index(label.lower())
    expected = (shares[:, place] / (1 - shares[:, place])).log().tolist()
    assert reward(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=1e-4)


def test_a_label_that_is_not_there_is_told(tmp_path):
    folder = classifier(tmp_path, ["spam", "fine"])
    with pytest.raises(SettingError, match="has no one label 'good': it has 'spam', 'fine'"):
        check_reward(f"{folder}#good", None)
    assert digest_of(f"{folder}#spam", None) != digest_of(f"{folder}#fine", None)
    assert digest_of(f"{folder}#spam", None).removesuffix("#spam") == digest_of(folder, None)


def test_a_bad_label_that_is_the_only_one_must_be_named(tmp_path):
    folder = classifier(tmp_path, ["Toxicity"])
    with pytest.raises(SettingError, match="does not say which label is good: it has 'Toxicity'"):
        check_reward(folder, None)
    assert "label 'Toxicity'" in check_reward(f"{folder}# toxicity", None)


def test_labels_that_do_not_exclude_each_other_count_alone():
    logits = torch.tensor([[1.0, 5.0, -2.0]])
    assert log_odds(logits, 0, "multi_label_classification").tolist() == [1.0]
    assert log_odds(logits[:, :1], 0).tolist() == [1.0]
    assert log_odds(logits[:, :2], 0).tolist() == [-4.0]


# --- lengths and padding

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
SMALL |= {"num_attention_heads": 2, "num_labels": 1, "initializer_range": 0.5}


@pytest.mark.parametrize(
    ("config", "kind", "longest"),
    [
        (RobertaConfig(**SMALL, max_position_embeddings=50, pad_token_id=1), "Roberta", 48),
        (RobertaConfig(**SMALL, max_position_embeddings=50, pad_token_id=4), "Roberta", 45),
        (BertConfig(**SMALL, max_position_embeddings=48, pad_token_id=0), "Bert", 48),
    ],
)
def test_a_long_conversation_loses_its_beginning(tmp_path, config, kind, longest):
    torch.manual_seed(0)
    kinds = {"Roberta": RobertaForSequenceClassification, "Bert": BertForSequenceClassification}
    tokenizer = load_tokenizer("tiny")
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    config.vocab_size = len(tokenizer)
    kinds[kind](config).save_pretrained(tmp_path)
    reward = load_reward(str(tmp_path), None)
    assert reward.tokenizer.model_max_length == longest
    words = [" ".join(f"word{n}" for n in range(first, 90)) for first in (0, 1)]
    scores = reward(["Why?", "Why?", "Why?"], [*words, words[0] + " not"])
    assert scores[0] == pytest.approx(scores[1], abs=1e-5) and abs(scores[0] - scores[2]) > 1e-4


def test_without_a_token_for_padding_answers_are_scored_one_by_one(tmp_path):
    torch.manual_seed(0)
    tokenizer = load_tokenizer("tiny")
    tokenizer.chat_template, tokenizer.pad_token = None, None
    tokenizer.save_pretrained(tmp_path)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64, num_labels=1
    )
    model = GPT2ForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    scores = load_reward(str(tmp_path), None)(PROMPTS, COMPLETIONS)
    for prompt, answer, score in zip(PROMPTS, COMPLETIONS, scores):
        ids = tokenizer(prompt, answer, return_tensors="pt")["input_ids"]
        assert score == pytest.approx(model(ids).logits.item(), abs=1e-5)


def test_a_padding_token_without_an_embedding_is_not_used(tmp_path):
    tokenizer = load_tokenizer("tiny")
    size = len(tokenizer)
    folder = classifier(tmp_path, 1, vocab_size=size, pad_token_id=None)
    plain = ClassifierReward(folder)(PROMPTS, COMPLETIONS)
    plain_tokenizer = AutoTokenizer.from_pretrained(folder)
    plain_tokenizer.add_special_tokens({"pad_token": "<late>"})
    plain_tokenizer.save_pretrained(folder)
    assert plain_tokenizer.pad_token_id == size
    reward = ClassifierReward(folder)
    assert reward(PROMPTS, COMPLETIONS) == pytest.approx(plain, abs=1e-5) and not reward.pads


def test_where_padding_changes_a_score_answers_are_scored_one_by_one(tmp_path):
    """XLNet scores at the last place, padding or not."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer("tiny")
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    size = {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32, "initializer_range": 0.5}
    config = XLNetConfig(vocab_size=len(tokenizer), num_labels=1, pad_token_id=0, **size)
    XLNetForSequenceClassification(config).save_pretrained(tmp_path)
    reward = ClassifierReward(str(tmp_path))
    assert not reward.pads
    alone = [reward([prompt], [answer])[0] for prompt, answer in zip(PROMPTS, COMPLETIONS)]
    assert reward(PROMPTS, COMPLETIONS) == pytest.approx(alone, abs=1e-5)


# --- conversations and what is no classifier


def test_what_is_no_sequence_classifier_or_cannot_read_is_told(tmp_path):
    """Bart wants the end that it knows in every text, which this tokenizer never writes."""
    tokenizer = load_tokenizer("tiny")
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    layers = {f"{side}_layers": 1 for side in ("encoder", "decoder")}
    heads = {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    bart = BartConfig(vocab_size=len(tokenizer), d_model=16, num_labels=1, **layers, **heads)
    for model, told in (
        (LlamaForTokenClassification(LlamaConfig(**SMALL)), "classifier but LlamaForTokenClass"),
        (BartForSequenceClassification(bart), "cannot read 'Hi[?]' with an answer: ValueError: "),
    ):
        model.save_pretrained(tmp_path)
        with pytest.raises(ModelError, match=told):
            ClassifierReward(str(tmp_path))


def test_an_adapter_may_be_a_classifier(tmp_path):
    base = load_from(AutoModelForSequenceClassification, "tiny", num_labels=2)
    base.config.name_or_path = base.name_or_path = "tiny"
    base.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"])
    get_peft_model(base, lora).save_pretrained(tmp_path)
    with pytest.raises(SettingError, match="it has 'LABEL_0', 'LABEL_1'"):
        check_reward(str(tmp_path), None)
    assert "pays for label 'LABEL_1'" in check_reward(f"{tmp_path}#label_1", None)


def test_a_classifier_reads_every_turn_of_a_conversation(tmp_path):
    reward = load_reward(classifier(tmp_path, 1), None)
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi?"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Who are you?"},
    ]
    encoded = encode_conversations(reward.tokenizer, [conversation(turns)], ["Nobody."])
    eos = reward.tokenizer.eos_token
    assert reward.tokenizer.decode(encoded["input_ids"][0]) == (
        f"<system>Be brief.{eos}<user>Hi?{eos}<assistant>Hello.{eos}<user>Who are you?{eos}"
        f"<assistant>Nobody.{eos}"
    )
    refuses = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    )
    reward.tokenizer.chat_template = refuses + reward.tokenizer.chat_template
    folded = encode_conversations(reward.tokenizer, [conversation(turns)], ["Nobody."])
    assert reward.tokenizer.decode(folded["input_ids"][0]).startswith("<user>Be brief.\n\nHi?")
    reward.tokenizer.chat_template = "{{ messages[0]['content'] + 1 }}"  # a TypeError
    with pytest.raises(ModelError, match="cannot write a conversation of these roles: user"):
        encode_conversations(reward.tokenizer, ["Hi?"], ["Nobody."])
