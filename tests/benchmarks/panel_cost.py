"""What the live panel costs: its share of a run's time, and 5,000 updates of it.

Replays the rows of a finished run's metrics.jsonl to a LivePlot, which writes what a notebook gets;
a row takes as long as it took in the run, but nothing waits for it.

    python tests/benchmarks/panel_cost.py demo
"""

import argparse
import json
import time
from unittest import mock

import nbformat

from rlhf_utils.files import read_file
from rlhf_utils.run.paths import run_dir
from rlhf_utils.show import notebook as show
from rlhf_utils.show import panel


def share_of_time(rows: list[dict], seconds: list[float]) -> tuple[float, int]:
    """(the share of the run's time that goes into drawing, how often the panel is drawn)."""
    run, drawing, counts = 0.0, 0.0, []

    def draw(*given):
        counts.append(1)
        return panel.live_panel(*given)

    def clock() -> float:
        return run + time.process_time()

    with mock.patch.object(show.time, "time", clock):
        live = show.LivePlot(draw, len(rows))
        for done, took in enumerate(seconds, 1):
            run += took
            began = time.process_time()
            live(rows[:done], done)
            drawing += time.process_time() - began
    return drawing / (run + drawing), len(counts)


def long_run(rows: list[dict], updates: int) -> list[dict]:
    """The rows again and again."""
    batch = rows[0]["episode"]
    return [
        rows[n * len(rows) // updates] | {"update": n + 1, "episode": batch * (n + 1)}
        for n in range(updates)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a folder below outputs/")
    rows = read_file(run_dir(parser.parse_args().run) / "ppo" / "metrics.jsonl")
    seconds = [rows[0]["episode"] / row["eps"] for row in rows]
    shown = []
    with (
        mock.patch.object(show, "display", lambda bundle, raw: shown.append(bundle)),
        mock.patch.object(show, "clear_output", lambda wait: shown.clear()),
    ):
        for name, took in (("as it was", seconds), ("0.1 s an update", [0.1] * 1000)):
            share, times = share_of_time(long_run(rows, len(took)), took)
            print(f"{name}: {share:.2%} of the time, drawn {times} times")
        began = time.perf_counter()
        show.figure(panel.live_panel(long_run(rows, 5000)), live=True)
    cell = nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("display_data", shown[0])])
    size = len(json.dumps(cell))
    print(
        f"5,000 updates: {time.perf_counter() - began:.1f} s with its picture, {size / 1e3:.0f} kB"
    )
    show.PAINTER.stop()


if __name__ == "__main__":
    main()
