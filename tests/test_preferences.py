"""Rankings become the right pairs, no judgement is lost, and agreement and biases are what one counts by hand."""

import json
import math
import multiprocessing
import random
import sqlite3
import threading

import numpy as np
import pytest

from rlhf_utils import preferences
from rlhf_utils.annotators import GOLD_WEIGHTS, Annotator
from rlhf_utils.preferences import LabelStore, agreement, biases, item_id, judge, judgements_to_pairs, ranking_to_pairs, wilson

NAN = float("nan")


# --- ranking → pairs


@pytest.mark.parametrize(("ranks", "pairs"), [
    ([1, 2, 3], [(0, 1), (0, 2), (1, 2)]),
    ([3, 1, 2], [(1, 0), (1, 2), (2, 0)]),
    ([1, 1, 2], [(0, 2), (1, 2)]),  # a tie gives no pair
    ([2, 2, 2], []),
    ([1, 5], [(0, 1)]),  # gaps do not matter
    ([1], []),
])
def test_ranking_to_pairs(ranks, pairs):
    assert sorted(ranking_to_pairs(ranks)) == pairs


def test_four_responses_give_six_pairs():
    assert len(set(ranking_to_pairs([2, 4, 1, 3]))) == 6


@pytest.mark.parametrize("ranks", [[1, 2], [1, 2, 3, 4], [0, 1, 2], [1, 2, -1], [1, 2, 2.5], [1, 2, "3"], [1, 2, None], [1, 2, True]])
def test_invalid_ranks_are_refused(tmp_path, ranks):
    store = LabelStore(tmp_path / "labels.sqlite")
    with pytest.raises(ValueError, match="must be 3 whole numbers"):
        store.add("i", "ada", "p", ["a", "b", "c"], [0, 1, 2], ranks)
    assert store.rows() == []


def test_judgements_to_pairs():
    row = {"item_id": "7", "annotator": "ada", "prompt": "p", "responses": ["a", "b", "c"], "ranks": [3, 1, 1]}
    common = {"prompt": "p", "rejected": "a", "item_id": "7", "annotator": "ada", "margin": 2}
    assert judgements_to_pairs([row]) == [common | {"chosen": "b"}, common | {"chosen": "c"}]


# --- the label store


def raw_rows(path) -> list[tuple]:
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    rows = db.execute("SELECT * FROM judgements ORDER BY id").fetchall()
    db.close()
    return rows


def test_store_round_trip(tmp_path):
    store = LabelStore(tmp_path / "new" / "labels.sqlite")
    number = store.add("7", "ada", "Say “é”", ['a "b"\n', "日本"], [1, 0], [2, 1], session="s", confidence=0.5, flags=["unsafe"], note="hm",
                       shown_at=12.5)
    (row,) = LabelStore(tmp_path / "new" / "labels.sqlite").rows()  # opened anew
    submitted = row.pop("submitted_at")
    assert submitted > 1.7e9
    assert row == {"id": number, "item_id": "7", "annotator": "ada", "session": "s", "prompt": "Say “é”", "responses": ['a "b"\n', "日本"],
                   "shown_order": [1, 0], "ranks": [2, 1], "confidence": 0.5, "flags": ["unsafe"], "note": "hm", "shown_at": 12.5,
                   "schema_version": preferences.SCHEMA_VERSION}


def test_undo_is_a_tombstone(tmp_path):
    path = tmp_path / "labels.sqlite"
    store = LabelStore(path)
    first, second = (store.add(item, "ada", "p", ["a", "b"], [0, 1], [1, 2]) for item in "xy")
    before = raw_rows(path)
    store.undo(first)
    assert [row["id"] for row in store.rows()] == [second]
    assert raw_rows(path)[:2] == before and len(raw_rows(path)) == 3  # append-only: what was there stays as it was
    again = store.add("x", "ada", "p", ["a", "b"], [0, 1], [2, 1])
    assert [row["id"] for row in store.rows()] == [second, again]


def test_undo_of_what_is_not_there_takes_back_nothing(tmp_path):
    """Least of all a judgement that comes later and happens to get the number."""
    store = LabelStore(tmp_path / "labels.sqlite")
    try:
        store.undo(2)
    except ValueError:
        pass  # saying so would be right too
    for item in "xyz":
        store.add(item, "ada", "p", ["a", "b"], [0, 1], [1, 2])
    assert [row["item_id"] for row in store.rows()] == ["x", "y", "z"]


def add_many(path, who: str, count: int) -> None:
    store = LabelStore(path)
    for number in range(count):
        store.add(str(number), who, "p", ["a", "b"], [0, 1], [1, 2])


def test_threads_and_processes_at_once_lose_nothing(tmp_path):
    """JupyterLab delivers a widget's message on another thread; a second notebook is another process."""
    path, count = tmp_path / "labels.sqlite", 30
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=add_many, args=(path, f"process{n}", count)) for n in range(2)]
    workers += [threading.Thread(target=add_many, args=(path, f"thread{n}", count)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert all(worker.exitcode == 0 for worker in workers[:2])
    rows = LabelStore(path).rows()
    assert len({(row["item_id"], row["annotator"]) for row in rows}) == len(rows) == len(raw_rows(path)) == 4 * count


# --- judge


class Person:
    """Ranks the longest first; walks out after `patience` rankings."""

    def __init__(self, name, patience=1000):
        self.name, self.patience = name, patience

    def rank(self, item, responses, shown_order, rng):
        assert sorted(shown_order) == list(range(len(responses)))
        self.patience -= 1
        if self.patience < 0:
            raise KeyboardInterrupt
        return [1 + sum(len(other) > len(own) for other in responses) for own in responses]


ITEMS = [{"id": f"{n:02d}", "prompt": f"p{n}", "responses": ["a", "bb", "ccc"]} for n in range(10)]


def kept(store) -> list[tuple]:
    return sorted((row["item_id"], row["annotator"], json.dumps(row["ranks"]), json.dumps(row["shown_order"])) for row in store.rows())


def test_judge_resumes_without_duplicates(tmp_path):
    whole, stopped = LabelStore(tmp_path / "whole.sqlite"), LabelStore(tmp_path / "stopped.sqlite")
    judge(ITEMS, [Person("ada"), Person("ben")], whole, overlap=0.5, seed=3)
    with pytest.raises(KeyboardInterrupt):
        judge(ITEMS, [Person("ada"), Person("ben", patience=4)], stopped, overlap=0.5, seed=3)
    assert 0 < len(kept(stopped)) < len(kept(whole))
    judge(ITEMS, [Person("ada"), Person("ben")], stopped, overlap=0.5, seed=3)
    assert kept(stopped) == kept(whole)  # the same questions in the same order, as if it had not stopped
    judge(ITEMS, [Person("ada", 0), Person("ben", 0)], stopped, overlap=0.5, seed=3)  # nobody is asked again
    assert kept(stopped) == kept(whole)


@pytest.mark.parametrize(("overlap", "shared"), [(0.0, 0), (0.3, 3), (1.0, 10)])
def test_judge_respects_overlap(tmp_path, overlap, shared):
    store = LabelStore(tmp_path / "labels.sqlite")
    judge(ITEMS, [Person("ada"), Person("ben")], store, overlap, seed=0)
    by_item = {item["id"]: [row["annotator"] for row in store.rows() if row["item_id"] == item["id"]] for item in ITEMS}
    assert [len(names) for names in by_item.values()] == [2] * shared + [1] * (10 - shared)
    alone = [names[0] for names in by_item.values() if len(names) == 1]
    assert abs(alone.count("ada") - alone.count("ben")) <= 1  # the rest is shared out


# --- agreement


def judgements(*tables: dict[str, list[int]]) -> list[dict]:
    """Rows from one {annotator: ranks} an item."""
    return [{"item_id": str(item), "annotator": name, "ranks": ranks} for item, table in enumerate(tables) for name, ranks in table.items()]


def test_perfect_agreement():
    result = agreement(judgements({"ada": [1, 2, 3], "ben": [1, 2, 3]}, {"ada": [2, 1, 3], "ben": [2, 1, 3]}, {"ada": [1, 2, 3]}))
    assert (result["items_shared"], result["pairs_compared"]) == (2, 6)
    assert result["alpha"] == pytest.approx(1) and result["pairwise"] == 1 and result["ceiling"] == 1


def test_opposite_rankings():
    result = agreement(judgements({"ada": [1, 2, 3], "ben": [3, 2, 1]}))
    assert result["pairwise"] == 0 and result["ceiling"] == 0.5 and result["alpha"] < 0


def test_pairwise_and_ceiling_by_hand():
    """ada against ben: (0,1) and (0,2) alike, (1,2) not; ada against cleo: (0,1), (0,2) alike, cleo ties (1,2); ben against cleo: two alike."""
    result = agreement(judgements({"ada": [1, 2, 3], "ben": [1, 3, 2], "cleo": [1, 2, 2]}))
    assert result["pairs_compared"] == 7 and result["pairwise"] == pytest.approx(6 / 7)
    p = result["ceiling"]
    assert p**2 + (1 - p) ** 2 == pytest.approx(6 / 7) and p > 0.5
    assert result["pairwise_ci"] == wilson(6, 7)


def test_alpha_is_that_of_the_krippendorff_package():
    """With an annotator who saw only one of the items, and an item that one annotator judged alone, which says nothing."""
    import krippendorff

    rows = judgements({"ada": [1, 2, 3, 4], "ben": [1, 3, 2, 4], "cleo": [2, 1, 3, 3]}, {"ada": [1, 1, 2, 3], "ben": [2, 1, 4, 3]}, {"cleo": [4, 3, 2, 1]})
    table = [[1, 2, 3, 4, 1, 1, 2, 3], [1, 3, 2, 4, 2, 1, 4, 3], [2, 1, 3, 3, NAN, NAN, NAN, NAN]]
    assert agreement(rows)["alpha"] == pytest.approx(krippendorff.alpha(reliability_data=table, level_of_measurement="ordinal"))


@pytest.mark.parametrize("rows", [[], judgements({"ada": [1, 2]}, {"ben": [1, 2]}), judgements({"ada": [1, 1], "ben": [1, 1]})])
def test_nothing_to_compare_is_nan(rows):
    result = agreement(rows)
    assert result["pairs_compared"] == 0 and result["pairwise_ci"] == (0, 1)
    assert all(math.isnan(result[name]) for name in ("alpha", "pairwise", "ceiling"))


# --- biases and intervals


def test_biases_by_hand():
    """One: "a b" beats both; the pair of one-word answers has no longer one. Two: the short one wins; both are best, so half a win for the first."""
    rows = [{"responses": ["a b", "c", "d"], "ranks": [1, 2, 3], "shown_order": [0, 1, 2]},
            {"responses": ["a b c", "d", "e f"], "ranks": [2, 1, 1], "shown_order": [1, 0, 2]}]
    result = biases(rows)
    assert result["longer_wins"] == pytest.approx(2 / 4) and result["longer_wins_ci"] == wilson(2, 4)
    assert result["first_shown_wins"] == pytest.approx((1 + 1 / 2) / 2) and result["first_shown_by_chance"] == pytest.approx(1 / 3)


def test_first_shown_by_chance_with_different_numbers_of_responses():
    """Of two answers the first wins half of the time by chance, of six a sixth: together a third, not one in mean(2, 6) = 4."""
    rows = [{"responses": list("abcdef"[:k]), "ranks": list(range(1, k + 1)), "shown_order": list(range(k))} for k in (2, 6)]
    assert biases(rows)["first_shown_by_chance"] == pytest.approx((1 / 2 + 1 / 6) / 2)


def test_biases_of_nothing():
    assert all(math.isnan(biases([])[name]) for name in ("longer_wins", "first_shown_wins", "first_shown_by_chance"))


@pytest.mark.parametrize(("successes", "count", "low", "high"), [
    (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718),  # Newcombe 1998, table I, method 3
    (20, 20, 0.8389, 1), (0, 0, 0, 1),
])
def test_wilson(successes, count, low, high):
    assert wilson(successes, count) == pytest.approx((low, high), abs=1e-4)


def test_wilson_covers():
    rng = random.Random(0)
    hits = [low <= 0.3 <= high for low, high in (wilson(sum(rng.random() < 0.3 for _ in range(40)), 40) for _ in range(500))]
    assert 0.92 < np.mean(hits) < 0.98


def test_item_ids_name_the_content():
    """A rerun with other samples must not take over judgements of the old ones."""
    assert item_id("a", ["x", "y"]) == item_id("a", ["x", "y"])
    assert len({item_id("a", ["x", "y"]), item_id("a", ["y", "x"]), item_id("a", ["xy"]), item_id("b", ["x", "y"])}) == 4


def test_rankings_of_older_answers_do_not_count_for_new_ones(tmp_path):
    """A rerun of 02 samples other answers to the same prompts and finds the old labels in the store."""
    store = LabelStore(tmp_path / "labels.sqlite")
    old, new = ([{"id": item_id("p", answers), "prompt": "p", "responses": answers}] for answers in (["a", "b"], ["c", "d"]))
    for items in (old, new):
        judge(items, [Person("ada")], store, overlap=1.0, seed=0)
    assert [row["responses"] for row in store.rows(new)] == [["c", "d"]] and len(store.rows()) == 2 and store.rows([]) == []


def test_judgements_made_under_other_settings_do_not_count(tmp_path):
    """A changed annotator ranks anew, and a person's rankings of the same answers stay out of a headless run's."""
    store, items = LabelStore(tmp_path / "labels.sqlite"), [{"id": "1", "prompt": "p", "responses": ["One short sentence.", "word " * 60]}]
    first = judge(items, [Annotator("ada", GOLD_WEIGHTS)], store, overlap=1.0, seed=0)
    store.add("1", "me", "p", items[0]["responses"], [0, 1], [2, 1])
    second = judge(items, [Annotator("ada", GOLD_WEIGHTS, temperature=5.0)], store, overlap=1.0, seed=0)
    assert [len(first), len(second), len(store.rows())] == [1, 1, 3] and first[0]["id"] != second[0]["id"]
    assert judge(items, [Annotator("ada", GOLD_WEIGHTS)], store, overlap=1.0, seed=0) == first
