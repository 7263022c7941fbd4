"""The widget's module alone, in a real browser.

Anywidget's model is a mock, whose kernel is this file's Python.
"""

import json

import pytest
from judged import make_item, said

from rlhf_utils.data.rows import conversation
from rlhf_utils.preferences.label_queue import LabelQueue
from rlhf_utils.preferences.pairs import KINDS
from rlhf_utils.preferences.store import LabelStore
from rlhf_utils.preferences.widget import MODULE, STYLE, Desk

GUIDELINES = {"Helpful": "Answers what was asked.", "Honest": "Makes nothing up."}
PAGE = """<!doctype html><meta charset="utf-8"><style>%s</style>
<body><input id="before"><div style="height: %dpx"></div><div id="el"></div><script type="module">
const listeners = {};
const traits = {state: %s, guidelines: %s, seen: %s};
window.model = {
  get: (name) => traits[name],
  send: (message) => window.toKernel(JSON.stringify(message)),
  on: (event, call) => { (listeners[event] ??= []).push(call); },
  off: () => {},
  set: (name, value) => {
    traits[name] = value;
    (listeners["change:" + name] ?? []).forEach((call) => call());
  },
};
const url = URL.createObjectURL(new Blob([%s], {type: "text/javascript"}));
const module = await import(url);
window.ranker = module;
module.default.render({model: window.model, el: document.getElementById("el")});
window.ready = true;
</script>"""


def make_items(count=5, k=4):
    return [
        make_item(f"Question {n}?", [f"answer {n} {x}" for x in "abcdef"[:k]]) for n in range(count)
    ]


class Bench:
    """A page with the widget, and the desk that answers it; `hold` keeps the kernel silent."""

    def __init__(self, context, path, items, **options):
        self.queue = LabelQueue(items, LabelStore(path), "me", **options.pop("queue", {}))
        self.desk, self.page = Desk(self.queue, **options), context.new_page()
        self.hold, self.held, self.errors = False, [], []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: self.errors.append("a dialog: " + dialog.message))
        self.page.expose_function("toKernel", self.receive)
        self.load()

    def load(self, above=0, seen=False):
        """The page, with so many pixels above the widget, which a view has shown before or not."""
        state = json.dumps(self.desk.state()).replace("<", "\\u003c")
        module = json.dumps(MODULE).replace("</", "<\\/")
        traits = (state, json.dumps(GUIDELINES), json.dumps(seen))
        self.page.set_content(PAGE % (STYLE, above, *traits, module))
        self.page.wait_for_function("window.ready")

    def receive(self, text):
        message = json.loads(text)
        if message["type"] == "hello":
            return
        if self.hold:
            self.held.append(message)
        else:
            self.answer(message)

    def answer(self, message):
        self.page.evaluate(
            "state => { window.model.set('state', state); }", self.desk.receive(message)
        )

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def settle(self, number):
        """Waits until the front end shows the question of that number."""
        idle = "!document.querySelector('.rk[aria-busy]')"
        self.page.wait_for_function(
            f"n => window.model.get('state').turn === n && {idle}", arg=number
        )

    def has_focus(self):
        return self.page.evaluate("document.activeElement.matches('.rk')")

    def judgements(self):
        return self.queue.store.judgements(kinds=KINDS)

    def shown(self):
        """The ranks of each judgement, as the annotator saw the cards."""
        return [[each.ranks[i] for i in each.shown_order] for each in self.judgements()]

    def places(self):
        """What the cards say of their place in the ranking."""
        return self.page.locator(".rk-place").all_inner_texts()


@pytest.fixture
def bench(chromium, tmp_path):
    contexts, benches = [], []

    def make(items=None, name="labels.sqlite", **options):
        contexts.append(chromium.new_context(viewport={"width": 1280, "height": 800}))
        benches.append(Bench(contexts[-1], tmp_path / name, items or make_items(), **options))
        return benches[-1]

    yield make
    assert [error for each in benches for error in each.errors] == []
    for context in contexts:
        context.close()


def test_browser_five_keys_rank_four(bench):
    b = bench()
    # no click before: the widget takes the focus where it is first shown
    b.press("3", "1", "4", "2", "Enter")
    b.settle(1)
    (found,) = b.judgements()
    assert b.shown() == [[2, 4, 1, 3]] and found.kind == "ranking"
    assert found.shown_at < found.submitted_at


def test_browser_ties_by_the_same_key_and_by_t(bench):
    b = bench()
    b.press("2", "1", "1", "3", "4", "t", "Enter")
    b.settle(1)
    b.press("2", "1", "1", "1", "3", "4", "Enter")  # the third press unties
    b.settle(2)
    assert b.shown() == [[1, 1, 3, 3], [2, 1, 3, 4]]


def test_browser_backspace_skip_flag_and_undo(bench):
    b = bench()
    b.press("1", "2", "Backspace", "3", "Enter")
    assert "have no rank yet" in b.page.inner_text(".rk-status") and b.judgements() == []
    b.press("2", "4", "f", "Enter")
    b.settle(1)
    assert b.shown() == [[1, 3, 2, 4]] and b.judgements()[0].flags == ["flagged"]
    b.press("s")
    b.settle(2)
    skip = b.judgements()[1]
    assert (skip.kind, skip.ranks) == ("skip", [])
    b.press("u", "u")
    b.settle(4)
    assert b.judgements() == [] and b.page.inner_text(".rk-prompt") == "Question 0?"
    assert b.places() == ["1st", "3rd", "2nd", "4th"]  # what was taken back can be mended
    b.press("Enter")
    b.settle(5)
    assert b.shown() == [[1, 3, 2, 4]]


def test_browser_click_and_drag(bench):
    b = bench()
    for place in (3, 0, 1, 2):
        b.page.locator(".rk-card").nth(place).click()
    b.page.click("text=submit")
    b.settle(1)
    assert b.shown() == [[2, 3, 4, 1]]
    lane = b.page.locator(".rk-lane")
    for place in (1, 0, 2):
        b.page.locator(".rk-head").nth(place).drag_to(lane, target_position={"x": 900, "y": 15})
    best = b.page.locator(".rk-tier").first
    b.page.locator(".rk-head").nth(3).drag_to(best, target_position={"x": 2, "y": 8})  # before it
    assert b.places() == ["3rd", "2nd", "4th", "1st"]
    tier = b.page.locator(".rk-tier").nth(1)
    middle = tier.bounding_box()["width"] / 2  # a tie
    b.page.locator(".rk-chip", has_text="3").drag_to(tier, target_position={"x": middle, "y": 8})
    b.press("Enter")
    b.settle(2)
    assert b.shown()[1] == [4, 2, 2, 1]


def test_browser_two_answers(bench):
    b = bench(make_items(4, 2))
    b.press("ArrowRight", "Enter")
    b.settle(1)
    b.press("ArrowLeft", "Enter")
    b.settle(2)
    b.press("b", "Enter")
    b.settle(3)
    b.press("b")
    best = b.page.locator(".rk-tier")
    b.page.locator(".rk-head").nth(1).drag_to(best, target_position={"x": 2, "y": 8})
    b.press("Enter")  # dragged apart, they are no longer both bad
    b.settle(4)
    assert b.shown() == [[2, 1], [1, 2], [1, 1], [2, 1]]
    assert [each.flags for each in b.judgements()] == [[], [], ["all_bad"], []]
    assert [each.strength for each in b.judgements()] == [None] * 4


def test_browser_all_bad(bench):
    b = bench(make_items(3, 6))
    b.press("3", "b")
    assert b.places() == ["bad"] * 6
    b.press("b")  # the same key takes it back
    assert b.places() == [""] * 6
    b.page.click("text=all bad")
    b.press("Enter")
    b.settle(1)
    b.press("u")
    b.settle(2)
    assert b.places() == ["bad"] * 6  # as it was
    b.press("Enter")
    b.settle(3)
    b.press("b", *["Backspace"] * 6, *"123456", "Enter")  # another ranking is not all bad
    b.settle(4)
    assert b.shown() == [[1] * 6, [1, 2, 3, 4, 5, 6]]
    assert [each.flags for each in b.judgements()] == [["all_bad"], []]


def test_browser_what_older_versions_called_both_bad_comes_back_as_bad(bench):
    b = bench(make_items(2, 2))
    both_bad = {"flags": ["both_bad"], "session": "widget"}
    b.queue.store.add(said(b.queue.items[0], [1, 1], "me", **both_bad))
    b.press("u")
    b.settle(1)
    assert b.places() == ["bad", "bad"]


def test_browser_a_half_made_ranking_survives_an_undo(bench):
    b = bench()
    b.press("1", "2", "3", "4", "Enter")
    b.settle(1)
    b.press("4", "2", "f", "c", "u")
    b.settle(2)
    assert b.places() == ["1st", "2nd", "3rd", "4th"]
    b.press("Backspace", "Backspace", "4", "3", "Enter")
    b.settle(3)
    assert b.places() == ["", "2nd", "", "1st"]  # the question that was on the table
    b.press("1", "3", "Enter")
    b.settle(4)
    assert b.shown() == [[1, 2, 4, 3], [3, 2, 4, 1]]
    assert b.judgements()[1].flags == ["flagged"] and b.judgements()[1].confidence == 0.33
    assert b.places() == [""] * 4


def test_browser_another_window_is_told(bench):
    b = bench(make_items(3))
    item = b.queue.items[0]
    b.queue.store.add(said(item, [4, 3, 2, 1], "me", session="widget"))
    b.press("1", "2", "3", "4", "Enter")
    b.settle(1)
    assert "already in another window" in b.page.inner_text(".rk-status")
    assert b.page.inner_text(".rk-prompt") == "Question 1?"
    assert [each.kind for each in b.judgements()] == ["ranking", "repeat"]


def test_browser_a_conversation_is_shown_by_its_turns(bench):
    said_before = [
        {"role": "system", "content": "Be <b>brief</b>."},
        {"role": "user", "content": "How do plants drink?"},
        {"role": "assistant", "content": "Through roots."},
        {"role": "user", "content": "And moss?"},
    ]
    b = bench([make_item(conversation(said_before)), make_item("Alone?")])
    roles = b.page.locator(".rk-role").all_inner_texts()
    assert roles == ["system", "user", "assistant", "user"]
    turns = b.page.locator(".rk-turn > div").all_text_contents()
    assert turns == [turn["content"] for turn in said_before]
    b.press("1", "2", "Enter")
    b.settle(1)
    assert b.page.locator(".rk-role").count() == 0
    assert b.page.inner_text(".rk-prompt") == "Alone?"


def test_browser_the_end_says_what_to_do(bench):
    b = bench(make_items(1))
    b.press("1", "2", "3", "4", "Enter")
    b.settle(1)
    assert "All 1 are ranked" in b.page.inner_text(".rk-done")
    assert "run the cells below" in b.page.inner_text(".rk-next")
    b.load()
    b.page.wait_for_timeout(200)
    assert not b.has_focus()  # nothing to press


# --- the focus


def test_browser_a_new_widget_comes_into_view_and_gets_the_focus_back(bench):
    b = bench()
    b.load(above=3000)
    b.page.wait_for_function("document.activeElement.matches('.rk')")
    assert 0 <= b.page.locator(".rk").bounding_box()["y"] < 400
    b.page.evaluate("() => { document.activeElement.blur(); window.scrollTo(0, 0); }")
    b.page.wait_for_function("document.activeElement.matches('.rk')")  # as a notebook takes it
    assert 0 <= b.page.locator(".rk").bounding_box()["y"] < 400
    b.press("3", "1", "4", "2", "Enter")
    b.settle(1)
    assert b.shown() == [[2, 4, 1, 3]]


@pytest.mark.parametrize("act", ["click", "wheel", "Escape", "PageUp"])
def test_browser_whatever_a_person_does_elsewhere_ends_the_hold(bench, act):
    b = bench()
    b.load(above=3000)
    b.page.wait_for_function("document.activeElement.matches('.rk')")
    if act == "click":
        b.page.mouse.click(5, 5)
    elif act == "wheel":
        b.page.mouse.wheel(0, -2000)
    else:
        b.press(act)
    b.page.wait_for_timeout(150)
    b.page.evaluate("() => { document.activeElement.blur(); window.scrollTo(0, 0); }")
    b.page.wait_for_timeout(400)
    assert not b.has_focus() and b.page.evaluate("window.scrollY") == 0


def test_browser_a_widget_that_was_seen_leaves_the_page_as_it_is(bench):
    b = bench()
    b.load(above=3000, seen=True)
    b.page.wait_for_timeout(400)
    assert not b.has_focus() and b.page.evaluate("window.scrollY") == 0


def test_browser_strength(bench):
    b = bench(make_items(3, 2), strength=True)
    b.press("ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowLeft", "Enter")
    b.settle(1)
    b.page.click("[aria-label='Answer 2 better']")
    b.press("Enter")
    b.settle(2)
    assert b.shown() == [[1, 2], [2, 1]] and [each.strength for each in b.judgements()] == [3, 2]
    b.press("u")
    b.settle(3)
    assert b.page.locator("[aria-checked=true]").get_attribute("aria-label") == "Answer 2 better"
    b.press("ArrowLeft", "ArrowLeft", "ArrowLeft", "Enter")  # from 2 over equal to the other side
    b.settle(4)
    assert b.shown()[1] == [1, 2] and b.judgements()[1].strength == 1


def test_browser_the_strength_of_another_ranking_is_forgotten(bench):
    b = bench(make_items(1, 2), strength=True)
    b.press("ArrowRight", "ArrowRight", "Backspace", "Backspace", "1", "2")
    assert b.page.locator("[aria-checked=true]").count() == 0  # how much better is not said
    b.press("Enter")
    b.settle(1)
    assert b.shown() == [[1, 2]] and b.judgements()[0].strength is None


def test_browser_confidence_and_note(bench):
    b = bench()
    b.press("1", "2", "3", "4", "c", "c", "n")
    b.page.keyboard.type("1 is skewed; f")  # letters of a note rank nothing
    b.press("Enter", "Enter")
    b.settle(1)
    (found,) = b.judgements()
    assert (found.confidence, found.note, found.flags) == (0.67, "1 is skewed; f", [])
    assert b.shown() == [[1, 2, 3, 4]]


def test_browser_keys_stay_inside(bench):
    b = bench()
    b.page.evaluate(
        "window.escaped = [];"
        "document.addEventListener('keydown', (event) => window.escaped.push(event.key))"
    )
    b.press("b", "x", "1", "d", "Enter")
    assert b.page.evaluate("window.escaped") == []
    b.press("Escape", "z")
    assert b.page.evaluate("window.escaped") == ["z"]


def test_browser_differences_are_marked(bench):
    b = bench([make_item("p", ["the cat sat on the mat", "the dog sat on a mat"])])
    b.press("Shift+1", "Shift+2")
    cards = b.page.locator(".rk-card").all()
    marked = [" ".join(card.locator("mark").all_inner_texts()) for card in cards]
    assert sorted(marked) == ["cat the", "dog a"]
    assert b.page.evaluate("window.ranker.differences('a  b', 'b')") == [
        ["a", True],
        ["  ", False],
        ["b", False],
    ]


def test_browser_a_failed_save_keeps_the_judgement(bench):
    b = bench()
    path, store = b.queue.store.path, b.queue.store
    store.path = path.parent / "gone" / "labels.sqlite"  # the folder vanished
    b.press("1", "2", "3", "4", "Enter")
    b.page.wait_for_selector("text=cannot be opened")
    assert b.places() == ["1st", "2nd", "3rd", "4th"]
    store.path = path
    b.page.click("text=Try again")
    b.settle(1)
    assert b.shown() == [[1, 2, 3, 4]]


def test_browser_waits_for_a_busy_kernel_and_stores_once(bench):
    b = bench()
    b.hold = True
    b.press("1", "2", "3", "4", "Enter")
    b.page.wait_for_selector("text=Waiting for the kernel")
    b.press("4", "3")  # pressed while it says that it waits: for nothing
    b.page.click("text=Send again")
    b.page.wait_for_function("!document.querySelector('.rk-alarm button')")
    assert len(b.held) == 2 and b.held[0] == b.held[1]
    b.hold = False
    for message in b.held:
        b.answer(message)
    b.settle(1)
    assert len(b.judgements()) == 1 and b.places() == [""] * 4


def test_browser_a_draft_survives_a_reload(bench):
    b = bench()
    b.page.goto("about:blank")
    page = {"body": "<p>", "content_type": "text/html"}
    b.page.route("http://localhost:9/", lambda route: route.fulfill(**page))
    b.page.goto("http://localhost:9/")
    b.load()
    b.press("2", "3")
    b.page.reload()
    b.load()
    assert b.places() == ["", "1st", "2nd", ""]


def test_browser_500_labels_at_full_speed(bench):
    items = make_items(500)
    b = bench(items)
    orders = [["1", "2", "3", "4"], ["4", "3", "2", "1"], ["2", "1", "4", "3"]]
    for number in range(500):
        b.press(*orders[number % 3], "Enter")  # without waiting for anything
    b.settle(500)
    wanted = [[1, 2, 3, 4], [4, 3, 2, 1], [2, 1, 4, 3]]
    assert [each.item_id for each in b.judgements()] == [item.id for item in items]
    assert b.shown() == [wanted[n % 3] for n in range(500)]
    assert "All 500 are ranked" in b.page.inner_text(".rk-done")


HOSTILE = [
    "<script>alert(1)</script><img src=x onerror=alert(2)><svg onload=alert(3)>",
    "[click](javascript:alert(4)) <a href='javascript:alert(5)'>x</a> ${alert(6)} {{7}}",
    "a" * 100_000,
    "word " * 20_000,
    "\u202eright to left\u202c שלום \u2066x",
    "Z" + "\u0351" * 300,
    "nul\0nul \ud83d lone",
    "\"'`--></textarea></style>",
]


def test_browser_hostile_text_is_text(bench):
    """In prompts, answers and guidelines: shown as it is, and nothing runs.

    The page keeps its shape, and labels go on.
    """
    items = []
    for n, text in enumerate(HOSTILE):
        items.append(make_item(text.replace("\ud83d", ""), [text, HOSTILE[n - 1], "plain"]))
    b = bench(items)
    b.page.evaluate("text => window.model.set('guidelines', {[text]: text})", HOSTILE[0])
    texts = "[...document.querySelectorAll('.rk-text')].map((node) => node.textContent)"
    alive = "'.rk script, .rk img, .rk svg, .rk a, .rk iframe'"
    for number, item in enumerate(items):
        prompt = b.page.evaluate("document.querySelector('.rk-prompt').textContent")
        assert prompt == item.prompt.text
        shown = [len(text) for text in b.page.evaluate(texts)]
        assert sorted(shown) == sorted(len(answer) for answer in item.answers)
        b.press("Shift+1", "Shift+2")
        assert b.page.evaluate(f"document.querySelectorAll({alive}).length") == 0
        assert b.page.evaluate("document.documentElement.scrollWidth") <= 1280
        b.press("1", "2", "3", "Enter")
        b.settle(number + 1)
    assert [each.answers for each in b.judgements()] == [item.answers for item in items]


def test_browser_the_guidelines_are_open_where_there_is_room(bench):
    assert bench().page.evaluate("document.querySelector('details').open")


def test_browser_is_usable_by_a_screen_reader_and_at_200_percent(bench):
    b = bench()
    tree = b.page.locator(".rk").aria_snapshot()
    for part in (
        'region "Rank answers"',
        'button "Answer 1, not ranked"',
        'list "Your ranking, best first"',
        "progressbar",
        'combobox "Confidence"',
        "status",
        "alert",
    ):
        assert part in tree, part
    b.press("2")
    assert 'button "Answer 2, ranked 1st"' in b.page.locator(".rk").aria_snapshot()
    assert "Answer 2 is 1st." in b.page.inner_text("[aria-live=polite]")
    b.page.set_viewport_size({"width": 640, "height": 400})  # 1280 × 800 at 200%
    cards = [box.bounding_box() for box in b.page.locator(".rk-card").all()]
    assert b.page.evaluate("document.documentElement.scrollWidth") <= 640
    assert cards[1]["y"] > cards[0]["y"]  # one below the other
    b.load()
    assert not b.page.evaluate("document.querySelector('details').open")  # room for the answers
    b.page.evaluate("document.getElementById('el').style.width = '270px'")  # beside a side bar
    for part in b.page.locator(".rk *").all():
        box = part.bounding_box()
        assert box is None or box["x"] + box["width"] <= 280, part.get_attribute("class")
    b.page.keyboard.press("Tab")
    assert b.page.evaluate("document.activeElement.closest('.rk') !== null")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert b.page.evaluate(outline) == "solid"
