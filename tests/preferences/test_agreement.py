"""Agreement and biases are what one counts by hand."""

import math

import krippendorff
import pytest
from judged import make_item, said

from rlhf_utils import stats
from rlhf_utils.preferences.agreement import (
    annotator_agreement,
    biases,
    by_annotator,
    readout,
    seconds_each,
    self_consistency,
)
from rlhf_utils.preferences.pairs import IMPORTED, Judgement
from rlhf_utils.preferences.store import LabelStore
from rlhf_utils.preferences.widget import readout_html

NAN = float("nan")


def judgements(*tables: dict[str, list[int]]) -> list[Judgement]:
    """Of one {annotator: ranks} an item."""
    found = []
    for number, table in enumerate(tables):
        for name, ranks in table.items():
            found.append(said(make_item(f"p{number}", "abcd"[: len(ranks)]), ranks, name))
    return found


def test_perfect_agreement():
    result = annotator_agreement(
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
    result = annotator_agreement(judgements({"ada": [1, 2, 3], "ben": [3, 2, 1]}))
    assert result["pairwise"] == 0 and result["ceiling"] == 0.5 and result["alpha"] < 0


def test_pairwise_and_ceiling_by_hand():
    """Pairs ordered alike: ada and ben two of three; each with cleo, who ties one, two of two."""
    result = annotator_agreement(
        judgements({"ada": [1, 2, 3], "ben": [1, 3, 2], "cleo": [1, 2, 2]})
    )
    assert result["pairs_compared"] == 7 and result["pairwise"] == pytest.approx(6 / 7)
    p = result["ceiling"]
    assert p**2 + (1 - p) ** 2 == pytest.approx(6 / 7) and p > 0.5
    assert result["pairwise_ci"] == (0, 1)  # one item says nothing of how items differ


def test_alpha_is_that_of_the_krippendorff_package():
    """With an annotator who saw one item only, and an item of one annotator, which says nothing."""
    rows = judgements(
        {"ada": [1, 2, 3, 4], "ben": [1, 3, 2, 4], "cleo": [2, 1, 3, 3]},
        {"ada": [1, 1, 2, 3], "ben": [2, 1, 4, 3]},
        {"cleo": [4, 3, 2, 1]},
    )
    table = [[1, 2, 3, 4, 1, 1, 2, 3], [1, 3, 2, 4, 2, 1, 4, 3], [2, 1, 3, 3, NAN, NAN, NAN, NAN]]
    assert annotator_agreement(rows)["alpha"] == pytest.approx(
        krippendorff.alpha(reliability_data=table, level_of_measurement="ordinal")
    )


@pytest.mark.parametrize(
    "rows",
    [[], judgements({"ada": [1, 2]}, {"ben": [1, 2]}), judgements({"ada": [1, 1], "ben": [1, 1]})],
)
def test_nothing_to_compare_is_nan(rows):
    result = annotator_agreement(rows)
    assert result["pairs_compared"] == 0 and result["pairwise_ci"] == (0, 1)
    assert all(math.isnan(result[name]) for name in ("alpha", "pairwise", "ceiling"))


def test_biases_by_hand():
    """One: "a b" beats both; the pair of one-word answers has no longer one.

    Two: the short one wins; both are best, so half a win for the first.
    """
    one = said(make_item("1", ["a b", "c", "d"]), [1, 2, 3])
    two = said(make_item("2", ["a b c", "d", "e f"]), [2, 1, 1], shown_order=[1, 0, 2])
    result = biases([one, two])
    assert result["longer_wins"] == pytest.approx(2 / 4)
    assert result["longer_wins_ci"] == stats.clustered_interval([2, 0], [2, 2])
    assert result["first_shown_wins"] == pytest.approx((1 + 1 / 2) / 2)
    assert result["first_shown_by_chance"] == pytest.approx(1 / 3)


def test_the_order_of_the_answers_in_a_judgement_does_not_matter():
    """Nor does it to agreement with oneself, or to the table of annotators."""
    texts = ["a", "b", "c"]
    rows, turned = [], []
    for n, ranks in enumerate(([1, 2, 3], [1, 3, 2], [2, 1, 3], [3, 2, 1])):
        item = make_item(f"p{n}", texts)
        rows += [said(item, [1, 2, 3], "ann"), said(item, ranks, "bob")]
        rows.append(said(item, ranks, "ann", kind="repeat"))
    for number, row in enumerate(rows):
        turned.append(row.in_order_of(["b", "c", "a"]) if number % 2 else row)
    found, other = annotator_agreement(rows[:2]), annotator_agreement(turned[:2])
    assert other == found and found["pairwise"] == 1
    assert annotator_agreement(turned)["pairwise"] == annotator_agreement(rows)["pairwise"]
    assert self_consistency(turned) == self_consistency(rows)
    assert by_annotator(turned).equals(by_annotator(rows))


def test_imported_judgements_without_times_took_no_time_at_all(tmp_path):
    """Neither before they are stored, nor with the time of the import for both."""
    item, store = make_item(), LabelStore(tmp_path / "labels.sqlite")
    store.add(said(item, [1, 2], session=IMPORTED))
    assert math.isnan(seconds_each(store.judgements() + [said(item, [1, 2])]))
    timed = said(item, [1, 2], session=IMPORTED, shown_at=1.0, submitted_at=9.0)
    assert seconds_each(store.judgements() + [timed]) == 8


def test_length_without_spaces_is_counted_in_characters():
    """Each Chinese answer is one word: no pair would have a longer one."""
    found = []
    for n in range(20):
        answers = ["用根从土壤里吸收水分。" * (1 + n % 3), "用根"]
        found.append(said(make_item(f"第{n}种植物怎样喝水", answers), [1, 2]))
    assert biases(found)["longer_wins"] == 1 and biases(found)["longer_wins_ci"][0] > 0.8


def test_first_shown_by_chance_with_different_numbers_of_answers():
    """Of two answers the first wins half of the time by chance, of six a sixth.

    Together that is a third, not one in mean(2, 6) = 4.
    """
    found = []
    for k in (2, 6):
        found.append(said(make_item("p", "abcdef"[:k]), list(range(1, k + 1))))
    assert biases(found)["first_shown_by_chance"] == pytest.approx((1 / 2 + 1 / 6) / 2)


def test_imported_pairs_have_no_first_shown():
    """They come as (chosen, rejected), which would look as if the first were always the best."""
    item = make_item("p", ["a b", "c"])
    found = [said(item, [1, 2], session=IMPORTED)] * 9
    assert math.isnan(biases(found)["first_shown_wins"]) and biases(found)["longer_wins"] == 1
    found += [said(item, [1, 2], shown_order=[1, 0], session="mine")]
    result = biases(found)
    assert (result["first_shown_wins"], result["first_shown_by_chance"]) == (0, 0.5)


def test_biases_of_nothing():
    assert all(
        math.isnan(biases([])[name])
        for name in ("longer_wins", "first_shown_wins", "first_shown_by_chance")
    )


def timed(item, annotator, ranks, kind="ranking", answers=("a b", "c", "d e f"), **about):
    """A judgement of the widget that took four seconds."""
    about = {"session": "widget", "shown_at": 10.0, "submitted_at": 14.0} | about
    return said(make_item(item, answers), ranks, annotator, kind=kind, **about)


def test_self_consistency_by_hand():
    found = [
        timed("1", "ada", [1, 2, 3]),
        timed("1", "ada", [1, 3, 2], "repeat"),
        timed("1", "ben", [3, 2, 1]),
        timed("2", "ben", [1, 2, 3], "repeat"),
    ]
    result = self_consistency(found)
    assert result["repeats"] == 1 and result["consistency"] == pytest.approx(2 / 3)
    assert math.isnan(self_consistency(found[:1])["consistency"])


def worries(judgements) -> list[str]:
    names = readout(judgements)["measure"]
    return [name.removeprefix("⚠ ") for name in names if name.startswith("⚠")]


def test_readout_worries_where_it_should():
    """Two people who contradict each other, click through in a second, always take what stands
    first and is longest."""
    bad = []
    for number in range(1000):
        for name, ranks in (("ada", [1, 2, 3]), ("ben", [1, 3, 2])):
            answers = ["a b c", "d e", "f"]
            bad.append(timed(str(number), name, ranks, answers=answers, submitted_at=11.0))
    assert worries(bad) == [
        "agreement on a pair",
        "seconds a ranking",
        "longer answer wins",
        "first shown wins",
    ]


def test_readout_is_content_with_good_labels():
    orders = [[1, 2, 3], [3, 1, 2], [2, 3, 1], [3, 2, 1], [1, 3, 2], [2, 1, 3]]
    good = []
    for number in range(60):
        for name in ("ada", "ben"):
            good.append(timed(str(number), name, orders[number % 6], submitted_at=30.0))
    assert worries(good) == []
    alpha = readout(good).iloc[0]
    assert (alpha["measure"], alpha["value"]) == ("Krippendorff's alpha", pytest.approx(1))


def test_readout_of_nothing_knows_nothing_and_worries_about_nothing():
    found = readout([])
    assert len(found) == 7 and worries([]) == []
    assert found["value"].isna().all() and set(found["95% interval"]) == {""}


def test_by_annotator_by_hand():
    found = [
        timed("1", "ada", [1, 2, 3]),
        timed("1", "ben", [1, 3, 2]),
        timed("2", "ada", [2, 1, 3], flags=["flagged"]),
        timed("2", "ben", [], "skip"),
    ]
    ada, ben = by_annotator(found).to_dict("records")
    assert (ada["ranked"], ada["skipped"], ada["flagged"], ada["seconds"]) == (2, 0, 1, 4.0)
    assert (ben["ranked"], ben["skipped"]) == (1, 1)
    assert ada["agrees with others"] == ben["agrees with others"] == pytest.approx(2 / 3)


def test_readout_html_escapes_names():
    page = readout_html([timed("1", "<script>alert(1)</script>", [1, 2, 3])])
    assert "<script>" not in page and "&lt;script&gt;" in page
