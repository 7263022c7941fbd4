"""Simulated people rank as their weights, noise and biases say; rewards and files rank, too."""

import math
import random

import pytest
from judged import make_item, said

from rlhf_utils.data.rows import Prompt
from rlhf_utils.errors import PPOError, SettingError
from rlhf_utils.preferences import exchange
from rlhf_utils.preferences.annotators import (
    Annotator,
    ScoringAnnotator,
    load_annotators,
    simulated_annotators,
)
from rlhf_utils.preferences.label_queue import collect_judgements
from rlhf_utils.preferences.pairs import KINDS, Item
from rlhf_utils.preferences.rubric import GOLD_WEIGHTS, gold_score
from rlhf_utils.preferences.store import LabelStore

# --- people

PROMPT = Prompt("How many chambers?", "science", ["four", "chambers"])
GOOD, FAIR, POOR = (
    "The heart has four chambers in all.",
    "The heart has four of them inside.",
    "The heart is a muscle that beats",
)


def rank(annotator, texts, shown_order=None, seed=0) -> list[int]:
    order = shown_order or list(range(len(texts)))
    return annotator.rank(Item(PROMPT, texts), order, random.Random(seed))


def exact(**changes) -> Annotator:
    """A person without noise, mistakes, biases or ties."""
    settings = {"temperature": 0.0, "flip": 0.0, "tie_width": 0.0} | changes
    return Annotator("x", GOLD_WEIGHTS, **settings)


def first_beats_second(annotator, texts, shown=None, draws=4000) -> float:
    rng, item, wins = random.Random(0), Item(PROMPT, texts), 0
    for _ in range(draws):
        first, second = annotator.rank(item, shown or rng.sample([0, 1], 2), rng)
        wins += first < second
    return wins / draws


def test_exact_annotator_ranks_by_gold():
    gold = [gold_score(PROMPT, text) for text in (GOOD, FAIR, POOR)]
    assert gold == sorted(gold, reverse=True)
    for seed in range(20):
        rng = random.Random(seed)
        texts = rng.sample([GOOD, FAIR, POOR], 3)
        ranks = rank(exact(), texts, rng.sample(range(3), 3), seed)
        assert [text for _, text in sorted(zip(ranks, texts))] == [GOOD, FAIR, POOR]
        assert sorted(ranks) == [1, 2, 3]


def test_equal_texts_tie_whatever_the_noise():
    noisy = exact(temperature=5.0, flip=0.5, position_bias=3.0)
    for seed in range(50):
        ranks = rank(noisy, [GOOD, POOR, GOOD], [2, 1, 0], seed)
        assert ranks[0] == ranks[2] != ranks[1] and min(ranks) == 1


def test_close_answers_tie():
    gap = gold_score(PROMPT, GOOD) - gold_score(PROMPT, FAIR)
    assert rank(exact(tie_width=gap + 0.01), [GOOD, FAIR]) == [1, 1]
    assert rank(exact(tie_width=gap - 0.01), [GOOD, FAIR]) == [1, 2]


@pytest.mark.parametrize("temperature", [0.3, 0.6, 2.0])
def test_pairs_follow_bradley_terry(temperature):
    """P(A over B) = σ((u_A − u_B)/t), which is what the reward model's loss assumes."""
    gap = gold_score(PROMPT, GOOD) - gold_score(PROMPT, FAIR)
    expected = 1 / (1 + math.exp(-gap / temperature))
    assert 0.51 < expected < 0.99
    measured = first_beats_second(exact(temperature=temperature), [GOOD, FAIR])
    assert abs(measured - expected) < 4 * math.sqrt(expected * (1 - expected) / 4000)


def test_flip_swaps_as_often_as_it_says():
    assert abs(first_beats_second(exact(flip=0.2), [POOR, GOOD]) - 0.2) < 4 * math.sqrt(0.16 / 4000)


def test_biases_pull_where_they_say():
    texts = ["It has four chambers in all of its parts.", "It has four chambers in all."]
    assert gold_score(PROMPT, texts[0]) == gold_score(PROMPT, texts[1])  # alike to the rubric

    def first_wins(shown=None, **bias):
        return first_beats_second(exact(temperature=0.3, **bias), texts, shown)

    assert first_wins(length_bias=1.0) > 0.6
    assert first_wins(length_bias=-1.0) < 0.4
    assert first_wins(position_bias=0.5, shown=[0, 1]) > 0.75
    assert first_wins(position_bias=0.5, shown=[1, 0]) < 0.25
    assert abs(first_wins() - 0.5) < 0.04


def test_simulated_people_differ_and_repeat_themselves():
    people = simulated_annotators()
    assert len({person.name for person in people}) == len(people) >= 3
    assert len({tuple(person.weights.values()) for person in people}) == len(people)
    once, again = ([rank(person, [GOOD, FAIR, POOR], seed=5) for person in people] for _ in "ab")
    assert once == again


# --- rewards


def test_scoring_annotator_ranks():
    def score(prompts, completions, category, key_points, source):
        assert prompts == ["p"] * 4 and key_points == [["x"]] * 4
        assert category == ["science"] * 4 and source == ["me"] * 4
        return [float(len(text)) for text in completions]

    item = make_item(
        "p",
        ["aa", "a", "aaaa", "aa"],
        category="science",
        key_points=["x"],
        columns={"source": "me"},
    )
    order, rng = [0, 1, 2, 3], random.Random(0)
    assert ScoringAnnotator("length", score).rank(item, order, rng) == [2, 4, 1, 2]
    nothing = ScoringAnnotator("nothing", lambda prompts, completions, **columns: [math.nan] * 4)
    with pytest.raises(PPOError, match="nan for answer 1"):
        nothing.rank(item, order, rng)


ITEMS = [make_item(f"p{n}", ["a", "bb", "ccc"]) for n in range(10)]


def length(prompts, completions, **columns):
    return [len(text) for text in completions]


def test_load_annotators():
    def load_scorer(name):
        return length, "digest"

    (mine,) = load_annotators("my_scores:length", ITEMS, load_scorer)
    assert (mine.name, mine.digest) == ("my_scores:length", "digest")
    assert mine.rank(make_item("p", ["a", "bb"]), [0, 1], random.Random(0)) == [2, 1]
    assert len(load_annotators("simulated", ITEMS, load_scorer)) == 3


# --- label files


class ByLength:
    """Ranks the longest first."""

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return self.name

    def rank(self, item, shown_order, rng):
        return ScoringAnnotator(self.name, length).rank(item, shown_order, rng)


def test_a_label_file_ranks_as_it_says(tmp_path):
    """Whatever the order of the answers in it; items that it does not know are skipped."""
    made, path = LabelStore(tmp_path / "made.sqlite"), str(tmp_path / "labels.jsonl")
    collect_judgements(ITEMS[:4], [ByLength("ada"), ByLength("ben")], made)
    exchange.export_labels(made.judgements(), path)
    turned = [Item(item.prompt, item.answers[::-1]) for item in ITEMS]
    store, people = LabelStore(tmp_path / "labels.sqlite"), load_annotators(path, turned, None)
    assert [person.name for person in people] == ["ada", "ben"]
    collect_judgements(turned, people, store)
    assert [judgement.ranks for judgement in store.judgements()] == [[1, 2, 3]] * 8
    kinds = [judgement.kind for judgement in store.judgements(kinds=KINDS)]
    assert kinds.count("skip") == 12
    again = LabelStore(tmp_path / "again.sqlite")
    collect_judgements(turned, people, again, repeat=1.0)
    assert [judgement.ranks for judgement in again.judgements()] == [[1, 2, 3]] * 8
    assert len(again.judgements(kinds=["skip"])) == 12, "no skip is asked twice"


def test_a_label_file_that_cannot_help_is_told(tmp_path):
    path = tmp_path / "labels.jsonl"
    store = LabelStore(tmp_path / "made.sqlite")
    store.add(said(ITEMS[0], [1, 2, 3]))
    exchange.export_labels(store.judgements(), path)
    with pytest.raises(SettingError, match="ranks none of the 1 prompts"):
        load_annotators(str(path), [make_item("other")], None)
    path.write_text('{"prompt": "p"}\n')
    with pytest.raises(SettingError, match="line 1: column 'responses' is missing"):
        load_annotators(str(path), ITEMS, None)
