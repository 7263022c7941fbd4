"""What the heads see, against slow passes over one text at a time."""

import pytest
import torch
from helpers_reward import LONG, SHORT, TEXTS, ids_of, make_model, slow_states
from transformers import (
    AutoModel,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
)

from rlhf_utils.reward import reader
from rlhf_utils.reward.reader import Text, in_batches, mean_over

SIZES = {
    "vocab_size": 1024,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
FAMILIES = {
    "llama": LlamaConfig(**SIZES, num_key_value_heads=2),
    "a sliding window": MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=8),
    "mixed attention": Gemma2Config(
        **SIZES, num_key_value_heads=2, sliding_window=8, head_dim=8, query_pre_attn_scalar=8
    ),
    "gpt_neox": GPTNeoXConfig(**SIZES),
    "gpt2": GPT2Config(
        vocab_size=1024,
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_positions=256,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "opt": OPTConfig(
        vocab_size=1024,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=256,
        word_embed_proj_dim=32,
    ),
    "no positions": BloomConfig(vocab_size=1024, hidden_size=32, n_layer=3, n_head=4),
}
ODD = [
    ("Hi? " * 50, "Hello."),
    ("Hi? " * 50, "No. " * 6),
    ("Hi?", "Hello " * 50),  # its prompt is lost where the length is bounded
    ("Hi?", ""),
]


def check(model, texts):
    found = model.reader.read(texts)
    assert set(found) == set(texts)
    for text, states in found.items():
        assert states.dtype == torch.float32
        assert torch.allclose(states, slow_states(model, *text), atol=1e-4), text


@pytest.mark.parametrize("max_length", [512, 20])
@pytest.mark.parametrize("tokens", [1, 40, 1024])
def test_texts_read_together_equal_texts_read_alone(tokens, max_length, monkeypatch):
    """Prompts with several answers and with one, long and short together, lost beginnings."""
    monkeypatch.setattr(reader, "MOST_TOKENS", tokens)
    check(make_model(max_length=max_length), TEXTS + ODD)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_read(family):
    torch.manual_seed(0)
    backbone = AutoModel.from_config(FAMILIES[family]).eval()
    model = make_model(backbone)
    assert model.reader.middle == 2
    check(model, TEXTS)


def test_bfloat16_is_read_into_float32():
    backbone = AutoModel.from_config(FAMILIES["llama"], dtype=torch.bfloat16).eval()
    states = make_model(backbone).reader.read(TEXTS)
    assert {found.dtype for found in states.values()} == {torch.float32}


def test_the_answer_ends_with_the_end_of_sequence():
    model = make_model()
    (text,) = model.reader.tokenize([("Hi?", "Hello.")])
    ids, asked = ids_of(model.tokenizer, "Hi?", "Hello.")
    assert text == Text("Hi?", "Hello.", tuple(ids[:asked]), tuple(ids[asked:]), len(ids))
    assert text.answer_ids[-1] == model.tokenizer.eos_token_id
    assert model.tokenizer.decode(text.answer_ids[:-1]) == "Hello."


def test_a_text_that_is_too_long_loses_its_beginning():
    model = make_model()
    ids, asked = ids_of(model.tokenizer, "Hi?", "Hello.")
    answer = len(ids) - asked

    def cut(max_length: int) -> tuple[list[int], list[int]]:
        model.reader.max_length = max_length
        (text,) = model.reader.tokenize([("Hi?", "Hello.")])
        assert text.length == len(ids)  # of the whole text, so that a reader can be told
        return list(text.prompt_ids), list(text.answer_ids)

    assert cut(len(ids)) == (ids[:asked], ids[asked:])
    assert cut(answer + 2) == (ids[asked - 2 : asked], ids[asked:])
    assert cut(answer + 1) == (ids[asked - 1 : asked], ids[asked:])
    # The prompt is gone: the first token left of the answer stands for it.
    assert cut(answer) == (ids[asked : asked + 1], ids[asked + 1 :])
    assert cut(answer - 1) == (ids[asked + 1 : asked + 2], ids[asked + 2 :])


def test_mean_over_places():
    states = torch.tensor([[[1.0], [2.0], [6.0]], [[3.0], [5.0], [7.0]]], dtype=torch.bfloat16)
    found = mean_over(states, torch.tensor([[True, False, True], [False, False, False]]))
    assert found.tolist() == [[3.5], [0.0]] and found.dtype == torch.float32


def test_padding_of_a_prompt_changes_nothing():
    """However many tokens, with whatever id, stand before a prompt in its batch."""
    model = make_model()
    alone = model.reader.read([(SHORT, "Hello.")])[SHORT, "Hello."]
    for pad_id in (0, 5, model.tokenizer.eos_token_id):
        model.tokenizer.pad_token = model.tokenizer.convert_ids_to_tokens(pad_id)
        beside = model.reader.read([(SHORT, "Hello."), (LONG, "By their roots."), ODD[0]])
        assert torch.allclose(beside[SHORT, "Hello."], alone, atol=1e-5)


def test_batches_are_bounded_and_the_longest_come_first(monkeypatch):
    monkeypatch.setattr(reader, "MOST_TOKENS", 10)
    items = ["x" * length for length in (3, 12, 1, 4, 2, 1)]
    lengths = [[len(item) for item in batch] for batch in in_batches(items)]
    assert lengths == [[12], [4, 3], [2, 1, 1]]
    assert in_batches([2, 9, 3], abs) == [[9], [3, 2]]


def test_texts_are_read_in_the_same_order_in_every_process():
    """The order of a set of texts is another in every process; a reward's last bits follow it."""
    model = make_model()
    asked = [("Hi?", f"No. {number}") for number in range(160, 100, -1)]
    length = {(text.prompt, text.answer): text.length for text in model.reader.tokenize(asked)}
    read = list(model.reader.read(asked))
    assert read == sorted(asked, key=lambda text: -length[text])


def test_a_text_is_read_once_however_often_it_is_asked():
    model, seen = make_model(), []
    read_answers = model.reader.read_answers

    def counted(asked, texts):
        seen.extend((text.prompt, text.answer) for text in texts)
        return read_answers(asked, texts)

    model.reader.read_answers = counted
    model.reader.read(TEXTS + TEXTS[::-1])
    assert sorted(seen) == sorted(TEXTS)
    assert model.reader.read([]) == {}
