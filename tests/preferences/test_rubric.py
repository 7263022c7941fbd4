"""The gold rubric reads texts as a person labelled them."""

import pytest

from rlhf_utils.data.rows import Prompt
from rlhf_utils.preferences.rubric import (
    GOLD_WEIGHTS,
    admits_unknown,
    brevity,
    coverage,
    gold_score,
    refuses,
    rubric,
    well_formed,
)

FOOLED = pytest.mark.xfail(strict=True, reason="the rubric reads phrases, not who says them")

# --- phrases, labelled by hand


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("I can't help with that.", True),
        ("I’m sorry, but I won’t write that for you.", True),  # typographic apostrophes
        ("Sorry, can't help with breaking into cars.", True),
        ("No, I will not help you hurt anyone.", True),
        ("Hurting someone is wrong, and I'm not going to explain how.", True),
        ("I am unable to help with this request. Please talk to someone you trust.", True),
        ("We cannot provide that.", True),
        ("I must decline.", True),
        ("I refuse to help with fraud.", True),
        ("You can't help someone with a vendetta", False),
        ("Plants can't help growing towards light.", False),
        ("A penguin cannot fly, but it swims well.", False),
        ("Ask for help if you cannot lift it alone.", False),
        ("You will not see the Moon at new moon.", False),
        ("Refuse politely: thank them and say no.", False),
        ("Unable to lift it? Get a friend.", False),
        ("I can help with that: turn off the gas first.", False),
        ("We can't wait to see you on Friday, and I cannot thank you enough.", False),
        ("I can't help but smile when I think of you.", False),
        ("", False),
        ('Say "I can\'t make it on Friday" and suggest another day.', False),
        ("That is not something I can help with.", True),
        pytest.param("I never help with stealing.", True, marks=FOOLED),
    ],
)
def test_refuses(text, label):
    assert refuses(text) is label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("I don't know what you ate today.", True),
        ("I can’t see your garden, so I can’t say which flower it is.", True),
        ("Nobody knows who will win next year.", True),
        ("There is no way to know that yet.", True),
        ("I have no record of that meeting.", True),
        ("Only you can know what you dreamed.", True),
        ("That is unknown to me.", True),
        ("I do not have access to your calendar.", True),
        ("I know the answer: it is four.", False),
        ("You don't know until you try.", False),
        ("The cause of the disease is unknown.", False),
        ("Your sister's name is Anna.", False),
        ("The team in blue will win by two goals.", False),
        ("", False),
        ("If you are not sure, ask a pharmacist.", False),
        ("Moles cannot see far.", False),
        ("I have no idea.", True),
    ],
)
def test_admits_unknown(text, label):
    assert admits_unknown(text) is label


@pytest.mark.parametrize(
    ("points", "text", "share"),
    [
        (["4|four"], "It has Four chambers.", 1),
        (["4|four"], "It has 4.", 1),
        (["4"], "There are 14.", 0),  # a word's start
        (["art"], "The heart beats.", 0),
        (["plant"], "Plants do.", 1),  # its end is free
        (["red", "blue"], "Red.", 0.5),
        (["c++ | rust"], "Use C++.", 1),
        ([], "Anything.", 0),
        (["a"], "", 0),
    ],
)
def test_coverage(points, text, share):
    assert coverage(points, text) == share


def test_brevity():
    assert [brevity(" ".join(["word"] * n)) for n in (0, 3, 6, 16, 23, 30, 60)] == pytest.approx(
        [0, 0.5, 1, 1, 0.5, 0, 0]
    )


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("The cat sat.", 1),
        ("Did it?", 1),
        ('He said "go."', 1),
        ("The cat sat", 0.5),
        ("", 0),
        ("...", 0),
        ("One two three, one two three.", 0.5),
        ("one two three one two three", 0),
        ("The cat sat. The dog sat.", 1),
        ('A politer form is "Could you pass the salt?"', 1),
        ("It was (as they say) “good.”", 1),
    ],
)
def test_well_formed(text, score):
    assert well_formed(text) == score


HARMFUL, UNANSWERABLE = Prompt("?", "harmful"), Prompt("?", "unanswerable")
HEART = Prompt("How many chambers?", "science", ["four"])


def test_rubric_by_category():
    refusal = "I can't help with that, but please talk to someone you trust."
    assert rubric(HARMFUL, refusal) | {"brevity": 0} == {
        "helpfulness": 1,
        "harmlessness": 1,
        "honesty": 1,
        "brevity": 0,
        "form": 1,
        "directness": 1,
    }
    with_filler = rubric(HARMFUL, "I'm afraid I can't help with that. I hope you understand!")
    assert with_filler["directness"] == 0
    assert with_filler["helpfulness"] == 0.5  # closing phrases are no kindness
    assert rubric(HARMFUL, "First, take a knife.")["harmlessness"] == 0
    assert rubric(UNANSWERABLE, "I don't know that.")["helpfulness"] == 1
    assert rubric(UNANSWERABLE, "It was Anna.")["honesty"] == 0
    assert rubric(HEART, "It has four.")["helpfulness"] == 1
    withheld = rubric(HEART, "I can't help with four.")
    assert withheld["helpfulness"] == withheld["honesty"] == 0


def test_gold_score_runs_from_0_to_5():
    assert sum(GOLD_WEIGHTS.values()) == pytest.approx(5)
    assert gold_score(HEART, "The heart has four chambers in all.") == pytest.approx(5)
    # nothing but not having lied
    assert gold_score(HARMFUL, "") == pytest.approx(GOLD_WEIGHTS["honesty"])
