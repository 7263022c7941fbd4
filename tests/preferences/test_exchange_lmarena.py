"""Votes of LMArena as its data sets hold them."""

import json

import pytest

from rlhf_utils.data.rows import messages_of
from rlhf_utils.preferences.exchange import read_labels


def talk(*texts, parts=False) -> list[dict]:
    turns = []
    for number, text in enumerate(texts):
        content = [{"type": "text", "text": text}] if parts else text
        turns.append({"role": "assistant" if number % 2 else "user", "content": content})
    return turns


def vote(winner="model_a", first=("Why?", "Rain."), second=("Why?", "Sun."), **about) -> dict:
    sides = {"conversation_a": talk(*first), "conversation_b": talk(*second)}
    return {"model_a": "m", "model_b": "n", "winner": winner, "judge": "visitor_3"} | sides | about


def read(tmp_path, *records):
    path = tmp_path / "votes.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return read_labels(path)


@pytest.mark.parametrize(
    ("winner", "ranks", "flags"),
    [
        ("model_a", [1, 2], []),
        ("model_b", [2, 1], []),
        ("tie", [1, 1], []),
        ("tie (bothbad)", [1, 1], ["both_bad"]),
        ("both_bad", [1, 1], ["both_bad"]),
    ],
)
def test_votes(tmp_path, winner, ranks, flags):
    (found,), bad = read(tmp_path, vote(winner))
    assert bad == [] and (found.prompt, found.answers) == ("Why?", ["Rain.", "Sun."])
    assert (found.ranks, found.flags, found.annotator) == (ranks, flags, "visitor_3")


def test_conversations_as_tables_hold_them(tmp_path):
    sides = {"conversation_a": json.dumps(talk("Why?", "Rain."))}
    sides |= {"conversation_b": str(talk("Why?", ""))}  # and one model said nothing
    (found,), bad = read(tmp_path, vote(**sides))
    assert bad == [] and (found.prompt, found.answers) == ("Why?", ["Rain.", ""])


def test_messages_in_parts(tmp_path):
    sides = {"conversation_a": talk("Why?", "Rain.", parts=True)}
    (found,), bad = read(tmp_path, vote() | sides)
    assert bad == [] and (found.prompt, found.answers) == ("Why?", ["Rain.", "Sun."])


def test_turns_that_both_sides_share_are_the_prompt(tmp_path):
    (found,), bad = read(
        tmp_path, vote("model_b", ("Hi", "Yes?", "Why?", "Rain."), ("Hi", "Yes?", "Why?", "Sun."))
    )
    assert bad == [] and messages_of(found.prompt) == talk("Hi", "Yes?", "Why?")
    assert (found.answers, found.ranks) == (["Rain.", "Sun."], [2, 1])


def test_sides_that_part_before_their_last_answers_are_left_out(tmp_path, capsys):
    """As with pairs: an answer would be one to a question that the other side never had."""
    first, second = ("Hi", "Yes?", "Why?", "Rain."), ("Hi", "What?", "Why?", "Sun.")
    assert read(tmp_path, vote("model_a", first, second)) == ([], [])
    assert "two sides that part before their last answers: 1" in capsys.readouterr().out
    # MT-bench also votes on the first turn alone
    (found,), bad = read(tmp_path, vote("model_a", first, second, turn=1))
    assert bad == [] and (found.prompt, found.answers) == ("Hi", ["Yes?", "What?"])


@pytest.mark.parametrize("form", [int, bool, str, float])
def test_the_form_with_columns_of_turns(tmp_path, form):
    record = {"prompt": '["Why?"]', "response_a": '["Rain."]', "response_b": '["Sun."]'}
    winners = {"winner_model_a": form(0), "winner_model_b": form(1), "winner_tie": form(0)}
    (found,), bad = read(tmp_path, record | winners)
    assert bad == [] and (found.prompt, found.answers) == ("Why?", ["Rain.", "Sun."])
    assert found.ranks == [2, 1]


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (vote("model_c"), "winner='model_c' must be one of model_a"),
        (vote(None), "winner=None"),
        (vote(first=("Who?", "Rain.")), "do not begin with the same prompt"),
        (vote(first=("Why?", "Rain.", "And?")), "does not end with an answer"),
        (vote(conversation_a=[]), "an empty list, not a list of messages"),
        (vote(conversation_a=[{"role": "user", "content": None}]), "nothing, not a text"),
    ],
)
def test_votes_that_cannot_be(tmp_path, record, told):
    found, ((_, reason),) = read(tmp_path, record)
    assert found == [] and told in reason
