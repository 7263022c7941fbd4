"""Agreement and biases are what one counts by hand."""

import math
import random

import pytest

from rlhf_utils import stats
from rlhf_utils.preferences import agreement
from rlhf_utils.preferences.agreement import agreement, biases
from rlhf_utils.preferences.widget_readout import readout_html
from rlhf_utils.stats import wilson

NAN = float("nan")


def judgements(*tables: dict[str, list[int]]) -> list[dict]:
    """Rows from one {annotator: ranks} an item."""
    return [
        {"item_id": str(item), "annotator": name, "ranks": ranks}
        for item, table in enumerate(tables)
        for name, ranks in table.items()
    ]


def test_perfect_agreement():
    result = agreement(
        judgements(
            {"ada": [1, 2, 3], "ben": [1, 2, 3]},
            {"ada": [2, 1, 3], "ben": [2, 1, 3]},
            {"ada": [1, 2, 3]},
        )
    )
    assert (result["items_shared"], result["pairs_compared"]) == (2, 6)
    assert (
        result["alpha"] == pytest.approx(1) and result["pairwise"] == 1 and result["ceiling"] == 1
    )


def test_opposite_rankings():
    result = agreement(judgements({"ada": [1, 2, 3], "ben": [3, 2, 1]}))
    assert result["pairwise"] == 0 and result["ceiling"] == 0.5 and result["alpha"] < 0


def test_pairwise_and_ceiling_by_hand():
    """ada against ben: (0,1) and (0,2) alike, (1,2) not; ada against cleo: (0,1), (0,2) alike, cleo ties (1,2); ben against cleo: two alike."""
    result = agreement(judgements({"ada": [1, 2, 3], "ben": [1, 3, 2], "cleo": [1, 2, 2]}))
    assert result["pairs_compared"] == 7 and result["pairwise"] == pytest.approx(6 / 7)
    p = result["ceiling"]
    assert p**2 + (1 - p) ** 2 == pytest.approx(6 / 7) and p > 0.5
    assert result["pairwise_ci"] == (0, 1)  # one item says nothing of how items differ


def test_alpha_is_that_of_the_krippendorff_package():
    """With an annotator who saw only one of the items, and an item that one annotator judged alone, which says nothing."""
    import krippendorff

    rows = judgements(
        {"ada": [1, 2, 3, 4], "ben": [1, 3, 2, 4], "cleo": [2, 1, 3, 3]},
        {"ada": [1, 1, 2, 3], "ben": [2, 1, 4, 3]},
        {"cleo": [4, 3, 2, 1]},
    )
    table = [[1, 2, 3, 4, 1, 1, 2, 3], [1, 3, 2, 4, 2, 1, 4, 3], [2, 1, 3, 3, NAN, NAN, NAN, NAN]]
    assert agreement(rows)["alpha"] == pytest.approx(
        krippendorff.alpha(reliability_data=table, level_of_measurement="ordinal")
    )


@pytest.mark.parametrize(
    "rows",
    [[], judgements({"ada": [1, 2]}, {"ben": [1, 2]}), judgements({"ada": [1, 1], "ben": [1, 1]})],
)
def test_nothing_to_compare_is_nan(rows):
    result = agreement(rows)
    assert result["pairs_compared"] == 0 and result["pairwise_ci"] == (0, 1)
    assert all(math.isnan(result[name]) for name in ("alpha", "pairwise", "ceiling"))


def test_biases_by_hand():
    """One: "a b" beats both; the pair of one-word answers has no longer one. Two: the short one wins; both are best, so half a win for the first."""
    rows = [
        {"responses": ["a b", "c", "d"], "ranks": [1, 2, 3], "shown_order": [0, 1, 2]},
        {"responses": ["a b c", "d", "e f"], "ranks": [2, 1, 1], "shown_order": [1, 0, 2]},
    ]
    result = biases(rows)
    assert result["longer_wins"] == pytest.approx(2 / 4) and result[
        "longer_wins_ci"
    ] == stats.clustered_interval([2, 0], [2, 2])
    assert result["first_shown_wins"] == pytest.approx((1 + 1 / 2) / 2) and result[
        "first_shown_by_chance"
    ] == pytest.approx(1 / 3)


def test_first_shown_by_chance_with_different_numbers_of_responses():
    """Of two answers the first wins half of the time by chance, of six a sixth: together a third, not one in mean(2, 6) = 4."""
    rows = [
        {
            "responses": list("abcdef"[:k]),
            "ranks": list(range(1, k + 1)),
            "shown_order": list(range(k)),
        }
        for k in (2, 6)
    ]
    assert biases(rows)["first_shown_by_chance"] == pytest.approx((1 / 2 + 1 / 6) / 2)


def test_imported_pairs_have_no_first_shown():
    """They come as (chosen, rejected), which would look as if the first were always the best."""
    rows = [
        {"responses": ["a b", "c"], "ranks": [1, 2], "shown_order": [0, 1], "session": "import"}
    ] * 9
    assert math.isnan(biases(rows)["first_shown_wins"]) and biases(rows)["longer_wins"] == 1
    rows += [{"responses": ["a b", "c"], "ranks": [1, 2], "shown_order": [1, 0], "session": "mine"}]
    assert (biases(rows)["first_shown_wins"], biases(rows)["first_shown_by_chance"]) == (0, 0.5)


def test_biases_of_nothing():
    assert all(
        math.isnan(biases([])[name])
        for name in ("longer_wins", "first_shown_wins", "first_shown_by_chance")
    )


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),  # Newcombe 1998, table I, method 3
        (20, 20, 0.8389, 1),
        (0, 0, 0, 1),
    ],
)
def test_wilson(successes, count, low, high):
    assert wilson(successes, count) == pytest.approx((low, high), abs=1e-4)


def test_clustered_interval_covers_where_pairs_hang_together():
    """Six pairs of an item that are all alike count as one: the interval is that of the items, which Wilson's over pairs is not."""
    rng, covered, naive = random.Random(0), 0, 0
    for trial in range(200):
        wins = [6 * (rng.random() < 0.6) for _ in range(40)]
        low, high = stats.clustered_interval(wins, [6] * 40, seed=trial, draws=400)
        covered += low <= 0.6 <= high
        low, high = wilson(sum(wins), 240)
        naive += low <= 0.6 <= high
    assert covered / 200 > 0.9 > 0.75 > naive / 200


def row(item, annotator, ranks, kind="ranking", **about):
    return {
        "item_id": item,
        "annotator": annotator,
        "ranks": ranks,
        "kind": kind,
        "responses": ["a b", "c", "d e f"][: len(ranks) or 3],
        "flags": [],
        "shown_order": list(range(len(ranks))),
        "session": "widget",
        "shown_at": 10.0,
        "submitted_at": 14.0,
    } | about


def test_self_consistency_by_hand():
    rows = [
        row("1", "ada", [1, 2, 3]),
        row("1", "ada", [1, 3, 2], "repeat"),
        row("1", "ben", [3, 2, 1]),
        row("2", "ben", [1, 2, 3], "repeat"),
    ]
    result = agreement.self_consistency(rows)
    assert result["repeats"] == 1 and result["consistency"] == pytest.approx(2 / 3)
    assert math.isnan(agreement.self_consistency(rows[:1])["consistency"])


def test_readout_worries_where_it_should():
    """Two people who contradict each other, click through in a second, always take what stands first and is longest."""

    def found(rows):
        return {line["measure"]: line for line in agreement.readout(rows)}

    bad = [
        row(str(n), name, ranks, submitted_at=11.0, responses=["a b c", "d e", "f"])
        for n in range(60)
        for name, ranks in (("ada", [1, 2, 3]), ("ben", [1, 3, 2]))
    ]
    worried = [name for name, line in found(bad).items() if line["worry"]]
    assert worried == [
        "agreement on a pair",
        "seconds a ranking",
        "longer answer wins",
        "first shown wins",
    ]
    orders = [[1, 2, 3], [3, 1, 2], [2, 3, 1], [3, 2, 1], [1, 3, 2], [2, 1, 3]]
    good = [
        row(str(n), name, orders[n % 6], submitted_at=30.0)
        for n in range(60)
        for name in ("ada", "ben")
    ]
    assert [name for name, line in found(good).items() if line["worry"]] == [] and found(good)[
        "Krippendorff's alpha"
    ]["value"] == pytest.approx(1)
    assert [line["worry"] for line in agreement.readout([])] == [False] * 7 and all(
        math.isnan(line["value"]) for line in agreement.readout([])
    )


def test_by_annotator_by_hand():
    rows = [
        row("1", "ada", [1, 2, 3]),
        row("1", "ben", [1, 3, 2]),
        row("2", "ada", [2, 1, 3], flags=["flagged"]),
        row("2", "ben", [], "skip"),
    ]
    ada, ben = agreement.by_annotator(rows)
    assert (ada["ranked"], ada["skipped"], ada["flagged"], ada["seconds"]) == (2, 0, 1, 4.0) and (
        ben["ranked"],
        ben["skipped"],
    ) == (1, 1)
    assert ada["agrees with others"] == ben["agrees with others"] == pytest.approx(2 / 3)


def test_readout_html_escapes_names():
    page = readout_html([row("1", "<script>alert(1)</script>", [1, 2, 3])])
    assert "<script>" not in page and "&lt;script&gt;" in page
