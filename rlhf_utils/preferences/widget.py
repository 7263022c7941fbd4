"""Ranking by people in one notebook cell: the widget, a plain form, and the live read-out.

A judgement travels as one message with a uid. The next question is shown only when the store has
it on disk. Left out: logging in.
"""

import html
import statistics
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path

import anywidget
import ipywidgets as widgets
import traitlets

from ..data.columns import number
from ..data.rows import messages_of
from ..show.notebook import table
from .agreement import by_annotator, readout
from .label_queue import LabelQueue, Turn, of_people
from .label_rows import fields_of
from .pairs import KINDS, Judgement

HERE = Path(__file__).parent
MODULE = "\n".join(  # one module, because a front end gets no file beside it
    (HERE / name).read_text(encoding="utf-8") for name in ("ranker.js", "ranker_tools.js")
)
STYLE = (HERE / "ranker.css").read_text(encoding="utf-8")
ELSEWHERE = "You have ranked this already in another window. "
TEXT = (
    "<div dir='auto' style='white-space:pre-wrap;line-height:1.45;border-radius:6px;"
    "border:1px solid rgba(128,128,128,.4);padding:6px 12px;margin:2px 0'>{}</div>"
)


class Desk:
    """What widget and form share: the question on the table, messages from the front end, progress.

    Nothing here raises: errors are shown.
    """

    def __init__(self, queue: LabelQueue, target: int = 0, strength: bool = False):
        self.queue, self.target, self.strength = queue, target, strength
        self.turn: Turn | None = queue.next()
        self.number, self.seconds = 0, []
        self.past: dict[int, Turn] = {}  # questions answered, by number
        self.answered: set[str] = set()  # uids of messages
        self.undone: Judgement | None = None  # just taken back: its ranking is shown again
        self.told = ""  # what the annotator should know about the last message
        self.on_saved = []  # called without arguments after each label
        self.lock = threading.Lock()  # JupyterLab delivers messages on another thread than cells'

    def state(self, **about) -> dict:
        """What the front end shows.

        `turn` counts the questions; `saved` and `error` name the message that they answer, and
        `told` is what there is to say about it.
        """
        done, total = self.queue.done, self.queue.total
        target = min(self.target, total) if self.target else total
        pace = statistics.median_high(self.seconds[-20:]) if self.seconds else None
        contents = f"the first {target} of " * (target < total) + self.queue.contents
        return {
            "turn": self.number,
            "item": self._shown() if self.turn and done < target else None,
            "progress": {"done": done, "target": target, "of": contents, "seconds": pace},
            "annotator": self.queue.annotator,
            "asks_strength": self.strength,
            "saved": None,
            "told": self.told,
            "error": None,
        } | about

    def _shown(self) -> dict:
        item, order = self.turn.item, self.turn.shown_order
        shown = {
            "id": item.id,
            "kind": self.turn.kind,
            "turns": messages_of(item.prompt.text),
            "answers": [item.answers[i] for i in order],
        }
        if self.undone and self.undone.ranks:
            shown |= {
                "ranks": [self.undone.ranks[i] for i in order],
                "strength": self.undone.strength,
                "flags": self.undone.flags,
            }
        return shown

    def receive(self, message: dict) -> dict:
        """The state after a message: {type: rank | skip | undo, uid, turn, ranks, seconds, …}.

        The ranks are by place. A failed save keeps the question.
        """
        with self.lock:
            try:
                if message["uid"] not in self.answered:  # else sent again while the kernel was busy
                    self.told, late = "", False
                    if message["type"] == "undo":
                        self.undone = self.queue.undo()
                    elif message["type"] in ("rank", "skip"):
                        late = self._store(message)
                    else:
                        raise ValueError(f"type={message['type']!r:.60} must be rank, skip or undo")
                    self.answered.add(message["uid"])
                    if not late:
                        self._advance()
                return self.state(saved=message["uid"])
            except Exception as error:  # an exception in a callback shows nowhere; here it is shown
                return self.state(error={"uid": message.get("uid"), "text": _sentence(error)})

    def _store(self, message: dict) -> bool:
        """Stores a ranking or a skip. Returns whether it was late: not for the current question.

        A late one comes from a second view of the same widget. Of an item that was judged
        meanwhile, there or in another kernel, a ranking is a repetition and a skip is dropped.
        """
        late, skipped = message["turn"] != self.number, message["type"] == "skip"
        turn = self.past.get(message["turn"]) if late else self.turn
        if turn is None:
            raise ValueError("There is no such question here: run the cell again.")
        again = self.queue.answered_elsewhere(turn)
        if again:
            self.told = ELSEWHERE + "This ranking is kept as a repetition." * (not skipped)
        if again and skipped:
            return late
        row = {name: message.get(name) for name in ("uid", "flags", "note", "confidence", "ranks")}
        about = fields_of(row | {"margin": message.get("strength")})
        ranks, count = about.pop("ranks"), len(turn.shown_order)
        if not skipped and len(ranks) != count:
            raise ValueError(f"{len(ranks)} ranks came for {count} answers.")
        seconds = max(0.0, number(message.get("seconds"), "seconds") or 0.0)
        self.queue.submit(
            replace(turn, kind="repeat") if again else turn,
            [] if skipped else [rank for _, rank in sorted(zip(turn.shown_order, ranks))],
            session="form" if message.get("session") == "form" else "widget",
            shown_at=time.time() - seconds,
            **about,
        )
        self.seconds.append(seconds)
        self.queue.refresh()  # others label too
        self.undone = None
        return late

    def _advance(self) -> None:
        self.past[self.number] = self.turn
        self.turn, self.number = self.queue.next(), self.number + 1
        for call in self.on_saved:
            call()


def _sentence(error: Exception) -> str:
    text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    return text if text.endswith(".") else text + "."


class RankingWidget(anywidget.AnyWidget):
    """Cards to rank by keyboard, click or drag.

    `guidelines` may be changed from any cell, and shows at once.
    """

    _esm, _css = MODULE, STYLE
    state = traitlets.Dict().tag(sync=True)
    seen = traitlets.Bool(False).tag(sync=True)  # a view was there: another takes no focus
    guidelines = traitlets.Dict().tag(sync=True)

    def __init__(self, desk: Desk, guidelines: dict[str, str]):
        self.desk, self.shown = desk, threading.Event()
        super().__init__(state=desk.state(), guidelines=dict(guidelines))
        self.on_msg(self._received)

    def _received(self, _, message: dict, buffers) -> None:
        if not isinstance(message, dict):
            return
        if message.get("type") == "hello":
            self.shown.set()
            self.seen = True
        else:  # the time makes two equal failures two states
            self.state = self.desk.receive(message) | {"at": time.time()}


class RankingForm(widgets.VBox):
    """The same questions and store on plain ipywidgets: ranks as numbers, no keys, no drag."""

    def __init__(self, desk: Desk, guidelines: dict[str, str]):
        super().__init__()
        self.desk, self.guidelines, self.told = desk, guidelines, widgets.HTML()
        self._draw(desk.state())

    def _draw(self, state: dict) -> None:
        if state["error"]:  # the question stays as it is
            text = html.escape(state["error"]["text"])
            self.told.value = f"<b>Not saved:</b> {text} Your ranking is kept; try again."
            return
        self.shown_at, self.told.value = time.time(), html.escape(state["told"])
        # These buttons' uid: however often they are clicked, they make one judgement.
        about = {"session": "form", "uid": uuid.uuid4().hex, "turn": state["turn"]}
        buttons = [self._button("Undo the last", about | {"type": "undo"})]
        head, choices, answers = self._head(state), [], []
        if state["item"]:
            texts = state["item"]["answers"]
            for rank, text in zip(state["item"].get("ranks", [1] * len(texts)), texts):
                layout = {"width": "60px"}
                choices.append(widgets.BoundedIntText(rank, min=1, max=len(texts), layout=layout))
                answers.append(widgets.HTML(TEXT.format(html.escape(text))))
            save = self._button("Save ranking", about | {"type": "rank"}, choices)
            save.button_style = "primary"
            buttons = [save, self._button("Skip", about | {"type": "skip"}), *buttons]
        lines = map(widgets.HBox, [*zip(choices, answers), buttons])
        self.children = [widgets.HTML(head), *lines, self.told]

    def _head(self, state: dict) -> str:
        done, target = state["progress"]["done"], state["progress"]["target"]
        if not state["item"]:
            return f"<b>All {done} are ranked. Thank you!</b> Now run the cells below this one."
        contents = state["progress"]["of"]
        lines = [f"{done} of {target} · {contents} · 1 is best, equal numbers are ties"]
        for name, text in self.guidelines.items():
            lines.append(f"<b>{html.escape(name)}</b>: {html.escape(text)}")
        turns = state["item"]["turns"]
        if len(turns) == 1 and turns[0]["role"] == "user":
            said = [turns[0]["content"]]
        else:
            said = [f"{turn['role']}: {turn['content']}" for turn in turns]
        prompt = "".join(TEXT.format(html.escape(text)) for text in said)
        return f"{'<br>'.join(lines)}<b>{prompt}</b>"

    def _button(self, text: str, message: dict, choices: list = ()) -> widgets.Button:
        """A button that sends a message, with the ranks that are chosen by then."""

        def click(_) -> None:
            ranks, seconds = [choice.value for choice in choices], time.time() - self.shown_at
            self._draw(self.desk.receive(message | {"ranks": ranks, "seconds": seconds}))

        button = widgets.Button(description=text)
        button.on_click(click)
        return button


def rank(
    queue: LabelQueue,
    guidelines: dict[str, str],
    target: int = 0,
    strength: bool = False,
    patience: float = 15.0,
) -> widgets.VBox:
    """What a notebook displays for a person: the widget, or the plain form if it does not load.

    target: judgements after which it says that all is done; 0 for all. strength: of two answers,
    also ask how much better one is. patience: seconds that the front end has to show the widget.
    """
    desk = Desk(queue, target, strength)
    ranker = RankingWidget(desk, guidelines)
    box = widgets.VBox([ranker])
    box.desk, box.ranker = desk, ranker

    def fall_back() -> None:
        if not ranker.shown.wait(patience):
            note = (
                "<i>The ranking widget did not load in this front end, so here is the plain form: "
                "same questions, same store.</i>"
            )
            box.children = [widgets.HTML(note), RankingForm(desk, guidelines)]
            ranker.shown.wait()
            box.children = [ranker]  # the kernel was only busy

    threading.Thread(target=fall_back, daemon=True).start()
    return box


def live_readout(box: widgets.VBox, every: int = 5) -> widgets.HTML:
    """The read-out of what `rank` returned, from so many labels on and again after as many."""
    view, queue = widgets.HTML(), box.desk.queue

    def draw() -> None:
        if box.desk.number % every:
            return
        try:
            judged = of_people(queue.store.judgements(queue.items, KINDS))
            view.value = readout_html(judged if len(judged) >= every else [])
        except Exception as error:  # the label is saved, so the widget must not say otherwise
            told = f"The read-out could not be drawn: {type(error).__name__}: {error}"
            view.value = html.escape(told)

    box.desk.on_saved.append(draw)
    draw()
    return view


def readout_html(judgements: list[Judgement]) -> str:
    """The read-out and the annotators' table as HTML: what has a value, every text escaped."""
    if not judgements:
        return "Agreement, time and biases show here after a few rankings."
    measures, people = readout(judgements), by_annotator(judgements)
    known = [measures[measures["value"].notna()], people.dropna(axis="columns", how="all")]
    tables = "<br>".join(table(frame).data for frame in known)
    return f"<div style='line-height:1.4'>{tables}</div>"  # ipywidgets' own is twice as high
