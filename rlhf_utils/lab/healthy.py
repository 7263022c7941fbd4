"""What healthy looks like: the range of PPO's curves over the demo's own seeds.

notebooks/notes/healthy.json, which tests/benchmarks/healthy_band.py makes:
{"seeds": [...], "parameters": {stage: {name: value}}, "episodes": [one an update],
"ranges": {key of metrics.jsonl: [lowest of the seeds at each update, highest]}}
"""

from ..files import read_json
from ..run.paths import project_root
from ..run.values import known

# parameters that may differ
FREE = ("run", "seed", "resume", "dtype", "strict", "whatif_answers")
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
    """The parameters that must be alike, of the stages that were run.

    One that is younger than a run has its default.
    """
    found = {}
    for stage in (stage for stage in STAGES if stage in parameters):
        given = {name: default for name, (_, default) in known(stage).items()} | parameters[stage]
        found[stage] = {name: value for name, value in given.items() if name not in FREE}
    return found
