"""The gold rubric reads texts as a person labelled them, and simulated people rank as their weights, noise and biases say."""

import math
import random

import pytest

from rlhf_utils.preferences.annotators import Annotator, simulated_annotators
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
    assert [brevity(" ".join(["word"] * n)) for n in (0, 3, 6, 14, 19, 24, 60)] == pytest.approx(
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


def test_rubric_by_category():
    refusal = "I can't help with that, but please talk to someone you trust."
    assert rubric({"category": "harmful"}, refusal) | {"brevity": 0} == {
        "helpfulness": 1,
        "harmlessness": 1,
        "honesty": 1,
        "brevity": 0,
        "form": 1,
    }
    assert rubric({"category": "harmful"}, "First, take a knife.")["harmlessness"] == 0
    assert rubric({"category": "unanswerable"}, "I don't know that.")["helpfulness"] == 1
    assert rubric({"category": "unanswerable"}, "It was Anna.")["honesty"] == 0
    item = {"category": "science", "key_points": ["four"]}
    assert rubric(item, "It has four.")["helpfulness"] == 1
    withheld = rubric(item, "I can't help with four.")
    assert withheld["helpfulness"] == withheld["honesty"] == 0


def test_gold_score_runs_from_0_to_5():
    assert sum(GOLD_WEIGHTS.values()) == pytest.approx(5)
    item = {"category": "science", "key_points": ["four"]}
    assert gold_score(item, "The heart has four chambers in all.") == pytest.approx(5)
    assert gold_score({"category": "harmful"}, "") == pytest.approx(
        GOLD_WEIGHTS["honesty"]
    )  # nothing but not having lied


# --- people

ITEM = {"category": "science", "key_points": ["four", "chambers"], "prompt": "How many chambers?"}
GOOD, FAIR, POOR = (
    "The heart has four chambers in all.",
    "The heart has four of them inside.",
    "The heart is a muscle that beats",
)


def exact(**changes) -> Annotator:
    """A person without noise, mistakes, biases or ties."""
    return Annotator(
        **{"name": "x", "weights": GOLD_WEIGHTS, "temperature": 0.0, "flip": 0.0, "tie_width": 0.0}
        | changes
    )


def first_beats_second(
    annotator: Annotator, texts: list[str], draws: int = 4000, shown: list[int] | None = None
) -> float:
    rng = random.Random(0)
    ranked = [
        annotator.rank(ITEM, texts, shown or rng.sample([0, 1], 2), rng) for _ in range(draws)
    ]
    return sum(a < b for a, b in ranked) / draws


def test_exact_annotator_ranks_by_gold():
    gold = [gold_score(ITEM, text) for text in (GOOD, FAIR, POOR)]
    assert gold == sorted(gold, reverse=True)
    for seed in range(20):
        rng = random.Random(seed)
        texts = rng.sample([GOOD, FAIR, POOR], 3)
        ranks = exact().rank(ITEM, texts, rng.sample(range(3), 3), rng)
        assert [text for _, text in sorted(zip(ranks, texts))] == [GOOD, FAIR, POOR] and sorted(
            ranks
        ) == [1, 2, 3]


def test_equal_texts_tie_whatever_the_noise():
    noisy = exact(temperature=5.0, flip=0.5, position_bias=3.0)
    for seed in range(50):
        ranks = noisy.rank(ITEM, [GOOD, POOR, GOOD], [2, 1, 0], random.Random(seed))
        assert ranks[0] == ranks[2] != ranks[1] and min(ranks) == 1


def test_close_answers_tie():
    gap = gold_score(ITEM, GOOD) - gold_score(ITEM, FAIR)
    assert exact(tie_width=gap + 0.01).rank(ITEM, [GOOD, FAIR], [0, 1], random.Random(0)) == [1, 1]
    assert exact(tie_width=gap - 0.01).rank(ITEM, [GOOD, FAIR], [0, 1], random.Random(0)) == [1, 2]


@pytest.mark.parametrize("temperature", [0.3, 0.6, 2.0])
def test_pairs_follow_bradley_terry(temperature):
    """P(A over B) = σ((u_A − u_B)/t), which is what the reward model's loss assumes."""
    expected = 1 / (1 + math.exp(-(gold_score(ITEM, GOOD) - gold_score(ITEM, FAIR)) / temperature))
    assert 0.51 < expected < 0.99
    measured = first_beats_second(exact(temperature=temperature), [GOOD, FAIR])
    assert abs(measured - expected) < 4 * math.sqrt(expected * (1 - expected) / 4000)


def test_flip_swaps_as_often_as_it_says():
    assert abs(first_beats_second(exact(flip=0.2), [POOR, GOOD]) - 0.2) < 4 * math.sqrt(0.16 / 4000)


def test_biases_pull_where_they_say():
    longer, shorter = (
        "It has four chambers in all of its parts.",
        "It has four chambers in all.",
    )  # alike to the rubric
    assert gold_score(ITEM, longer) == gold_score(ITEM, shorter)
    assert first_beats_second(exact(temperature=0.3, length_bias=1.0), [longer, shorter]) > 0.6
    assert first_beats_second(exact(temperature=0.3, length_bias=-1.0), [longer, shorter]) < 0.4
    assert (
        first_beats_second(
            exact(temperature=0.3, position_bias=0.5), [longer, shorter], shown=[0, 1]
        )
        > 0.75
    )
    assert (
        first_beats_second(
            exact(temperature=0.3, position_bias=0.5), [longer, shorter], shown=[1, 0]
        )
        < 0.25
    )
    assert abs(first_beats_second(exact(temperature=0.3), [longer, shorter]) - 0.5) < 0.04


def test_simulated_people_differ_and_repeat_themselves():
    people = simulated_annotators()
    assert len({person.name for person in people}) == len(people) >= 3
    assert len({tuple(person.weights.values()) for person in people}) == len(people)
    again = [
        person.rank(ITEM, [GOOD, FAIR, POOR], [0, 1, 2], random.Random(5)) for person in people
    ]
    assert again == [
        person.rank(ITEM, [GOOD, FAIR, POOR], [0, 1, 2], random.Random(5)) for person in people
    ]
