"""Steering a running 04: pause, resume, stop, set kl_coef or learning_rate, sample a prompt.

Buttons and terminals write one line a request into <run>/ppo/control.jsonl. The loop reads them
between two updates, and says in replies.jsonl what it has done. Needs no torch.
"""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import DataError, ExplainedError, RunError
from ..files import printable, read_file, read_json
from ..records import cause_of, parse_json
from ..run.lock import at_work
from ..run.parameters import check_value, convert, near

REQUESTS, REPLIES = "control.jsonl", "replies.jsonl"
ACTIONS = ("pause", "resume", "stop", "set", "sample")
SETTABLE = ("kl_coef", "learning_rate")
LONGEST = 2000  # characters of a prompt; a longer one might fill the memory of a run that is going
AT_ONCE = 100_000  # bytes read at once; no request is longer
PAUSED = "paused at update"  # what progress.json says then; else "update"


# --- a request


def checked(do: str, what: str = "") -> tuple[str, float] | str:
    """(name, value) of `set`, the prompt of `sample`, "" of the others.

    Raises RunError for a request that cannot be done.
    """
    if do not in ACTIONS:
        raise RunError(f"There is no request {printable(repr(do), 100)}{near(str(do), ACTIONS)}")
    if do == "set":
        name, sign, text = what.partition("=")
        name = name.strip()
        if not sign:
            raise RunError("set needs NAME=VALUE, such as kl_coef=0.1.")
        if name not in SETTABLE:
            raise RunError(
                f"A running 04 cannot set {printable(name, 100)!r}{near(name, SETTABLE)}"
            )
        value = convert(name, text.strip(), float)
        check_value(name, value)
        return name, value
    if do == "sample":
        if not what.strip():
            raise RunError('sample needs a prompt, such as sample "Who are you?".')
        if len(what) > LONGEST:
            raise RunError(
                f"The prompt has {len(what):,} characters: at most {LONGEST:,} are read."
            )
        return what
    if what:
        raise RunError(f"{do} stands alone, without {printable(repr(what), 100)}.")
    return ""


def ask(folder: Path, do: str, what: str = "") -> str:
    """Appends a request to those of the 04 in `folder`; returns its id. Raises RunError."""
    checked(do, what)
    request = {"id": uuid.uuid4().hex, "at": time.time(), "do": do, "what": what}
    line = (json.dumps(request) + "\n").encode()
    try:
        with open(folder / REQUESTS, "ab+") as file:
            if file.tell() and (file.seek(-1, 2), file.read(1))[1] != b"\n":
                line = b"\n" + line  # somebody's half line must not swallow this one
            file.write(line)
    except OSError as error:
        raise RunError(f"{folder / REQUESTS} cannot be written: {error.strerror}.") from None
    return request["id"]


def reply_to(folder: Path, name: str) -> dict | None:
    try:
        return next((row for row in read_file(folder / REPLIES) if row.get("id") == name), None)
    except (DataError, AttributeError):  # none yet, or just being written
        return None


# --- the loop's side


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
        self.stopping: list[dict] = []  # requests to stop, answered once all is saved
        self.index, self.part = -1, {}  # the update to come, and what its row gets
        self.place = 0  # in the file of requests
        self.answered = {row.get("id") for row in self._replies()}
        stage.lineage = checkpoints.branched_from
        self._replay()

    def _replies(self) -> list[dict]:
        try:
            return [row for row in read_file(self.stage.dir / REPLIES) if isinstance(row, dict)]
        except DataError:
            return []

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
            for request in self._requests():
                self._reply(request, "The loop has ended.", ok=False)
            self.ended = True
        self.on_change("" if kind is None else "Stopped: run the cell of the loop to go on.")

    def obey(self, index: int) -> dict:
        """Does what was asked; waits while paused. Returns what the next update's row gets.

        index: how many updates are finished.
        """
        if index != self.index:  # an update that is repeated keeps what was done before it
            self.index, self.part = index, {}
            if self.log.rows and "steered" in self.log.rows[-1]:
                self._save()  # so that a kill loses nothing that was set
        since = None
        while True:
            for request in self._requests():
                self._obey(request)
            if self.stopping or not self.paused:
                break
            if since is None:
                since = time.time()
                self.stage.progress(PAUSED, index, self.config.num_updates)
            time.sleep(0.2)
        if since is not None:
            self._note(f"paused {time.time() - since:.0f} s")
            self.stage.progress("update", index, self.config.num_updates)
        if self.stopping and self.log.rows:  # without any, after the first update
            self._stop(index)
        return self.part

    def _requests(self) -> Iterator[dict]:
        """Those that are new, of this start of 04, and can be read; others get a reply."""
        for line in self._lines():
            try:
                request = parse_json(line)
                known = isinstance(request, dict) and {"id": str, "at": float, "do": str}
                if not known or any(type(request.get(n)) is not kind for n, kind in known.items()):
                    raise ValueError("no request")
                request["what"] = str(request.get("what") or "")
            except ValueError as error:
                told = f"A line of {REQUESTS} was passed over: {printable(str(error), 100)}."
                self._reply({"id": None}, told, ok=False)
                continue
            if request["id"] not in self.answered and request["at"] >= self.stage.started:
                yield request

    def _lines(self) -> Iterator[str]:
        """New lines that are whole."""
        path = self.stage.dir / REQUESTS
        while path.is_file():
            try:
                with path.open("rb") as file:
                    self.place = min(self.place, file.seek(0, 2))
                    file.seek(self.place)
                    chunk = file.read(AT_ONCE)
            except OSError:
                return
            end = chunk.rfind(b"\n") + 1
            if len(chunk) == AT_ONCE and not end:
                end = len(chunk)
            if not end:
                return
            for line in chunk[:end].splitlines(keepends=True):
                self.place += len(line)
                if line.strip():
                    yield line.decode("utf-8", "replace")

    def _obey(self, request: dict) -> None:
        do, ok = request["do"], True
        try:
            what = checked(do, request["what"])
            told = getattr(self, f"_do_{do}")(what)
        except KeyboardInterrupt:
            self._reply(request, "Interrupted.", ok=False)
            raise
        except Exception as error:  # whatever it was, the run goes on
            explained = isinstance(error, ExplainedError)
            told, ok = str(error) if explained else cause_of(error), False
        if do == "stop" and ok:
            self.stopping.append(request)
        else:
            self._reply(request, told, ok)

    def _do_pause(self, _) -> str:
        self.paused = True
        return f"paused {self._when()}; `rlhf control {self.stage.run.name} resume` goes on"

    def _do_resume(self, _) -> str:
        if not self.paused:
            raise RunError("It is not paused.")
        self.paused = False
        return f"goes on {self._when()}"

    def _do_stop(self, _) -> str:
        return ""

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
        """What `stop` leaves: a checkpoint, and answers to the watched prompts."""
        self.log.rows[-1].setdefault("interventions", []).append("stopped after it")
        with self.checkpoints.guard(index + 1):
            self.watch(index)
            self.log.cut(index)  # writes the row
        saved, self.stopped = self._save(), True
        for request in self.stopping:
            self._reply(request, f"stopped {self._when()}; checkpoint {saved.name}")
        self.stopping = []

    def _save(self) -> Path:
        with self.checkpoints.guard(self.index + 1):
            return self.checkpoints.save(self.index)

    def _reply(self, request: dict, told: str, ok: bool = True) -> None:
        self.answered.add(request["id"])
        row = {"id": request["id"], "ok": ok, "update": self.index, "told": told}
        try:
            with open(self.stage.dir / REPLIES, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError:  # a full disk stops no run that need not write
            pass
        self.on_change(told)


# --- the terminal's side


def how_far(run: Path) -> dict:
    """Its progress.json. Raises RunError for a run that is not in the loop of 04 now."""
    try:
        state = read_json(run / "ppo" / "progress.json")
        if state["what"] in ("update", PAUSED) and at_work(run):
            return {"done": int(state["done"]), "total": int(state["total"])} | state
    except (DataError, KeyError, TypeError, ValueError):
        pass
    raise RunError(f"Run {run.name!r} is not in the loop of 04 now, so there is nothing to steer.")


def from_terminal(run: Path, do: str, what: str = "") -> int:
    """Asks, and prints what was done once it is. Returns the exit status.

    Raises RunError for what is refused, here or there.
    """
    checked(do, what)
    state = how_far(run)
    name = ask(run / "ppo", do, what)
    at = f"update {min(state['done'] + 1, state['total'])} of {state['total']} is at work"
    if state["what"] == PAUSED:
        at = f"paused at update {state['done']} of {state['total']}"
    print(f"asked; {at}", flush=True)
    try:
        reply = _wait(run, name)
    except KeyboardInterrupt:
        print(f"\nThe request stands: {do} is done as soon as the update is.")
        return 130
    if not reply["ok"]:
        raise RunError(str(reply["told"]))
    print(printable(str(reply["told"])))
    return 0


def _wait(run: Path, name: str) -> dict:
    while True:
        reply = reply_to(run / "ppo", name)
        if reply:
            return reply
        try:
            how_far(run)
        except RunError:
            time.sleep(0.5)  # the reply may have come just now
            return reply_to(run / "ppo", name) or {
                "ok": False,
                "told": f"Run {run.name!r} has left the loop of 04 before it was done.",
            }
        time.sleep(0.2)
