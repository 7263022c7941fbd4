"""Talking to a run's models: their numbers, their tokens as they come, and the real command."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from helpers_models import lively, slow_logprobs
from helpers_ppo import fresh_run
from helpers_run import call, finish
from nbclient import NotebookClient

from rlhf_utils import interrupts
from rlhf_utils.data.rows import load_prompts
from rlhf_utils.lab import chat, terminal
from rlhf_utils.models.load import load_model, load_tokenizer
from rlhf_utils.models.sampling import sample
from rlhf_utils.ppo.policy import make_policy

ROOT = Path(__file__).resolve().parents[2]
REWARD = "def length(prompts, completions, **columns):\n    return [len(c) for c in completions]\n"


def length(prompts, completions, **columns):
    return [len(text) for text in completions]


def learned(policy):
    """The policy with adapters that do something."""
    torch.manual_seed(1)
    for name, weight in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    return policy


@pytest.fixture(scope="module")
def talker(tokenizer):
    run = fresh_run()
    with torch.no_grad():  # answers of a few tokens
        run.policy.model.get_output_embeddings().bias[tokenizer.eos_token_id] = 3.0
    speakers = chat.speakers_of((lively(tokenizer), tokenizer), tokenizer, learned(run.policy))
    return chat.Chat(speakers, length, response_length=12)


def ask(talker, text):
    """(replies, [speaker's number, tokens so far] of each step)."""
    steps = []
    talker.seed = 0
    replies = list(talker.ask(text, lambda number, tokens: steps.append((number, tokens))))
    return replies, steps


def test_tokens_come_one_by_one_and_end_as_the_whole_answer(talker):
    replies, steps = ask(talker, "Hi?")
    for number, reply in enumerate(replies):
        own = [tokens for who, tokens in steps if who == number]
        assert list(map(len, own)) == list(range(1, len(reply.tokens) + 1))
        assert own[-1] == reply.tokens
    assert [who for who, _ in steps] == sorted(who for who, _ in steps)


def test_the_three_are_base_reference_and_policy(talker):
    """Each answer is what its own model samples with the same seed."""
    replies, _ = ask(talker, "Hi?")
    base, sft, rlhf = talker.speakers
    for reply, speaker in zip(replies, talker.speakers):
        with speaker.within():
            generator = torch.Generator().manual_seed(1)
            samples = sample(speaker.model, speaker.tokenizer, ["Hi?"], 12, 0.7, generator)
        assert "".join(reply.tokens).startswith(samples.answers[0][:8])
        assert f"reward {len(samples.answers[0]):+.2f}" in reply.numbers
        assert bool(reply.logratio) == (speaker is rlhf)
    assert replies[1].tokens != replies[2].tokens and len(replies[2].tokens) > 3
    # the last samples are π_RLHF's
    row = samples.answer_ids[0][samples.answer_mask[0]]
    new = slow_logprobs(rlhf.model, samples, 0, 0.7)
    with rlhf.reference():
        old = slow_logprobs(rlhf.model, samples, 0, 0.7)
    ratios = (new - old).gather(1, row[:, None])[:, 0]
    assert replies[2].logratio == pytest.approx(ratios.tolist(), abs=1e-4)
    kl = (new.exp() * (new - old)).sum()
    assert f"KL {kl:.1f} nats" in replies[2].numbers and kl > 0.1


def test_gold_is_told_of_built_in_prompts_alone(talker):
    known = load_prompts("builtin", "heldout")[0].text
    assert all("gold" in reply.numbers[1] for reply in ask(talker, known)[0])
    assert not any("gold" in " ".join(reply.numbers) for reply in ask(talker, "Hi?")[0])


def test_a_reward_that_fails_costs_no_answer(talker):
    def needs_more(prompts, completions, **columns):
        return [None]

    lame = chat.Chat(talker.speakers, needs_more, response_length=4)
    assert all("reward" not in " ".join(reply.numbers) for reply in lame.ask("Hi?", print))


def test_html_is_escaped_and_coloured(talker):
    hostile = "<img src=x onerror=alert(1)>"
    reply = chat.Reply([hostile, "b"], [0.5, -3.0], [hostile])
    text = chat.table(talker, hostile, [reply])
    assert "<img" not in text and text.count("&lt;img") == 3
    assert "rgba(0,114,178,0.30)" in text and "rgba(213,94,0,0.60)" in text
    assert "title='log-ratio -3.00'" in text


def test_the_form_streams_into_its_html(talker):
    form = chat.form(talker)
    (line, button), shown = form.children[0].children, form.children[1]
    values = []
    shown.observe(lambda change: values.append(change["new"]), "value")
    line.value = "Hi <b>?"
    button.click()
    assert len(values) > 12 and not button.disabled
    assert all("Hi &lt;b&gt;?" in value for value in values)
    assert values[-1].count("<small>reward") == 3
    line.value = "word " * 2000
    line._handle_string_msg(line, {"event": "submit"}, [])  # Enter
    assert "more than the 512" in shown.value and not button.disabled


TALKING = """
from rlhf_utils.lab import chat
class One:
    speakers = [chat.Speaker("base", None, None)]
    def ask(self, text, told):
        yield chat.Reply(["An ", "answer"])
chat.talk(One(), "Who?")
"""


def test_nobody_types_in_papermill_so_no_widget_is_saved():
    """The second cell says what JupyterLab says: that somebody can type."""
    somebody = "get_ipython().kernel._allow_stdin = True\n" + TALKING
    cells = [nbformat.v4.new_code_cell(code) for code in (TALKING, somebody)]
    done = NotebookClient(nbformat.v4.new_notebook(cells=cells), kernel_name="python3").execute()
    alone, with_person = ([output["data"] for output in cell.outputs] for cell in done.cells)
    assert ["An answer" in data["text/html"] for data in alone] == [True]
    assert ["application/vnd.jupyter.widget-view+json" in data for data in with_person] == [
        False,
        True,
    ]


# --- the terminal


def test_control_characters_of_a_model_do_nothing_to_a_terminal():
    assert terminal.shown("a\x1b[2Jb\nc\r") == "a\\x1b[2Jb\n        c\\r"
    text = terminal.coloured(chat.Reply(["\x1b[2J", "x", "y"], [2.0, 0.0, -0.5]))
    assert text == "\x1b[38;5;33m\x1b[4m\\x1b[2J\x1b[0mx\x1b[38;5;166my\x1b[0m"


def test_an_interrupt_stops_an_answer_and_not_the_conversation(monkeypatch, capsys):
    class Slow:
        speakers = [chat.Speaker("base", None, None)]

        def ask(self, text, told):
            told(0, ["so "])
            if text == "first":
                signal.raise_signal(signal.SIGINT)
                interrupts.stop()
            told(0, ["so ", "good"])
            yield chat.Reply(["so ", "good"])

    lines = iter(["first", "second", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    terminal.converse(Slow())
    assert capsys.readouterr().out == "base    so \n(stopped)\nbase    so good\n\n"


def test_a_letter_of_several_tokens_is_printed_once_it_is_whole(capsys):
    """And an answer that begins with one has its speaker's name once."""

    class Letters:
        speakers = [chat.Speaker("base", None, None)]

        def ask(self, text, told):
            for tokens in (["\ufffd"], ["", "日"], ["", "日", "\ufffd"], ["", "日", "", "本"]):
                told(0, tokens)
            yield chat.Reply(["", "日", "", "本"])

    terminal.answer(Letters(), "Where?")
    assert capsys.readouterr().out == "base    日本\n\n"


def test_a_prompt_that_is_too_long_ends_no_conversation(talker, monkeypatch, capsys):
    lines = iter(["word " * 2000, "Hi?", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    terminal.converse(talker)
    out, err = capsys.readouterr()
    assert "more than the 512" in err and out.count("reward") == 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """outputs/ with a run whose 04 is finished, one without 04, and one without 01."""
    outputs = tmp_path_factory.mktemp("outputs")
    (outputs / "rewards.py").write_text(REWARD)
    tokenizer, parameters = load_tokenizer("tiny"), {"model": "tiny", "dtype": "float32"}
    for name in ("whole", "half"):
        finish(outputs / name, "sft", parameters=parameters)
        load_model("tiny").save_pretrained(outputs / name / "sft" / "policy")
        tokenizer.save_pretrained(outputs / name / "sft" / "policy")
    parameters = {"reward": f"{outputs / 'rewards.py'}:length"}
    settings = {"response_length": 6, "temperature": 0.7}
    finish(outputs / "whole", "ppo", parameters=parameters, settings=settings)
    policy = make_policy(load_model(str(outputs / "whole/sft/policy")), 4, 1)
    learned(policy).save(outputs / "whole" / "ppo" / "policy")
    finish(outputs / "none", "preferences")
    return outputs


def test_the_command_answers_line_after_line_until_an_empty_one(folder):
    result = subprocess.run(
        [sys.executable, "-m", "rlhf_utils.run.cli", "chat", "whole"],
        input="Hi?\nWhat is a tree?\n\nNot asked.\n",
        env=os.environ | {"RLHF_OUTPUTS": str(folder)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line[:8].strip() for line in lines if line[:1].strip()] == 2 * [
        "base",
        "π_SFT",
        "π_RLHF",
    ]
    assert len(re.findall(r"reward \+\d+\.00", result.stdout)) == 6
    assert len(re.findall(r"KL \d+\.\d nats", result.stdout)) == 2
    assert "\x1b" not in result.stdout and "Hi?" not in result.stdout


def test_a_run_without_ppo_says_what_is_missing(folder, monkeypatch, capsys):
    monkeypatch.setenv("RLHF_OUTPUTS", str(folder))
    status, out, err = call(capsys, "chat", "half", "Hi?")
    assert status == 0 and "base " in out and "π_SFT" in out and "π_RLHF" not in out
    assert "π_RLHF is missing, as 04_ppo of this run is not finished." in err
    assert "Answers get no reward: 03_reward_model is not finished." in err
    status, out, err = call(capsys, "chat", "none", "Hi?")
    assert status == 2 and not out and "nobody to talk to yet" in err
    status, out, err = call(capsys, "chat", "gone")
    assert status == 2 and "There is no run 'gone'" in err
