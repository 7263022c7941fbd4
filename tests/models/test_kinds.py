"""Families of models: through all stages with the defaults, or refused before the first."""

import pytest
import torch
from helpers_models import LLAMA, close, other_tokenizer, resized, saved, seeded
from transformers import (
    AutoModel,
    BartConfig,
    BloomConfig,
    Cohere2Config,
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    GraniteConfig,
    MambaConfig,
    MixtralConfig,
    MptConfig,
    OPTConfig,
    Phi3Config,
    PhimoeConfig,
    Qwen2Config,
    RobertaConfig,
    SiglipVisionConfig,
    T5Config,
)

from rlhf_utils.data.rows import Demonstration, Prompt
from rlhf_utils.errors import ModelError
from rlhf_utils.models import sampling, sft
from rlhf_utils.models.adapters import layer_of
from rlhf_utils.models.check import check_lengths, check_model
from rlhf_utils.models.export import save_merged
from rlhf_utils.models.kinds import check_kind, context_of
from rlhf_utils.models.load import load_model, load_tokenizer
from rlhf_utils.ppo.policy import make_policy, save_and_check
from rlhf_utils.reward.model import RewardModel, load_reward_model

IDS = {"vocab_size": 1024, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4} | IDS
SIZES = SMALL | {"intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 256}
OPT = SMALL | {"ffn_dim": 64, "max_position_embeddings": 256}
FAMILIES = {
    "gpt2": GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=256, **IDS),
    "gpt_neo": GPTNeoConfig(
        hidden_size=32,
        num_layers=3,
        num_heads=4,
        attention_types=[[["global"], 3]],
        max_position_embeddings=256,
        **IDS,
    ),
    "falcon, linear layers of its own": FalconConfig(**SMALL),
    "opt-350m, a narrower last layer": OPTConfig(
        **OPT, word_embed_proj_dim=16, do_layer_norm_before=False
    ),
    "bloom, no positions": BloomConfig(n_layer=3, n_head=4, hidden_size=32, **IDS),
    "mpt": MptConfig(d_model=32, n_heads=4, n_layers=3, max_seq_len=256, **IDS),
    "phi3": Phi3Config(**SIZES),
    "mixtral": MixtralConfig(**SIZES, num_local_experts=4),
    "phimoe, a router that is a linear layer": PhimoeConfig(**SIZES, num_local_experts=4),
    "granite": GraniteConfig(**SIZES, logits_scaling=1.0),
    "gemma3 text": Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=12),
}


def pictures():
    """A model that reads pictures, too: its text is in a config of its own."""
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    tokens = {"image_token_index": 5, "boi_token_index": 6, "eoi_token_index": 7}
    text = Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=12)
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, **tokens)
    torch.manual_seed(0)
    return Gemma3ForConditionalGeneration(config)


@pytest.mark.filterwarnings("ignore:This .* runs the whole model")
@pytest.mark.parametrize("family", [*FAMILIES, "gemma3 with pictures"])
def test_a_family_goes_through_all_stages_with_the_defaults(family, tmp_path, capsys):
    if family in FAMILIES:
        name = saved(tmp_path / "base", FAMILIES[family])
    else:
        name = saved(tmp_path / "base", model=pictures())
    facts, tokenizer = check_model(name), load_tokenizer(name)

    rows = [Demonstration(Prompt(f"Name {i}."), f"It is {i}.") for i in range(4)]
    settings = sft.SFTSettings(1, 1e-3, 4, lora_r=16, seed=0)
    model = load_model(name)
    assert facts.parameters == sum(p.numel() for p in model.parameters())
    trainer = sft.make_trainer(model, tokenizer, rows, rows[:2], tmp_path / "t", settings)
    learned = [n for n, p in trainer.model.named_parameters() if p.requires_grad]
    assert {layer_of(n) for n in learned} == {0, 1, 2}
    trainer.train()
    name = str(tmp_path / "sft")
    save_merged(trainer.model, tokenizer, tmp_path / "sft")

    texts = (["Hi?", "How do plants drink water in the summer?"], ["Hello.", "By roots, at night."])
    judge = RewardModel(load_model(name, auto_class=AutoModel), tokenizer, ensemble=2)
    judge.normalise(*texts)
    alone = torch.cat([judge.raw([prompt], [answer]) for prompt, answer in zip(*texts)])
    close(judge.raw(*texts), alone, 1e-5)
    judge.save(tmp_path / "judge")
    close(load_reward_model(tmp_path / "judge").raw(*texts), alone, 1e-5)

    for lora_r in (16, 0):
        policy = make_policy(load_model(name), lora_r, 12)
        assert "num_trainable_layers=12: the model has 3" in capsys.readouterr().out
        samples = sampling.sample(policy.model, tokenizer, texts[0], 5, 1.0, seeded())
        close(samples.logprobs, alone_logprobs(load_model(name), samples), 1e-4)
        with torch.no_grad():
            for parameter in policy.trainable().values():
                parameter += 0.01 * torch.randn(parameter.shape, generator=seeded(1))
        with policy.reference():
            again = sampling.sample(policy.model, tokenizer, texts[0], 5, 1.0, seeded())
        assert torch.equal(again.answer_ids, samples.answer_ids)
        folder = tmp_path / f"ppo{lora_r}"
        assert save_and_check(policy, tokenizer, name, folder, "Hi?") < 1e-3


@torch.no_grad()
def alone_logprobs(model, samples):
    found = torch.zeros_like(samples.logprobs)
    for row in range(len(found)):
        prompt = samples.prompt_ids[row][samples.prompt_mask[row]]
        answer = samples.answer_ids[row][samples.answer_mask[row]]
        logits = model(torch.cat([prompt, answer])[None]).logits[0].log_softmax(-1)
        chosen = logits[len(prompt) - 1 : -1].gather(1, answer[:, None])
        found[row, : len(answer)] = chosen[:, 0]
    return found


@pytest.mark.parametrize(
    "config, told",
    [
        (Gemma2Config(**SIZES), "logits after the head .final_logit_softcapping=30.0"),
        (CohereConfig(**SIZES), "logits after the head .logit_scale=0.0625"),
        (Cohere2Config(**SIZES), "logits after the head .logit_scale=0.0625"),
        (GraniteConfig(**SIZES, logits_scaling=8.0), "logits_scaling=8.0"),
        (MambaConfig(hidden_size=32, num_hidden_layers=2, **IDS), "recurrent .mamba"),
        (RobertaConfig(**SMALL), "an encoder .roberta"),
        (BartConfig(), "an encoder-decoder .bart"),
        (T5Config(), "an encoder-decoder .t5"),
        (Qwen2Config(quantization_config={"quant_method": "gptq", "bits": 4}), "quantised .gptq"),
        (Qwen2Config(architectures=["Qwen2ForSequenceClassification"]), "scores, not texts .Qwen2"),
        (SiglipVisionConfig(), "no causal language model .siglip_vision_model"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_what_cannot_work_is_refused_by_its_config_alone(config, told):
    with pytest.raises(ModelError, match=f"^The model 'x' .*{told}") as caught:
        check_kind("x", config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "config, context",
    [
        (GPT2Config(n_positions=77), 77),
        (OPTConfig(max_position_embeddings=2048), 2048),  # its table has two rows more
        (MptConfig(max_seq_len=99), 99),
        (BloomConfig(), None),
        (FalconConfig(alibi=True), None),
        (resized(LLAMA), 256),
        (Gemma3Config(text_config=Gemma3TextConfig(max_position_embeddings=123)), 123),
    ],
    ids=lambda value: getattr(value, "model_type", value),
)
def test_how_many_tokens_a_model_takes(config, context):
    assert context_of(config) == context


# --- positions that end

LONG = "The plant drinks water. " * 30


@pytest.fixture
def gpt2(tmp_path):
    tokenizer = other_tokenizer(eos_token="<|im_end|>", pad_token="<|endoftext|>")
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=128, **IDS)
    return saved(tmp_path / "gpt2", config, tokenizer)


def test_a_prompt_beyond_the_positions_is_told_before_anything_is_sampled(gpt2):
    model, tokenizer = load_model(gpt2), load_tokenizer(gpt2)
    count = len(tokenizer(LONG.rstrip() + "\n")["input_ids"])
    told = f"The prompt 'The plant .*' has {count} tokens, which with an answer of 8 .* the 128"
    with pytest.raises(ModelError, match=told):
        sampling.sample(model, tokenizer, ["Hi?", LONG], 8, 1.0, seeded())
    fits = "The plant drinks water. " * 12
    room = 128 - len(tokenizer(fits.rstrip() + "\n")["input_ids"])
    assert 0 < room < 64
    assert sampling.sample(model, tokenizer, [fits], room, 1.0, seeded()).answers
    with pytest.raises(ModelError, match=f"with an answer of {room + 1} are more"):
        sampling.sample(model, tokenizer, [fits], room + 1, 1.0, seeded())

    def track(batches):
        pytest.fail("a batch was begun")

    settings = sampling.Sampling(8, 1.0, batch_size=1)
    for function in (sampling.sample_answers, sampling.sample_many):
        with pytest.raises(ModelError, match=told):
            list(function(model, tokenizer, ["Hi?", LONG], settings, seeded(), track))


def test_lengths_are_checked_without_the_model(gpt2):
    facts = check_model(gpt2)
    assert facts.context == 128
    check_lengths(facts, ["Hi?", "How are you?"], 48)
    with pytest.raises(ModelError, match="'The plant drinks .*with an answer of 48"):
        check_lengths(facts, ["Hi?", LONG], 48)


def test_a_reward_model_reads_no_more_than_the_positions(gpt2):
    judge = RewardModel(load_model(gpt2, auto_class=AutoModel), load_tokenizer(gpt2))
    assert judge.reader.max_length == 128
    assert judge.raw([LONG], ["Yes."]).isfinite().all()


def test_sft_learns_no_more_than_the_positions(gpt2, tmp_path, capsys):
    rows = [Demonstration(Prompt(f"Name {i}."), "Yes.") for i in range(4)]
    rows.append(Demonstration(Prompt(LONG), "Yes."))
    settings = sft.SFTSettings(1, 1e-3, 2, lora_r=2, seed=0)  # max_length=512
    model, tokenizer = load_model(gpt2), load_tokenizer(gpt2)
    trainer = sft.make_trainer(model, tokenizer, rows, rows[:2], tmp_path / "t", settings)
    assert trainer.left_out == 1
    assert "1 of 5 demonstrations are longer than max_length=128" in capsys.readouterr().out
    trainer.train()


def test_the_check_of_the_built_in_model_is_quick():
    facts = check_model("tiny")
    assert facts.context == 512
    assert facts.parameters == sum(p.numel() for p in load_model("tiny").parameters())
