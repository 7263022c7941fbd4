"""What healthy looks like: the range of PPO's curves over the demo's own seeds.

notebooks/notes/healthy.json, which tests/benchmarks/healthy_band.py makes:
{"seeds": [...], "parameters": {stage: {name: value}}, "episodes": [one an update],
"ranges": {key of metrics.jsonl: [lowest of the seeds at each update, highest]}}
"""

import numpy as np

from ..errors import DataError
from ..files import read_json
from ..run.paths import project_root
from ..run.values import known
from ..show import panel

FREE = ("run", "seed", "resume", "dtype", "strict")  # parameters that may differ
STAGES = ("sft", "preferences", "reward_model", "ppo")


def healthy_file():
    return project_root() / "notebooks" / "notes" / "healthy.json"


def healthy_band(parameters: dict[str, dict]) -> dict | None:
    """What `show.panel.live_panel` draws behind a run's curves; None where runs cannot be compared.

    parameters: stage → its parameters. All of 01 to 04 must be those of the healthy runs: another
    model, reward or learning rate has other curves.
    """
    if not healthy_file().is_file():
        return None
    found = read_json(healthy_file())
    return found if bound(parameters) == bound(found["parameters"]) else None


def bound(parameters: dict[str, dict]) -> dict[str, dict]:
    """The parameters that must be alike, by stage; one that is younger than a run has its default.

    Empty for a stage that was not run.
    """
    found = {}
    for stage in STAGES:
        defaults = {name: default for name, (_, default) in known(stage).items()}
        given = defaults | parameters[stage] if stage in parameters else {}
        found[stage] = {name: value for name, value in given.items() if name not in FREE}
    return found


def ranges(runs: list[list[dict]]) -> dict:
    """ "episodes" and "ranges" over the rows of metrics.jsonl of several runs.

    Time is the machine's and is left out, as are keys that a run lacks. Raises DataError for runs
    with other updates.
    """
    episodes = [[row["episode"] for row in rows] for rows in runs]
    if any(other != episodes[0] for other in episodes):
        counts = ", ".join(str(len(rows)) for rows in runs)
        raise DataError(f"The runs have {counts} updates: name finished runs of one batch size.")
    curves, found = [panel.columns(rows, most=len(rows)) for rows in runs], {}
    for key in panel.KEYS:
        values = np.array([curve[key] for curve in curves])
        if np.isfinite(values).all() and not key.startswith("time/"):
            low, high = values.min(0), values.max(0)
            found[key] = [[float(f"{value:.3g}") for value in each] for each in (low, high)]
    return {"episodes": episodes[0], "ranges": found}
