"""Steering a running 04: pause, resume, stop, set kl_coef or learning_rate, sample a prompt.

Between two updates the loop asks `Steering`, which obeys the commands in control.jsonl. What it did
goes into the next update's row of metrics.jsonl, so a resumed run keeps it. Needs no torch.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator

from ..errors import ExplainedError, RunError
from ..files import printable
from ..records import cause_of, parse_json
from .commands import COMMANDS, PAUSED, REPLIES, SETTABLE, checked, replies

LONGEST_LINE = 100_000  # bytes; no command is longer
STOPPED = "stopped after it"


class Steering:
    """Around the loop of 04 as a context manager; `obey` between two updates.

    watch(update): asks the watched prompts. sample(prompt): a dict with answer, score and kl.
    """

    def __init__(self, stage, checkpoints, config, watch: Callable, sample: Callable):
        self.stage, self.checkpoints, self.config = stage, checkpoints, config
        self.watch, self.sample = watch, sample
        self.controller = checkpoints.state.controller
        self.log = checkpoints.logs["metrics.jsonl"]
        self.parameters = {name: stage.filled[name] for name in SETTABLE}
        self.on_change: Callable[[str], None] = lambda told: None
        self.working = self.paused = self.stopped = self.ended = False
        self.stopping: list[dict] = []  # commands to stop, answered once all is saved
        self.index, self.part = -1, {}  # updates that are finished; what the next one's row gets
        self.place = 0  # in the file of commands
        self.answered = {row.get("id") for row in replies(stage.dir)}
        stage.lineage = checkpoints.branched_from
        self._replay()

    def _replay(self) -> None:
        """What was set before a resume holds on, unless the parameter itself was changed since."""
        for row in self.log.rows:
            for name, (parameter, value) in row.get("steered", {}).items():
                if parameter == self.parameters[name] and not (
                    name == "kl_coef" and self.controller.target  # its β is in the checkpoint
                ):
                    self._apply(name, value)

    def __enter__(self):
        self.working, self.paused = True, False
        self.stopped = self.ended = False
        self.on_change("")
        return self

    def __exit__(self, kind, *error):
        self.working = self.paused = False
        if kind is None:
            for command in (*self.stopping, *self._commands()):
                self._reply(command, "The loop has ended.", ok=False)
            self.stopping, self.ended = [], True
        self.on_change("" if kind is None else "Stopped: run the cell of the loop to go on.")

    def obey(self, index: int) -> dict:
        """Does what was asked after `index` updates; waits while paused.

        Returns what the next update's row gets.
        """
        if index != self.index:  # an update that is repeated keeps what was done before it
            if self.log.rows and "steered" in self.log.rows[-1]:
                with self.checkpoints.guard(index + 1):
                    self.checkpoints.save(index)  # so that a kill loses nothing that was set
            self.index, self.part = index, {}
        self._look()
        if self.paused and not self.stopping:
            self._wait()
        if self.stopping and self.log.rows:  # without any, after the first update
            self._stop(index)
        return self.part

    def _look(self) -> None:
        for command in self._commands():
            self._obey(command)

    def _wait(self) -> None:
        since, total = time.time(), self.config.num_updates
        self.stage.progress(PAUSED, self.index, total)
        try:
            while self.paused and not self.stopping:
                time.sleep(0.2)
                self._look()
        finally:
            self._note(f"paused {time.time() - since:.0f} s")
            self.stage.progress("update", self.index, total)

    def _commands(self) -> Iterator[dict]:
        """The new ones since 04 began. A line that is no command gets a reply."""
        kinds = {"id": str, "at": float, "do": str}
        for line in self._lines():
            try:
                command = parse_json(line)
                if not isinstance(command, dict) or any(
                    type(command.get(name)) is not kind for name, kind in kinds.items()
                ):
                    raise ValueError("no command")
                command["what"] = str(command.get("what") or "")
            except ValueError as error:
                told = f"A line of {COMMANDS} was passed over: {printable(str(error), 100)}."
                self._reply({"id": None}, told, ok=False)
                continue
            if command["id"] not in self.answered and command["at"] >= self.stage.started:
                yield command

    def _lines(self) -> Iterator[str]:
        """New lines that are whole, or too long for a command."""
        with contextlib.suppress(OSError), open(self.stage.dir / COMMANDS, "rb") as file:
            if file.seek(0, 2) < self.place:  # somebody began it anew
                self.place = 0
            file.seek(self.place)
            while line := file.readline(LONGEST_LINE):
                if not line.endswith(b"\n") and len(line) < LONGEST_LINE:
                    return
                if line.strip():
                    yield line.decode("utf-8", "replace")
                self.place += len(line)  # now, so that an interrupt loses no command

    def _obey(self, command: dict) -> None:
        do, ok = command["do"], True
        try:
            what = checked(do, command["what"])
            if do == "stop":
                self.stopping.append(command)
                return
            told = getattr(self, f"_do_{do}")(what)
        except KeyboardInterrupt:
            self._reply(command, "Interrupted.", ok=False)
            raise
        except Exception as error:  # whatever it was, the run goes on
            explained = isinstance(error, ExplainedError)
            told, ok = str(error) if explained else cause_of(error), False
        self._reply(command, told, ok)

    def _do_pause(self, _) -> str:
        self.paused = True
        return f"paused {self._when()}; `rlhf control {self.stage.run.name} resume` goes on"

    def _do_resume(self, _) -> str:
        if not self.paused:
            raise RunError("It is not paused.")
        self.paused = False
        return f"goes on {self._when()}"

    def _do_set(self, what: tuple[str, float]) -> str:
        name, value = what
        before = self.value(name)
        if value == before:
            return f"{name} is {value:g} already"
        self._apply(name, value)
        self.part.setdefault("steered", {})[name] = [self.parameters[name], value]
        change = f"{name} {before:.4g} → {value:.4g}"
        self._note(change)
        return f"{self._when()}: {change}"

    def _do_sample(self, prompt: str) -> str:
        row = self.sample(prompt)
        told = f"reward {row['score']:.2f}, KL {row['kl']:.1f} nats"
        return f"{self._when()}, {told}: {row['answer']}"

    def value(self, name: str) -> float:
        """What holds now. Of learning_rate: the height from which it falls linearly."""
        return self.controller.value if name == "kl_coef" else self.config.learning_rate

    def _apply(self, name: str, value: float) -> None:
        if name == "kl_coef":
            self.controller.value = value
        else:
            self.config.learning_rate = value

    def _when(self) -> str:
        return f"after update {self.index}" if self.index else "before the first update"

    def _note(self, told: str) -> None:
        self.part.setdefault("interventions", []).append(told)

    def _stop(self, index: int) -> None:
        """Leaves a checkpoint that knows all that was done, and answers to the watched prompts."""
        with self.checkpoints.guard(index + 1):
            self.watch(index)
            row, part, self.part = self.log.rows[-1], self.part, {}
            row["interventions"] = row.get("interventions", []) + part.get("interventions", [])
            if STOPPED not in row["interventions"]:  # a stop may be interrupted, and repeated
                row["interventions"].append(STOPPED)
            if "steered" in part:
                row["steered"] = row.get("steered", {}) | part["steered"]
            self.log.cut(index)  # writes the row
            saved = self.checkpoints.save(index)
        self.stopped = True
        for command in self.stopping:
            self._reply(command, f"stopped {self._when()}; checkpoint {saved.name}")
        self.stopping = []

    def _reply(self, command: dict, told: str, ok: bool = True) -> None:
        self.answered.add(command["id"])
        row = {"id": command["id"], "ok": ok, "update": self.index, "told": told}
        with (
            contextlib.suppress(OSError),  # a full disk stops no run that need not write
            open(self.stage.dir / REPLIES, "a", encoding="utf-8") as file,
        ):
            file.write(json.dumps(row) + "\n")
        self.on_change(told)
