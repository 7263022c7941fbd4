"""A small world for fault_bench.py: a π_SFT of 0.8 million weights and its reward model.

Made of this suite's own parts: fine-tuned on the built-in demonstrations until it has their habits
(filler, ends, refusals, no knowledge), answers ranked by the simulated annotators, heads trained on
the pairs. Four minutes on one core, once.
"""

import random
from pathlib import Path

import torch
from transformers import AutoModel, LlamaConfig, LlamaForCausalLM

from rlhf_utils.data.rows import load_demonstrations, load_prompts, pick
from rlhf_utils.models import sampling, sft
from rlhf_utils.models.export import save_merged
from rlhf_utils.models.load import load_model, load_tokenizer
from rlhf_utils.preferences.annotators import simulated_annotators
from rlhf_utils.preferences.pairs import Item, Judgement, pairs_of, usable_pairs
from rlhf_utils.reward import training
from rlhf_utils.reward.model import RewardModel
from rlhf_utils.run.stage import seed_everything

SIZES = {
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
STEPS, BATCH, LEARNING_RATE = 700, 32, 3e-3  # of fine-tuning, from random weights
EARLIER = 150  # the step whose model is the stale reference
NUM_PROMPTS = 1200  # ranked, and asked by PPO
LENGTH, TEMPERATURE = 48, 0.7  # of answers


def fine_tune(folder: Path) -> None:
    """Writes folder/sft, and folder/earlier, the same model a fifth of the way there."""
    seed_everything(0)
    tokenizer = load_tokenizer("tiny")
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
    ids |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    model = LlamaForCausalLM(LlamaConfig(**SIZES, **ids, tie_word_embeddings=True))
    rows = sft.as_dataset(tokenizer, load_demonstrations("builtin"))["input_ids"]
    rows = list(rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.1)
    for step in range(STEPS):
        few = [{"input_ids": ids} for ids in random.sample(rows, BATCH)]
        batch = tokenizer.pad(few, padding_side="right", return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(**batch, labels=labels, use_cache=False).loss  # of the prompts, too
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min((step + 1) / 100, 1 - step / STEPS)
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step} of {STEPS}: {loss.item():.2f} nats a token", flush=True)
        if step == EARLIER:
            save_merged(model, tokenizer, folder / "earlier")
    save_merged(model, tokenizer, folder / "sft")


def prompts() -> list:
    return pick(load_prompts("builtin"), NUM_PROMPTS, 0)


def ranked_pairs(folder: Path) -> list:
    """The pairs of four answers to each prompt, as the three simulated annotators rank them."""
    tokenizer, policy = load_tokenizer(str(folder / "sft")), load_model(str(folder / "sft"))
    asked = prompts()
    how = sampling.Sampling(LENGTH, [0.7, 0.8, 0.9, 1.0], 256)
    texts, generator = [prompt.text for prompt in asked], seed_everything(0)
    answers = sampling.sample_several(policy, tokenizer, texts, how, True, generator)
    found, rng = [], random.Random(0)
    for item in map(Item, asked, answers):
        for annotator in simulated_annotators():
            order = rng.sample(range(4), 4)
            ranks = annotator.rank(item, order, rng)
            text = item.prompt.text
            said = Judgement(item.id, annotator.name, text, item.answers, order, ranks)
            found += pairs_of(said, item)
    return usable_pairs(found)[0]


def train_reward(folder: Path) -> None:
    """Writes folder/reward_model."""
    pairs = ranked_pairs(folder)
    train, _, heldout, _ = training.split_pairs(pairs, 0.1, 0.0, 0)
    groups, others = training.group_by_prompt(train), training.group_by_prompt(heldout)
    seed_everything(0)
    tokenizer = load_tokenizer(str(folder / "sft"))
    model = RewardModel(load_model(str(folder / "sft"), auto_class=AutoModel), tokenizer, 2)
    texts = [text for group in groups + others for text in group.texts]
    model.known = model.reader.read(texts)
    training.fit_heads(model.heads, model.known, groups, epochs=10, seed=0, learning_rate=1e-3)
    right = training.accuracy_of_heads(model.heads, model.known, others)
    print(f"the reward model is right on {right:.1%} of the held-out pairs")
    few = sorted(text for group in groups for text in group.texts)
    model.normalise(*zip(*random.Random(0).sample(few, 1000)))
    model.save(folder / "reward_model")


def make_world(folder: Path) -> Path:
    """The folder with sft/, earlier/ and reward_model/, made where they are missing."""
    if not (folder / "sft" / "config.json").is_file():
        fine_tune(folder)
    if not (folder / "reward_model" / "reward_config.json").is_file():
        train_reward(folder)
    return folder
