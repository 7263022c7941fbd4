"""Each form of rows that people have: read as it is meant, or refused with the reason."""

import json
from collections import Counter
from datetime import date

import pytest

from rlhf_utils.data.conversations import MOST_LETTERS
from rlhf_utils.data.rows import (
    conversation,
    load_demonstrations,
    load_pairs_rows,
    load_prompts,
    messages_of,
    recognise,
)
from rlhf_utils.errors import DataError


def turn(role: str):
    return lambda text: {"role": role, "content": text}


SYSTEM, USER, ASSISTANT = turn("system"), turn("user"), turn("assistant")
HISTORY = [
    SYSTEM("Answer in one line."),
    USER("I keep two goats."),
    ASSISTANT("How nice."),
    USER("What do they eat?"),
]


def shared(text: str, role: str) -> dict:
    """A message as ShareGPT spells it."""
    return {"from": role, "value": text}


def part(text: str) -> list[dict]:
    return [{"type": "text", "text": text}]


def demonstration(row: dict) -> tuple[list[dict], str]:
    found = recognise(row, "demonstrations")
    return messages_of(found["prompt"]), found["completion"]


def pair(row: dict) -> tuple[list[dict], str, str]:
    found = recognise(row, "preferences")
    return messages_of(found["prompt"]), found["chosen"], found["rejected"]


# --- demonstrations

ONE_TURN = [
    {"prompt": "Name a tree.", "completion": "Oak."},
    {"prompt": [USER("Name a tree.")], "completion": [ASSISTANT("Oak.")]},
    {"prompt": USER("Name a tree."), "completion": ASSISTANT("Oak.")},
    {"prompt": [USER(part("Name a tree."))], "completion": [ASSISTANT(part("Oak."))]},
    {"prompt": part("Name a tree."), "completion": part("Oak.")},
    {"messages": [USER("Name a tree."), ASSISTANT("Oak.")]},
    {"messages": [SYSTEM(""), USER("Name a tree."), ASSISTANT("Oak.")]},
    {"prompt": "Name a tree.", "messages": [USER("Name a tree."), ASSISTANT("Oak.")]},
    {"prompt": None, "messages": [USER("Name a tree."), ASSISTANT("Oak.")]},
    {"conversations": [shared("Name a tree.", "human"), shared("Oak.", "gpt")]},
    {"prompt": [shared("Name a tree.", "human")], "completion": [shared("Oak.", "gpt")]},
    {"conversations": [shared("Name a tree.", "human")], "output": "Oak."},
    {"instruction": "Name a tree.", "input": "", "output": "Oak."},
    {"instruction": "Name a tree.", "context": None, "response": "Oak."},
    {"question": "Name a tree.", "answer": "Oak."},
    {"query": "Name a tree.", "response": "Oak."},
    {"input": "Name a tree.", "output": "Oak."},
    {"Prompt": "Name a tree.", " Completion ": "Oak."},
    {"prompt": "\n\nHuman: Name a tree.\n\nAssistant:", "response": "Oak."},
    {
        "prompt": "\n\nHuman: Name a tree.",
        "completion": "\n\nHuman: Name a tree.\n\nAssistant: Oak.",
    },
    {"Instruction": "", "Input": "Name a tree.", "Output": "Oak."},
    {"messages": [{"role": "prompter", "content": "Name a tree."}, ASSISTANT("Oak.")]},
]


@pytest.mark.parametrize("row", ONE_TURN, ids=lambda row: " ".join(row)[:30])
def test_one_question_in_many_forms(row):
    assert demonstration(row) == ([USER("Name a tree.")], "Oak.")


def test_what_an_instruction_is_about_stands_below_it(tmp_path, capsys):
    """Alpaca's `input` and Dolly's `context`: else two rows would ask the same."""
    rows = [
        {"instruction": "Translate into Dutch.", "input": "The sun is up.", "output": "x"},
        {"instruction": "Translate into Dutch.", "input": "It is cold.", "output": "y"},
        {"instruction": "Who lost?", "context": "Ida beat Tom.", "response": "Tom."},
        {"question": "Who won?", "context": "Ida beat Tom.", "answer": "Ida."},
        {"instruction": "Add.", "input": "  ", "output": "Nothing to add."},
        {"prompt": "Who is Ida?", "context": "Ida beat Tom.", "completion": "A winner."},
    ]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    assert [each.prompt.text for each in load_demonstrations(str(tmp_path / "x.json"))] == [
        "Translate into Dutch.\n\nThe sun is up.",
        "Translate into Dutch.\n\nIt is cold.",
        "Who lost?\n\nIda beat Tom.",
        "Who won?\n\nIda beat Tom.",
        "Add.",
        "Who is Ida?",
    ]
    told = capsys.readouterr().out
    for note in (
        "'instruction' is read as 'prompt' (rows: 4)",
        "'question' is read as 'prompt' (rows: 1)",
        "'answer' is read as 'completion' (rows: 1)",
        "'context' is put below the prompt, after a blank line (rows: 2)",
        "'context' is no part of 'prompt': the model does not see it (rows: 1)",
    ):
        assert note in told
    with pytest.raises(ValueError, match="'context' is an object with 'title'.*must be texts"):
        recognise({"question": "Who?", "context": {"title": ["x"]}, "answer": "I."}, "heldout")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": HISTORY, "completion": [ASSISTANT("Hay.")]},
        {"prompt": HISTORY, "completion": "Hay."},
        {"prompt": conversation(HISTORY), "completion": "Hay."},
        {"prompt": HISTORY, "completion": [*HISTORY, ASSISTANT("Hay.")]},
        {"messages": [*HISTORY, ASSISTANT("Hay.")]},
        {"messages": [*HISTORY[1:], ASSISTANT("Hay.")], "system": "Answer in one line."},
        {"messages": [*HISTORY, ASSISTANT("Hay.")], "system": "Answer in one line."},
        {
            "conversations": [
                shared("Answer in one line.", "system"),
                shared("I keep two goats.", "human"),
                shared("How nice.", "gpt"),
                shared("What do they eat?", "human"),
                shared("Hay.", "gpt"),
            ]
        },
        {
            "instruction": "What do they eat?",
            "input": "",
            "output": "Hay.",
            "system": "Answer in one line.",
            "history": [["I keep two goats.", "How nice."]],
        },
    ],
    ids=lambda row: " ".join(row),
)
def test_system_message_and_earlier_turns_are_part_of_the_prompt(row):
    assert demonstration(row) == (HISTORY, "Hay.")


def test_prompts_may_be_dialogues_and_keep_their_answer_for_rewards(tmp_path):
    rows = [
        {"prompt": HISTORY, "truth": 4},
        {"messages": [USER("Hi?"), ASSISTANT("Hello.")]},
        {"question": "2 + 2?", "answer": "4"},
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prompts = load_prompts(str(tmp_path / "x.jsonl"))
    assert [messages_of(prompt.text) for prompt in prompts] == [
        HISTORY,
        [USER("Hi?")],
        [USER("2 + 2?")],
    ]
    assert [prompt.columns for prompt in prompts] == [
        {"truth": 4},
        {"completion": "Hello."},
        {"answer": "4"},
    ]


# --- pairs

GOATS = "I keep two goats."
HH = "\n\nHuman: I keep two goats.\n\nAssistant: How nice.\n\nHuman: What do they eat?"


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        ({"prompt": GOATS, "chosen": "Hay.", "rejected": "Tin."}, [USER(GOATS)]),
        ({"question": GOATS, "chosen": "Hay.", "rejected": "Tin."}, [USER(GOATS)]),
        (
            {"prompt": HISTORY, "chosen": [ASSISTANT("Hay.")], "rejected": [ASSISTANT("Tin.")]},
            HISTORY,
        ),
        (
            {
                "chosen": [*HISTORY, ASSISTANT("Hay.")],
                "rejected": [*HISTORY, ASSISTANT("Tin.")],
                "score_chosen": 8.0,
            },
            HISTORY,
        ),
        (  # UltraFeedback: the first question as text, and whole dialogues
            {
                "prompt": GOATS,
                "chosen": [*HISTORY[1:], ASSISTANT("Hay.")],
                "rejected": [*HISTORY[1:], ASSISTANT("Tin.")],
                "messages": [*HISTORY[1:], ASSISTANT("Hay.")],
            },
            HISTORY[1:],
        ),
        (
            {
                "prompt": GOATS,
                "chosen": [*HISTORY, ASSISTANT("Hay.")],
                "rejected": [*HISTORY, ASSISTANT("Tin.")],
            },
            HISTORY,
        ),
        (  # LlamaFactory's
            {
                "conversations": [shared(GOATS, "human")],
                "chosen": shared("Hay.", "gpt"),
                "rejected": shared("Tin.", "gpt"),
            },
            [USER(GOATS)],
        ),
        (  # Orca's
            {"system": "Brief.", "question": GOATS, "chosen": "Hay.", "rejected": "Tin."},
            [SYSTEM("Brief."), USER(GOATS)],
        ),
        (
            {"chosen": HH + "\n\nAssistant: Hay.", "rejected": HH + "\n\nAssistant: Tin."},
            HISTORY[1:],
        ),
        ({"prompt": HH + "\n\nAssistant:", "chosen": "Hay.", "rejected": "Tin."}, HISTORY[1:]),
        (  # Capybara's: `conversation` is of another form, and the sides hold all
            {
                "conversation": [{"input": GOATS, "output": "Hay."}],
                "chosen": [USER(GOATS), ASSISTANT("Hay.")],
                "rejected": [USER(GOATS), ASSISTANT("Tin.")],
            },
            [USER(GOATS)],
        ),
        (
            {
                "prompt": HH + "\n\nAssistant: ",
                "chosen": HH + "\n\nAssistant: Hay.",
                "rejected": HH + "\n\nAssistant: Tin.",
            },
            HISTORY[1:],
        ),
    ],
)
def test_pairs_in_many_forms(row, asked):
    assert pair(row) == (asked, "Hay.", "Tin.")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"chosen": "Hay.", "rejected": "Tin."}, "column 'prompt' is missing"),
        ({"prompt": "p", "chosen": "Hay."}, "column 'rejected' is missing"),
        ({"prompt": "p", "response_0": "a", "better_response_id": 0}, "name the better answer 'ch"),
        (
            {"messages": [USER("a"), ASSISTANT("b")], "chosen": "c", "rejected": "d"},
            "turn of the u",
        ),
        (
            {
                "prompt": "Sheep?",
                "chosen": [USER("Goats?"), ASSISTANT("Hay.")],
                "rejected": [USER("Goats?"), ASSISTANT("Tin.")],
            },
            "'chosen' is a dialogue that does not begin with the prompt",
        ),
        (
            {
                "chosen": [USER("a"), ASSISTANT("b"), USER("c"), ASSISTANT("d")],
                "rejected": [USER("a"), ASSISTANT("x"), USER("c"), ASSISTANT("y")],
            },
            "part before their last answers",
        ),
        ({"chosen": [USER("a")], "rejected": [USER("a")]}, "'chosen' does not end with an answer"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "margin": "much better"}, "'much better'"),
        (
            {"prompt": "p", "chosen": "a", "rejected": "b", "margin": float("nan")},
            "'margin' is 'nan'",
        ),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "margin": True}, "'margin' is 'True'"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "confidence": "high"}, "'high'"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "confidence": 85}, "from 0 to 1"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "tie": "maybe"}, "true or false"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "tie": 2}, "true or false"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "split": {}}, "'split' is an empty obj"),
    ],
)
def test_pairs_that_cannot_be_used(row, told):
    with pytest.raises(ValueError, match=told):
        recognise(row, "preferences")


@pytest.mark.parametrize(
    ("tie", "read"),
    [("false", False), ("TRUE", True), (0, False), (1.0, True), ("1", True), (None, False)],
)
def test_a_tie_is_read_as_it_is_written(tie, read):
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "tie": tie}
    assert recognise(row, "preferences")["tie"] is read


@pytest.mark.parametrize(
    ("chosen", "rejected", "told"),
    [
        ("", "b", "'chosen' is empty"),
        ("a", " \n", "'rejected' is empty"),
        ("a", None, "'rejected' is empty"),
        ("a ", "a", "are equal"),
        ("a", 3, r"'rejected': it is a number \(3\)"),
        ("a", {"text": "b"}, "'rejected': it is an object with 'text'"),
        ("a", [], "'rejected': it is an empty list"),
        ("a", "b\0", "'rejected': it holds the character NUL"),
    ],
)
def test_odd_answers_are_bad_rows(tmp_path, chosen, rejected, told):
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b"}] * 150
    rows[7] = {"prompt": "p", "chosen": chosen, "rejected": rejected}
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert len(load_pairs_rows(str(path))) == 149
    with pytest.raises(DataError, match="line 8: .*" + told):
        load_pairs_rows(str(path), strict=True)


# --- what is no text


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (8, r"a number \(8\), not a text"),
        (float("nan"), r"a number \(nan\)"),
        (True, "a truth value"),
        ({"text": "Hi?", "toxicity": 0.3}, "an object with 'text', 'toxicity', not a text"),
        ([1, 2], "a list of numbers"),
        (["Hi?"], "a list of texts"),
        (b"Hi?", "bytes, not a text"),
        (None, "is empty"),
        (" \n", "is empty"),
        ("half \ud83d", "half a character .a lone surrogate. at place 6"),
        ("x" * (MOST_LETTERS + 1), "200,001 characters; at most 200,000"),
        ([USER("x" * MOST_LETTERS), ASSISTANT("y"), USER("z")], "characters; at most"),
        ("a \u2063 b", "invisible character"),
        ("\u2063User: only one turn", "invisible character"),
        ("\u2063Robot: a\n\n\u2063User: b", "invisible character"),
        ("\u2063System: a\n\n\u2063Assistant: b", "does not end with a turn of the user"),
        ([USER("a\n\n\u2063User: b")], "invisible character"),
        ([USER("a"), ASSISTANT("b")], "does not end with a turn of the user"),
        ([SYSTEM("Be kind.")], "does not end with a turn of the user"),
        ([USER("a"), ASSISTANT(""), USER("b")], "turn 2 is empty"),
        ([{"role": "tool", "content": "7"}, USER("a")], "in turn 1, the role is 'tool'"),
        ([{"role": 3, "content": "7"}], "the role is 3"),
        ([USER(7)], r"in turn 1, it is a number \(7\)"),
        ([USER(None)], "in turn 1, it is nothing"),
        (
            [{"role": "assistant", "content": None, "tool_calls": [{}]}, USER("a")],
            "tools are called",
        ),
        ([USER([{"type": "image_url", "image_url": "x"}])], "a part of type 'image_url'"),
        ([USER([*part("What is this?"), {"type": "image"}])], "a part of type 'image'"),
        ([USER([{"type": "text", "text": 5}])], r"a part whose text is a number \(5\)"),
    ],
)
def test_no_repr_is_ever_a_prompt(value, told):
    with pytest.raises(ValueError, match=told):
        recognise({"prompt": value}, "prompts")


@pytest.mark.parametrize("value", [8, True, {"text": "Hi"}, ["Hi"], b"Hi", "\ud83d", " ", None])
def test_no_repr_is_ever_an_answer(value):
    with pytest.raises(ValueError, match="'completion'"):
        recognise({"prompt": "Hi?", "completion": value}, "demonstrations")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("Hi?", "not an object but a text"),
        ({"question": "a", "instruction": "b", "answer": "c"}, "'instruction' and 'question'"),
        ({"prompt": "a", "response": "b", "answer": "c"}, "'response' and 'answer': name one"),
        ({"text": "a"}, r"column 'prompt' is missing; it has \['text'\]"),
        ({"messages": "[{}]"}, "'messages': it is a text, not a list of messages"),
        ({"messages": [USER("a")]}, "'messages' does not end with an answer"),
        ({"messages": [USER("a"), ASSISTANT("b")], "output": "c"}, "and another in 'completion'"),
        ({"messages": [USER("a"), ASSISTANT("b")], "tools": ["x"]}, "it has 'tools'"),
        ({"messages": [USER("a"), ASSISTANT("b")], "images": ["x.png"]}, "it has 'images'"),
        ({"messages": [USER("a"), ASSISTANT("b") | {"weight": 0}]}, "has the weight 0"),
        ({"messages": [USER("a"), ASSISTANT("b")], "prompt": "Be a cat."}, "is no part of"),
        ({"conversations": ["a", "b"]}, "it is a list of texts, not a list of messages"),
        ({"Prompt": "a", "prompt": "b", "completion": "c"}, "'prompt' twice, once in other"),
        ({"instruction": "a", "output": "b", "history": "earlier"}, "'history' is a text"),
        ({"prompt": "a", "completion": "b", "kto_tag": "false"}, "was disliked is none to imitate"),
        ({"messages": [SYSTEM("a"), USER("b"), ASSISTANT("c")], "system": "d"}, "another in"),
        ({"prompt": "a", "completion": "b", "system": {"x": 1}}, "'system': it is an object"),
        ({"prompt": "a", "completion": "b", "label": False}, "was disliked is none to imitate"),
        ({"prompt": "a", "completion": "b", "category": ["x"]}, "'category' is a list of texts"),
        ({"prompt": "a", "completion": "b", "note": "\ud83d"}, "'note' holds half a character"),
        ({"prompt": "a", "completion": "b", "note": ["\ud83d"]}, "'note' holds half a character"),
    ],
)
def test_rows_of_no_known_form(row, told):
    with pytest.raises(ValueError, match=told):
        recognise(row, "demonstrations")


def test_a_column_that_json_cannot_hold_is_left_out_and_told():
    """As the pictures and times of parquet files; times become texts."""
    notes = Counter()
    row = {"prompt": "a", "when": [date(2026, 1, 2)], "photo": {"bytes": b"x"}, "n": None}
    assert recognise(row, "prompts", notes) == {"prompt": "a", "when": ["2026-01-02"], "n": None}
    assert notes == {"'photo' holds what is no text or number and is left out": 1}
    with pytest.raises(ValueError, match="holds half a character"):
        recognise({"prompt": "a", "\ud83d": 1}, "prompts")
