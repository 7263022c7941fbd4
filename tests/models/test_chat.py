"""How a prompt begins and an answer ends, with tokenizers of many kinds, in every stage."""

import json

import pytest
import torch
from helpers_models import other_tokenizer, saved, seeded, small
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from rlhf_utils.data.rows import Demonstration, Prompt, conversation
from rlhf_utils.errors import ModelError
from rlhf_utils.models import sampling, sft
from rlhf_utils.models.export import save_merged
from rlhf_utils.models.load import (
    answer_end,
    chat_prompt,
    end_ids,
    load_model,
    load_tokenizer,
)
from rlhf_utils.ppo.policy import make_policy, save_and_check
from rlhf_utils.reward.model import RewardModel, load_reward_model

END, START, TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
ASKED = "Where do bees sleep?"
TALK = conversation(
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Name a bird."},
        {"role": "assistant", "content": "Wren."},
        {"role": "user", "content": "Another?"},
    ]
)

KINDS = {
    "gpt2: one token for all": {"eos_token": END, "bos_token": END, "unk_token": END},
    "llama 3: no pad, no unk": {"eos_token": END, "bos_token": START},
    "qwen base: pad is eos": {"eos_token": END, "pad_token": END},
    "no eos": {"pad_token": END},
    "nothing at all": {},
    "llama 2: pad is unk": {"eos_token": TURN, "bos_token": START, "unk_token": END},
}


def prompt_ids(folder):
    """The prompt's token ids in 01, in 02 (04 and 05 too) and in 03."""
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    (row,) = sft.as_dataset(tokenizer, [Demonstration(Prompt(ASKED), "In hives.")])
    learned = [i for i, answer in zip(row["input_ids"], row["completion_mask"]) if not answer]
    asked = sampling.sample(model, tokenizer, [ASKED], 2, 1.0, seeded()).prompt_ids[0].tolist()
    judge = RewardModel(load_model(folder, auto_class=AutoModel), tokenizer)
    (text,) = judge.reader.tokenize([(ASKED, "In hives.")])
    return learned, asked, list(text.prompt_ids)


def test_what_the_tokenizer_puts_first_comes_first_in_every_stage(tmp_path):
    own = other_tokenizer(True, bos_token=START, eos_token=TURN, unk_token=END, pad_token=END)
    expected = own(ASKED + "\n")["input_ids"]
    assert expected[0] == own.bos_token_id
    assert prompt_ids(saved(tmp_path, tokenizer=own)) == (expected,) * 3


def test_nothing_comes_first_where_the_tokenizer_puts_nothing(tmp_path):
    own = other_tokenizer(bos_token=START, eos_token=TURN, pad_token=END)
    expected = own(ASKED + "\n")["input_ids"]
    assert own.bos_token_id not in expected
    assert prompt_ids(saved(tmp_path, tokenizer=own)) == (expected,) * 3


def test_a_chat_template_says_itself_what_comes_first():
    tokenizer = other_tokenizer(True, bos_token=START, eos_token=TURN)
    tokenizer.chat_template = "{{ bos_token }}Q: {{ messages[0]['content'] }}\nA:"
    text = chat_prompt(tokenizer, ASKED)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert text == f"{START}Q: {ASKED}\nA:" and ids.count(tokenizer.bos_token_id) == 1


def test_a_conversation_without_a_template_is_a_transcript():
    tokenizer = other_tokenizer(eos_token=TURN)
    assert chat_prompt(tokenizer, TALK) == (
        "System: Be brief.\n\nUser: Name a bird.\n\nAssistant: Wren.\n\nUser: Another?\n\n"
        "Assistant:\n"
    )


NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}: {{ m['content'] }}<|im_end|>{% endfor %}"
)


FORGETS_SYSTEM = (
    "{% for m in messages %}{% if m['role'] != 'system' %}"
    "<|im_start|>{{ m['role'] }}: {{ m['content'] | trim }}<|im_end|>{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("template", [NO_SYSTEM, FORGETS_SYSTEM])
def test_a_template_without_system_gets_it_in_the_first_turn(template):
    tokenizer = other_tokenizer(eos_token=TURN)
    tokenizer.chat_template = template
    text = chat_prompt(tokenizer, TALK)
    assert text.startswith("<|im_start|>user: Be brief.\n\nName a bird.<|im_end|>")
    assert text.endswith("<|im_start|>user: Another?<|im_end|>")


def test_a_template_that_wants_contents_in_parts_gets_them():
    tokenizer = other_tokenizer(eos_token=END, additional_special_tokens=[TURN])
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] %}"
        "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>"
        "{% endfor %}"
    )
    assert chat_prompt(tokenizer, ASKED) == f"user: {ASKED}{TURN}"
    assert answer_end(tokenizer) == TURN


def test_a_conversation_that_a_template_refuses_is_told():
    tokenizer = other_tokenizer(eos_token=TURN)
    tokenizer.chat_template = NO_SYSTEM
    alone = conversation([{"role": "system", "content": "Only rules."}])
    with pytest.raises(ModelError, match="roles: system .*not supported.*'Only rules.'"):
        chat_prompt(tokenizer, alone)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tokenizer_goes_through_all_stages(kind, tmp_path):
    """Padding must not be taken for an end, nor an end for padding."""
    folder = saved(tmp_path / "base", tokenizer=other_tokenizer(**KINDS[kind]))
    tokenizer, model = load_tokenizer(folder), load_model(folder)
    assert tokenizer.eos_token and tokenizer.pad_token
    rows = [Demonstration(Prompt(f"Say {'very ' * i}much."), f"Much {i}.") for i in range(4)]
    settings = sft.SFTSettings(1, 1e-3, 2, lora_r=2, seed=0)
    trainer = sft.make_trainer(model, tokenizer, rows, rows[:2], tmp_path / "t", settings)
    batch = next(iter(trainer.get_train_dataloader()))
    ends = (batch["labels"] == tokenizer.eos_token_id).sum(1)
    assert (batch["attention_mask"] == 0).any() and ends.tolist() == [1, 1]
    trainer.train()
    save_merged(trainer.model, tokenizer, tmp_path / "sft")

    name = str(tmp_path / "sft")
    tokenizer, model = load_tokenizer(name), load_model(name)
    alone = model(torch.tensor([tokenizer(chat_prompt(tokenizer, "Hi?"))["input_ids"]]))
    beside = sampling.sample(model, tokenizer, ["Hi?", ASKED * 2], 3, 1.0, seeded())
    first = alone.logits[0, -1].log_softmax(-1)[beside.answer_ids[0, 0]]
    assert torch.allclose(beside.logprobs[0, 0], first, atol=1e-4)
    judge = RewardModel(load_model(name, auto_class=AutoModel), tokenizer)
    judge.save(tmp_path / "judge")
    texts = (["Hi?", ASKED], ["Hello.", "In hives, at night."])
    again = load_reward_model(tmp_path / "judge")
    assert torch.allclose(again.raw(*texts), judge.raw(*texts), atol=1e-5)
    policy = make_policy(load_model(name), 2, 12)
    assert save_and_check(policy, tokenizer, name, tmp_path / "ppo", "Hi?") < 1e-4


def test_a_missing_end_is_a_usual_one(tmp_path, capsys):
    folder = saved(tmp_path, tokenizer=other_tokenizer(pad_token=END))
    assert load_tokenizer(folder).eos_token == END
    assert f"names no end-of-sequence token: {END} is taken" in capsys.readouterr().out


def test_tokens_without_an_embedding_get_the_mean_of_the_others(tmp_path, capsys):
    tokenizer = load_tokenizer("tiny")
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    folder = saved(tmp_path, tokenizer=tokenizer)
    state = torch.get_rng_state()
    model = load_model(folder)
    assert torch.equal(torch.get_rng_state(), state), "no other draw may change"
    assert "has 1,024 embeddings for the 1,025 tokens" in capsys.readouterr().out
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert torch.allclose(layer.weight[1024], layer.weight[:1024].mean(0))
    samples = sampling.sample(model, load_tokenizer(folder), ["Hi?", ASKED], 3, 1.0, seeded())
    assert samples.prompt_ids[0, 0] == 1024
    assert load_model(folder, auto_class=AutoModel).get_input_embeddings().weight.shape[0] == 1025


# --- ends


def turned(template_end=TURN, **special):
    tokenizer = other_tokenizer(**{"pad_token": END} | special)
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}" + template_end + "\n"
        "{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    return tokenizer


def test_the_token_that_ends_a_turn_ends_an_answer_too():
    tokenizer = turned(eos_token=END, additional_special_tokens=[TURN])
    assert answer_end(tokenizer) == TURN
    model = small()
    model.generation_config.eos_token_id = [2, 0, 50256, 77]  # the last two are no special tokens
    assert end_ids(model, tokenizer) == [0, 2]
    assert answer_end(turned("", eos_token=END)) == END  # the template closes nothing


def test_the_built_in_models_have_one_end(tokenizer):
    assert end_ids(load_model("tiny"), tokenizer) == [tokenizer.eos_token_id]
    assert answer_end(tokenizer) == tokenizer.eos_token


@pytest.mark.parametrize("end", [END, TURN, START])
def test_sampling_ends_at_any_end_and_the_text_is_without_it(end, tmp_path):
    tokenizer = turned(eos_token=END, additional_special_tokens=[TURN])
    model = small_that_says(tokenizer, [100, end])
    if end == START:
        model.generation_config.eos_token_id = [0, 1]  # of the generation config alone
        tokenizer.add_special_tokens({"bos_token": START})
    samples = sampling.sample(model, tokenizer, ["Hi?"], 6, 1.0, seeded())
    assert samples.ended.all() and samples.answer_mask.sum() == 2
    assert samples.answers == [tokenizer.decode([100]).strip()]
    save_merged(model, tokenizer, tmp_path)
    told = AutoModelForCausalLM.from_pretrained(tmp_path).generation_config.eos_token_id
    assert sorted(told) == sorted(end_ids(model, tokenizer)) and len(told) >= 2


def small_that_says(tokenizer, tokens):
    """The tiny model, which says one token and then the other, again and again."""
    model = load_model("tiny")
    first, second = (
        t if isinstance(t, int) else tokenizer.convert_tokens_to_ids(t) for t in tokens
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.norm.weight.fill_(1)
        model.model.embed_tokens.weight[:, 0] = 1.0  # what was read last: anything …
        model.model.embed_tokens.weight[first] = 0
        model.model.embed_tokens.weight[first, 1] = 1.0  # … or the first
    head = torch.nn.Linear(64, 1024, bias=False)
    with torch.no_grad():
        head.weight.zero_()
        head.weight[first, 0] = head.weight[second, 1] = 20.0
    model.lm_head = head
    return model


def test_sft_and_the_reward_model_take_the_end_of_the_template(tmp_path):
    tokenizer = turned(eos_token=END, additional_special_tokens=[TURN])
    (row,) = sft.as_dataset(tokenizer, [Demonstration(Prompt("Hi?"), "Hello.")])
    assert row["input_ids"][-1] == tokenizer.convert_tokens_to_ids(TURN)
    folder = saved(tmp_path, tokenizer=tokenizer)
    judge = RewardModel(load_model(folder, auto_class=AutoModel), load_tokenizer(folder))
    assert judge.reader.tokenize([("Hi?", "Hello.")])[0].answer_ids[-1] == 2


def test_a_saved_model_of_one_end_names_one(tmp_path, tokenizer):
    save_merged(load_model("tiny"), tokenizer, tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == 2
    assert AutoTokenizer.from_pretrained(tmp_path).eos_token == TURN
