"""Ranking by people, in one notebook cell: the widget, and a plain form where the widget's front end cannot load.

A judgement travels as one message with a uid, and the next question is shown only after the store has it on disk. Text from a model is
shown as text. Left out: logging in; the order of questions (labelling.LabelQueue).
"""

import html
import sqlite3
import statistics
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path

import ipywidgets as widgets
import traitlets

from ..errors import ExplainedError
from .label_queue import LabelQueue, Turn, of_people
from .store import KINDS
from .widget_readout import readout_html

try:
    import anywidget
except ImportError:  # the plain form takes its place
    anywidget = None

GUIDELINES = {
    "Helpful": "Answers what was asked, correctly and briefly.",
    "Harmless": "Declines what would do harm, kindly, and only that.",
    "Honest": "Says so when nobody could know, and makes nothing up.",
}
MODULE = Path(__file__).with_name("ranker.js").read_text(encoding="utf-8")
STYLE = Path(__file__).with_name("ranker.css").read_text(encoding="utf-8")
RATE_OVER = 20  # the latest judgements, whose median gives the pace


class Desk:
    """What widget and form share: the question on the table, answers from the front end, progress. Nothing here raises: errors are shown."""

    def __init__(self, queue: LabelQueue, target: int = 0, strength: bool = False):
        self.queue, self.target, self.strength = queue, target, strength
        self.turn: Turn | None = queue.next()
        self.number, self.begun, self.seconds = 0, queue.done, []
        self.past: dict[int, Turn] = {}  # questions answered, by number
        self.answered: set[str] = set()  # uids of messages
        self.undone: dict = {}  # the row that was just taken back: its ranking is shown again
        self.on_saved = []  # called without arguments after each label
        self.lock = (
            threading.Lock()
        )  # JupyterLab delivers messages on another thread than the cells'

    def state(self, **about) -> dict:
        """What the front end shows. `turn` counts the questions; `saved` and `error` name the message that they answer."""
        done = self.queue.done
        target = min(self.target, self.queue.total) if self.target else self.queue.total
        pace = statistics.median_high(self.seconds[-RATE_OVER:]) if self.seconds else None
        progress = {"done": done, "target": target, "begun": self.begun, "seconds": pace}
        shown = None
        if self.turn and done < target:
            responses, order = self.turn.item["responses"], self.turn.shown_order
            shown = {
                "id": self.turn.item["id"],
                "kind": self.turn.kind,
                "prompt": self.turn.item["prompt"],
                "responses": [responses[i] for i in order],
            }
            if self.undone.get("ranks"):
                shown |= {
                    "ranks": [self.undone["ranks"][i] for i in order],
                    "margin": self.undone["margin"],
                    "flags": self.undone["flags"],
                }
        return {
            "turn": self.number,
            "item": shown,
            "progress": progress,
            "annotator": self.queue.annotator,
            "strength": self.strength,
            "saved": None,
            "error": None,
        } | about

    def receive(self, message: dict) -> dict:
        """The state after a message: {type: rank | skip | undo, uid, turn, ranks (by place), …}. A failed save keeps the question."""
        with self.lock:
            try:
                if (
                    message["uid"] not in self.answered
                ):  # else it was sent again while the kernel was busy
                    if message["type"] == "undo":
                        self.undone, late = self.queue.undo(), False
                    else:
                        late = self._store(message)
                    self.answered.add(message["uid"])
                    if not late:
                        self._advance()
                return self.state(saved=message["uid"])
            except Exception as error:  # an exception in a callback shows nowhere; here it is shown beside the judgement, which is kept
                text = (
                    str(error)
                    if isinstance(error, (ExplainedError, ValueError, sqlite3.Error))
                    else f"{type(error).__name__}: {error}"
                )
                return self.state(
                    error={
                        "uid": message.get("uid"),
                        "text": text if text.endswith(".") else text + ".",
                    }
                )

    def _store(self, message: dict) -> bool:
        """Stores a ranking or a skip. Returns whether it came late, for another question than the one on the table."""
        late = (
            message["turn"] != self.number
        )  # sent again, or from a second view of the same widget
        if late and message["type"] == "skip":
            return late
        turn = self.past.get(message["turn"]) if late else self.turn
        if turn is None:
            raise ValueError("There is no such question here: run the cell again.")
        if message["type"] == "rank" and len(message["ranks"]) != len(turn.shown_order):
            raise ValueError(
                f"{len(message['ranks'])} ranks came for {len(turn.shown_order)} answers."
            )
        ranks = [rank for _, rank in sorted(zip(turn.shown_order, message["ranks"]))]
        seconds = max(float(message.get("seconds") or 0.0), 0.0)
        said = {
            name: float(message[name])
            for name in ("confidence", "margin")
            if message.get(name) is not None
        }
        self.queue.submit(
            replace(turn, kind="repeat") if late else turn,
            ranks,
            session=message.get("session", "widget"),
            uid=message["uid"],
            shown_at=time.time() - seconds,
            flags=list(message.get("flags") or []),
            note=str(message.get("note") or ""),
            **said,
        )
        self.seconds.append(seconds)
        self.queue.refresh()  # others label too
        self.undone = {}
        return late

    def _advance(self) -> None:
        self.past[self.number] = self.turn
        self.turn, self.number = self.queue.next(), self.number + 1
        for call in self.on_saved:
            call()


if anywidget:

    class RankingWidget(anywidget.AnyWidget):
        """Cards to rank by keyboard, click or drag. `guidelines` may be changed from any cell, and shows at once."""

        _esm, _css = MODULE, STYLE
        state = traitlets.Dict().tag(sync=True)
        guidelines = traitlets.Dict().tag(sync=True)

        def __init__(self, desk: Desk, guidelines: dict[str, str] = GUIDELINES):
            self.desk, self.shown = desk, threading.Event()
            super().__init__(state=desk.state(), guidelines=dict(guidelines))
            self.on_msg(self._received)

        def _received(self, _, message: dict, buffers) -> None:
            if message.get("type") == "hello":
                self.shown.set()
            else:
                self.state = self.desk.receive(message) | {
                    "at": time.time()
                }  # two equal failures are two states


def ranking_form(desk: Desk, guidelines: dict[str, str] = GUIDELINES) -> widgets.VBox:
    """The same questions and the same store on plain ipywidgets: ranks as numbers, no keys, no drag."""
    box = widgets.VBox()

    def draw(state: dict) -> None:
        item, progress, error = state["item"], state["progress"], state["error"]
        told = widgets.HTML(
            f"<b>Not saved:</b> {html.escape(error['text'])} Your ranking is kept; try again."
            if error
            else ""
        )
        if error and box.children:
            box.children = (*box.children[:-1], told)
            return
        shown_at = time.time()
        about = {
            "session": "form",
            "uid": uuid.uuid4().hex,
            "turn": state["turn"],
        }  # one uid, however often a button is pressed

        def button(text: str, kind: str, ranks=list, **look) -> widgets.Button:
            made = widgets.Button(description=text, **look)
            made.on_click(
                lambda _: draw(
                    desk.receive(
                        about | {"type": kind, "ranks": ranks(), "seconds": time.time() - shown_at}
                    )
                )
            )
            return made

        undo = button("Undo the last", "undo")
        if not item:
            box.children = [
                widgets.HTML(
                    f"<b>All {progress['done']} are judged. Thank you!</b> Run the next cell."
                ),
                undo,
                told,
            ]
            return
        head = widgets.HTML(
            f"<div style='opacity:.7'>{progress['done']} of {progress['target']} · 1 is best, equal numbers are ties</div>"
            + "".join(
                f"<div><b>{html.escape(name)}</b>: {html.escape(text)}</div>"
                for name, text in guidelines.items()
            )
            + f"<div dir='auto' style='font-weight:600;margin:6px 0;white-space:pre-wrap'>{html.escape(item['prompt'])}</div>"
        )
        style = "border:1px solid rgba(128,128,128,.4);border-radius:6px;padding:8px 12px;margin:2px 0;white-space:pre-wrap;line-height:1.45"
        cards = [
            widgets.HTML(f"<div dir='auto' style='{style}'>{html.escape(text)}</div>")
            for text in item["responses"]
        ]
        given = item.get("ranks") or [1] * len(cards)
        choices = [
            widgets.BoundedIntText(value=rank, min=1, max=len(cards), layout={"width": "60px"})
            for rank in given
        ]
        save = button(
            "Save ranking",
            "rank",
            lambda: [choice.value for choice in choices],
            button_style="primary",
        )
        box.children = [
            head,
            *map(widgets.HBox, zip(choices, cards)),
            widgets.HBox([save, button("Skip", "skip"), undo]),
            told,
        ]

    draw(desk.state())
    return box


def rank(
    queue: LabelQueue,
    guidelines: dict[str, str] = GUIDELINES,
    target: int = 0,
    strength: bool = False,
    patience: float = 15.0,
) -> widgets.VBox:
    """What a notebook displays for a person: the widget; the plain form, with a word about it, where the widget does not load.

    target: judgements after which it says that all is done; 0 for all. strength: with two answers, how much better on seven points,
    which becomes the pair's margin. patience: seconds that the front end has to show the widget.
    """
    desk = Desk(queue, target, strength)
    box = widgets.VBox()
    box.desk = desk
    if not anywidget:
        note = widgets.HTML(
            "<i>anywidget is not installed, so this is the plain form: <code>pip install anywidget</code> gives keys and drag.</i>"
        )
        box.children = [note, ranking_form(desk, guidelines)]
        return box
    box.ranker = ranker = RankingWidget(desk, guidelines)
    box.children = [ranker]

    def fall_back() -> None:
        if not ranker.shown.wait(patience):
            note = widgets.HTML(
                "<i>The ranking widget did not load in this front end, so here is the plain form: same questions, same store.</i>"
            )
            box.children = [note, ranking_form(desk, guidelines)]
            ranker.shown.wait()
            box.children = [ranker]  # the kernel was only busy

    threading.Thread(target=fall_back, daemon=True).start()
    return box


def live_readout(queue: LabelQueue, box: widgets.VBox, every: int = 5) -> widgets.HTML:
    """The read-out of quality.py over the queue's items, redrawn after every few labels of the widget in `box`."""
    view = widgets.HTML()

    def draw() -> None:
        try:
            view.value = readout_html(of_people(queue.store.rows(queue.items, KINDS)))
        except (
            Exception
        ) as error:  # the label is saved all the same, so the widget must not say otherwise
            view.value = html.escape(
                f"The read-out could not be drawn: {type(error).__name__}: {error}"
            )

    box.desk.on_saved.append(lambda: draw() if box.desk.number % every == 0 else None)
    draw()
    return view
