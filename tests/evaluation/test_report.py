"""Text of models, people and data sets is shown as text, wherever it is shown; and the form stores what a person chose."""

import html

import pandas as pd
import pytest
import torch
from markupsafe import escape

from rlhf_utils.evaluation import compare, report
from rlhf_utils.preferences import widget
from rlhf_utils.preferences.label_queue import LabelQueue
from rlhf_utils.preferences.store import LabelStore
from rlhf_utils.show import figures
from rlhf_utils.show import notebook as show
from rlhf_utils.show.text import value_text

SCRIPT, IMAGE = "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'
HOSTILE = [SCRIPT, IMAGE]


def raw(text: str) -> list[str]:
    """The hostile pieces that stand in a text as tags."""
    return [piece for piece in (SCRIPT, "<img src=x") if piece in text]


# --- the report


def described(answers: list[str], hostile: str, reward: float) -> list[dict]:
    items = [
        {"prompt": f"p {hostile} {n}", "category": f"c {hostile} {n % 2}", "key_points": ["four"]}
        for n in range(4)
    ]
    return [dict(row, reward=reward) for row in compare.describe_answers(items, answers)]


def page_of(hostile: str, run: str = "demo", pairs: list[dict] | None = None) -> str:
    sft = described([f"a {hostile} {n}" for n in range(4)], hostile, 0.0)
    ppo = described([f"b {hostile} four {n}." for n in range(4)], hostile, 1.0)
    results = compare.compare(sft, ppo, torch.ones(4)) | {
        "time.sft_s": 60.0,
        "odd": hostile,
        "reward_model.accuracy": 0.8,
        "reward_model.ceiling": 0.9,
    }
    pairs = pairs or compare.examples(sft, ppo)
    figures = [
        figures.rubric_bars(results),
        figures.ppo_progress([]),
        figures.distributions(sft, ppo, [1.0] * 4),
        figures.gain_by_prompt(pairs),
    ]
    return report.build(run, results, pairs, figures, {"run": run, "note": hostile})


@pytest.mark.parametrize("hostile", HOSTILE)
def test_report_escapes_every_text(hostile):
    page = page_of(hostile, run=hostile)
    assert raw(page) == []
    escaped = escape(hostile)
    for kind in "pcab":  # prompt, category, both answers are shown, as text
        assert f"{kind} {escaped}" in page
    assert page.count(escaped) >= 4 * 4 + 3  # four pairs; run, result and parameter


def test_report_holds_everything_itself():
    page = page_of("plain")
    assert 'src="http' not in page and "<link" not in page and "plotly" in page
    assert page.count("class='pair") == 4 and page.count("<div class=figure>") == 4
    assert "80%" in page and "label noise allows 90%" in page and "1 min" in page


def test_side_by_side_marks_wins_and_losses():
    better, worse = (
        {"gold": 4.0, "reward": 1.0, "response": "x"},
        {"gold": 2.0, "reward": 0.0, "response": "y"},
    )
    pair = {"prompt": "p", "category": "c", "sft": worse, "ppo": better, "gain": 2.0}
    won, lost = page_of("plain", pairs=[pair]), page_of("plain", pairs=[pair | {"gain": -1.0}])
    assert "pair win" in won and "· made worse" not in won
    assert "pair loss" in lost and "· made worse" in lost


def test_numbers_as_text():
    assert value_text([0.123456, 2.0]) == "0.1235 to 2" and value_text(7) == "7"
    assert report.percent(float("nan")) == "–" and report.percent(0.256) == "26%"


# --- tables and figures in a notebook


@pytest.mark.parametrize("hostile", HOSTILE)
def test_tables_escape(hostile):
    """Names of columns come from a user's file, too."""
    text = show.table(pd.DataFrame({f"c {hostile}": [f"r {hostile}", "x"], "n": [0.123, 2.0]})).data
    assert raw(text) == [] and text.count(html.escape(hostile)) == 2 and ">0.12<" in text
    manifest = {"results": {"some": hostile}, "wall_s": 90.0, "peak_memory_gb": 0.5}
    assert raw(show.results(manifest).data) == [] and ">1.5<" in show.results(manifest).data


@pytest.mark.parametrize("hostile", HOSTILE + ["<b>bold</b>", "x" * 295 + SCRIPT])
def test_hover_escapes(hostile):
    text = figures.hover(hostile)
    assert (
        "<" not in text.replace("<br>", "")
        and html.unescape(text.replace("<br>", " "))[:20] == hostile[:20]
    )


def test_hover_wraps_and_cuts():
    lines = figures.hover("word " * 200, width=40).split("<br>")
    assert all(len(line) <= 40 for line in lines) and 250 < sum(map(len, lines)) <= 300


@pytest.mark.parametrize("hostile", HOSTILE + ["<b>bold</b>"])
def test_figures_carry_no_tags_of_the_data(hostile):
    """plotly reads tags in hover texts and in the names of a legend alike."""
    answers = [f"a {n}" for n in range(4)]
    pairs = compare.examples(described(answers, hostile, 0.0), described(answers, hostile, 1.0))
    drawn = figures.gain_by_prompt(pairs).to_plotly_json()["data"]
    texts = [
        text for trace in drawn for text in (trace.get("name"), *(trace.get("text") or [])) if text
    ]
    assert len(texts) == 2 + 4 and all("<" not in text.replace("<br>", "") for text in texts)


# --- the ranking form


def all_widgets(box) -> list:
    return [box] + [inner for child in getattr(box, "children", ()) for inner in all_widgets(child)]


def of_kind(box, name: str) -> list:
    return [w for w in all_widgets(box) if type(w).__name__ == name]


def press(box) -> None:
    of_kind(box, "Button")[0].click()


def items(hostile: str = "") -> list[dict]:
    return [
        {
            "id": str(n),
            "prompt": f"p{n} {hostile}",
            "responses": [f"r{i} {hostile}" for i in range(3)],
        }
        for n in range(3)
    ]


def form(store, name: str = "me", hostile: str = ""):
    return widget.ranking_form(widget.Desk(LabelQueue(items(hostile), store, name)))


@pytest.fixture
def store(tmp_path):
    return LabelStore(tmp_path / "labels.sqlite")


@pytest.mark.parametrize("hostile", HOSTILE)
def test_form_escapes(store, hostile):
    box = form(store, hostile=hostile)
    shown = "".join(w.value for w in of_kind(box, "HTML"))
    assert raw(shown) == [] and shown.count(html.escape(hostile)) == 1 + 3


def test_form_stores_what_was_chosen(store):
    """The numbers belong to the answers as shown; what is stored belongs to the answers as given."""
    box = form(store)
    for item in items():
        texts, numbers = (
            [w.value for w in of_kind(box, "HTML")[1:4]],
            of_kind(box, "BoundedIntText"),
        )
        for place, number in enumerate(numbers):
            number.value = place + 1
        press(box)
        row = store.rows()[-1]
        shown = [next(i for i in range(3) if f"r{i} " in text) for text in texts]
        assert (row["item_id"], row["annotator"], row["session"], row["shown_order"]) == (
            item["id"],
            "me",
            "form",
            shown,
        )
        assert [row["ranks"][index] for index in shown] == [1, 2, 3] and row["shown_at"] <= row[
            "submitted_at"
        ]
    assert (
        len({tuple(row["shown_order"]) for row in store.rows()}) > 1
    )  # not always in the same order


def test_form_stores_ties(store):
    box = form(store)
    press(box)
    assert store.rows()[0]["ranks"] == [1, 1, 1] and "1 of 3" in of_kind(box, "HTML")[0].value


def test_form_goes_on_and_ends(store):
    press(form(store))
    box = form(store)  # a new kernel: what is stored is not asked again
    assert "p1" in of_kind(box, "HTML")[0].value
    press(box)
    press(box)
    assert "All 3 are judged" in of_kind(box, "HTML")[0].value and [
        row["item_id"] for row in store.rows()
    ] == ["0", "1", "2"]
    assert (
        "0 of 3" in of_kind(form(store, "you"), "HTML")[0].value
    )  # another person has all before them


def test_a_double_click_is_one_judgement(store):
    """Both clicks reach the kernel before the form has changed on the screen."""
    box = form(store)
    button = of_kind(box, "Button")[0]
    button.click()
    button.click()
    assert [row["item_id"] for row in store.rows()] == ["0"] and "p1" in of_kind(box, "HTML")[
        0
    ].value


def test_form_shows_why_nothing_was_stored(store, monkeypatch):
    box = form(store)
    monkeypatch.setattr(
        store, "add", lambda *args, **kw: (_ for _ in ()).throw(OSError(f"disk full {SCRIPT}"))
    )
    press(box)
    message = of_kind(box, "HTML")[-1].value
    assert (
        "Not saved" in message
        and "disk full" in message
        and raw(message) == []
        and "p0" in of_kind(box, "HTML")[0].value
    )
