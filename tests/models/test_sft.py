"""The loss of SFT on a CPU against TRL's own, gradients included, and a training that it drives."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from trl import SFTTrainer

from rlhf_utils.data.rows import Demonstration, Prompt, load_demonstrations
from rlhf_utils.errors import ModelError
from rlhf_utils.models import sft
from rlhf_utils.models.load import chat_prompt, load_model, load_tokenizer

DEMONSTRATIONS = load_demonstrations("builtin")
SETTINGS = sft.SFTSettings(
    num_train_epochs=1,
    learning_rate=1e-2,
    per_device_train_batch_size=4,
    lora_r=4,
    seed=0,
    gradient_accumulation_steps=2,
)


def trainer(folder, dtype=torch.float32, **changed):
    model, tokenizer = load_model("tiny", dtype), load_tokenizer("tiny")
    settings = dataclasses.replace(SETTINGS, **changed)
    torch.manual_seed(0)
    train, heldout = DEMONSTRATIONS[:32], DEMONSTRATIONS[32:40]
    made = sft.make_trainer(model, tokenizer, train, heldout, folder, settings)
    for name, parameter in made.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return made


def loss_and_gradients(made, compute_loss, batch, count):
    made.model.zero_grad()
    loss = compute_loss(made, made.model, dict(batch), num_items_in_batch=count)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in made.model.parameters() if p.requires_grad]


@pytest.mark.parametrize("count", [None, 100])
@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_the_loss_is_trls(tmp_path, dtype, tolerance, layers, count):
    made = trainer(tmp_path, dtype, num_trainable_layers=layers)
    batch = next(iter(made.get_train_dataloader()))
    assert (batch["labels"] == -100).any() and (batch["attention_mask"] == 0).any()
    (ours, our_gradients), (theirs, their_gradients) = (
        loss_and_gradients(made, kind.compute_loss, batch, count)
        for kind in (sft.Trainer, SFTTrainer)
    )
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=0)
    assert len(our_gradients) == len(their_gradients) > 0 and all(g.any() for g in our_gradients)
    for our, their in zip(our_gradients, their_gradients):
        assert (our - their).norm() <= 3 * tolerance * their.norm()


def test_a_batch_without_an_answer_costs_nothing(tmp_path):
    made = trainer(tmp_path)
    batch = next(iter(made.get_train_dataloader()))
    batch |= {"labels": torch.full_like(batch["labels"], -100)}
    assert made.compute_loss(made.model, batch) == 0


def test_training_lowers_the_heldout_loss_and_is_repeatable(tmp_path):
    losses = []
    for name in ("one", "two"):
        made = trainer(tmp_path / name, num_train_epochs=3)
        made.train()
        losses.append([row["eval_loss"] for row in made.state.log_history if "eval_loss" in row])
    assert losses[0] == losses[1] and losses[0][-1] < losses[0][0] - 0.03


def test_the_steps_that_the_settings_tell_are_those_of_the_trainer(tmp_path):
    made = trainer(tmp_path, num_train_epochs=2, per_device_train_batch_size=3)
    logged = []
    made.add_callback(sft.LogCallback(lambda log, step: logged.append((len(log), step))))
    made.train()
    settings = dataclasses.replace(SETTINGS, num_train_epochs=2, per_device_train_batch_size=3)
    assert made.state.global_step == settings.num_steps(32) == 12
    assert logged[-1] == (len(made.state.log_history), 12)
    assert [length for length, _ in logged] == sorted(length for length, _ in logged)


def test_sft_learns_on_the_tokens_that_sampling_uses():
    """A tokenizer that adds a token of its own to every text, as Llama's does."""
    tokenizer = load_tokenizer("tiny")
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
    )
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    (row,) = sft.as_dataset(tokenizer, [Demonstration(Prompt("Hi?"), "Hello.")])
    asked = tokenizer(chat_prompt(tokenizer, "Hi?"), add_special_tokens=False)["input_ids"]
    answer = len(row["input_ids"]) - len(asked)
    assert row["input_ids"][: len(asked)] == asked
    assert tokenizer.bos_token_id not in row["input_ids"]
    assert row["completion_mask"] == [0] * len(asked) + [1] * answer
    assert row["input_ids"][-1] == tokenizer.eos_token_id


# --- what is too long, and what diverges

LONG = "The lake is deep and the boat is old. " * 20


def made_of(folder, train, heldout, **changed):
    settings = dataclasses.replace(SETTINGS, max_length=64, **changed)
    model, tokenizer = load_model("tiny"), load_tokenizer("tiny")
    return sft.make_trainer(model, tokenizer, train, heldout, folder, settings)


def demonstrations(count, before="", after=""):
    return [Demonstration(Prompt(f"{before}Say {i}."), f"{i}.{after}") for i in range(count)]


@pytest.mark.parametrize("long", [{"before": LONG}, {"after": LONG}])
def test_demonstrations_that_are_too_long_are_left_out_and_told(tmp_path, capsys, long):
    short = demonstrations(12)
    made = made_of(tmp_path, short + demonstrations(5, **long), short[:3])
    assert len(made.train_dataset) == 12 and made.left_out == 5
    told = capsys.readouterr().out
    assert told.startswith("5 of 17 demonstrations are longer")
    assert "longer than max_length=64 tokens" in told and "more={'max_length': " in told
    end = load_tokenizer("tiny").eos_token_id
    assert all(row["input_ids"][-1] == end for row in made.train_dataset)
    made.train()
    assert all(p.isfinite().all() for p in made.model.parameters())
    assert made.state.max_steps == dataclasses.replace(SETTINGS).num_steps(12)


@pytest.mark.parametrize("side", ["demonstrations", "held-out demonstrations"])
def test_nothing_left_to_learn_or_to_measure_is_one_sentence(tmp_path, side):
    rows = [demonstrations(4), demonstrations(4, before=LONG)]
    train, heldout = rows if side.startswith("held") else rows[::-1]
    with pytest.raises(ModelError, match=f"^4 of 4 {side} are longer than max_length=64 tokens"):
        made_of(tmp_path, train, heldout)


def test_the_built_in_demonstrations_all_fit(tmp_path, capsys):
    made = trainer(tmp_path)
    assert made.left_out == 0 and not capsys.readouterr().out


def test_training_that_diverged_stops_in_a_sentence(tmp_path):
    made = made_of(tmp_path, demonstrations(16), demonstrations(3), learning_rate=1e30)
    told = r"Training diverged: at step \d+ the loss is nan .* lower learning_rate=1e\+30"
    with pytest.raises(ModelError, match=told):
        made.train()


@pytest.mark.parametrize("row", [{"loss": 45.0}, {"eval_loss": float("inf")}, {"loss": 13.9}])
def test_a_loss_far_above_that_of_knowing_nothing_is_divergence(row):
    with pytest.raises(ModelError, match="at step 7 the loss is .* knows nothing has 6.9"):
        sft._check_loss(row, 7, 1024, SETTINGS)
    sft._check_loss({"loss": 8.0, "learning_rate": 0.1}, 7, 1024, SETTINGS)


def test_weights_that_are_no_numbers_are_told_before_training(tmp_path):
    made = made_of(tmp_path, demonstrations(8), demonstrations(3))
    with torch.no_grad():
        made.model.get_input_embeddings().weight[:] = torch.nan
    with pytest.raises(ModelError, match="loss is nan before anything was learned"):
        made.train()
    sft._check_loss({"eval_loss": 30.0}, 0, 1024, SETTINGS)  # bad, but it may learn


def test_the_manifest_counts_what_was_learned_from_and_what_was_left_out(tmp_path):
    """The last cell of 01, as it is."""
    notebook = json.loads((Path(__file__).parents[2] / "notebooks/01_sft.ipynb").read_text())
    (cell,) = (cell for cell in notebook["cells"] if cell["id"] == "01-20")
    made = made_of(tmp_path, demonstrations(12) + demonstrations(5, before=LONG), demonstrations(3))
    made.pausing = SimpleNamespace(must_be_done=lambda: None)
    names = {"trainer": made, "tokenizer": None, "count": 7, "log": [2.0, 1.5]}
    names["stage"] = SimpleNamespace(dir=tmp_path, finish=lambda results: results)
    names |= {"save_merged": lambda *_: None, "show": SimpleNamespace(results=lambda _: None)}
    exec("".join(cell["source"]), names)
    assert names["manifest"]["sft.demonstrations"] == 12 and names["manifest"]["sft.left_out"] == 5
