"""The buttons above 04's loop: they write the same commands as `rlhf control` does.

They show only where messages reach a busy kernel (from JupyterLab 4.4 with ipykernel 7). Elsewhere,
and under papermill, one line names the command.
"""

import threading
from pathlib import Path

import anywidget
import traitlets
from IPython import get_ipython
from IPython.display import HTML, display

from ..errors import RunError
from .commands import SETTABLE, ask
from .control import Steering

HERE = Path(__file__).parent
PATIENCE = 20.0  # seconds that a front end has to say that its messages arrive
LINES = 6  # of what was done
ASKED = "asked: "


class Buttons(anywidget.AnyWidget):
    """Pause, stop, β, learning rate and a prompt. Clicks arrive in a thread of their own."""

    _esm, _css = HERE / "buttons.js", HERE / "buttons.css"
    heard = traitlets.Bool(False).tag(sync=True)
    state = traitlets.Unicode("idle").tag(sync=True)
    kl_coef = traitlets.Unicode().tag(sync=True)
    learning_rate = traitlets.Unicode().tag(sync=True)
    told = traitlets.List().tag(sync=True)  # the newest first

    def __init__(self, steering: Steering):
        self.steering, self.arrived = steering, threading.Event()
        super().__init__()
        # ipykernel 7.4 would route clicks to the thread that drew last: the loop's, which is busy
        self.comm._reply_subshell_for = None
        self.on_msg(self._received)

    def changed(self, told: str = "") -> None:
        """Shows how things are now, and what was just done."""
        steering = self.steering
        state = "paused" if steering.paused else "running" if steering.working else "idle"
        with self.hold_sync():
            self.state = state
            for name in SETTABLE:
                setattr(self, name, f"{steering.value(name):.4g}")
            before = [line for line in self.told if not line.startswith(ASKED)]  # it is answered
            self.told = [line for line in (told, *before) if line][:LINES]

    def _received(self, _, message: dict, buffers) -> None:
        if message.get("do") == "hello":
            self.arrived.set()
            self.heard = True
            return
        do, what = str(message.get("do")), str(message.get("what") or "")
        try:
            ask(self.steering.stage.dir, do, what)
            when = "after this update" if self.steering.working else "when the loop runs"
            told = f"{ASKED}{do} {what}".rstrip() + f" ({when})"
        except RunError as error:
            told = str(error)
        self.told = [told, *self.told][:LINES]


def show(steering: Steering) -> None:
    """Displays the buttons until the loop ends, or prints the line that does the same."""
    buttons = _buttons_that_work(steering)
    if not buttons:
        name = steering.stage.run.name
        print(f"In a terminal: rlhf control {name} pause, resume, stop, set kl_coef=0.1, sample …")
        return
    handle = display(buttons, display_id=True)

    def changed(told: str) -> None:
        buttons.changed(told)
        if steering.ended:  # a saved notebook would show a dead widget as an error
            handle.update(HTML("The loop has ended."))
            buttons.close()
            steering.on_change = lambda told: None

    steering.on_change = changed
    buttons.changed()


def _buttons_that_work(steering: Steering) -> Buttons | None:
    kernel = getattr(get_ipython(), "kernel", None)
    person = getattr(kernel, "_allow_stdin", False)  # nobody is there under papermill and nbval
    if not (person and getattr(kernel, "_supports_kernel_subshells", False)):
        return None
    buttons = Buttons(steering)
    if buttons.arrived.wait(PATIENCE):
        return buttons
    buttons.close()
    return None
