"""Notebooks, runs and calls of the console for the tests of run/."""

import nbformat

from rlhf_utils.files import write_json
from rlhf_utils.run import cli
from rlhf_utils.run.paths import STAGES

OUTPUTS = {  # what the next stages look for
    "sft": ["policy/config.json"],
    "preferences": ["pairs.jsonl", "items.jsonl"],
    "reward_model": ["head.safetensors"],
    "ppo": ["policy/adapter.json"],
    "evaluation": ["report.html"],
}


def write_notebook(path, parameters: str) -> None:
    """A notebook that has a parameters cell, and nothing else."""
    cell = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    nbformat.write(notebook, path)


def finish(run, *stages, at="2020-01-02T09:53:00Z", **manifest) -> None:
    """Leaves the outputs and manifests of finished stages, of all by default."""
    for stage in stages or STAGES:
        for name in OUTPUTS[stage]:
            path = run / stage / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        content = {"stage": stage, "parameters": {}, "inputs": {}, "results": {}, "wall_s": 60.0}
        write_json(run / stage / "manifest.json", content | {"finished_at": at} | manifest)


def begin(run, profile="demo", **parameters) -> None:
    """Leaves the parameters.json of a run of all stages; names with __ for a dot."""
    given = {name.replace("__", "."): value for name, value in parameters.items()}
    content = {"profile": profile, "parameters": given, "asked": list(STAGES)}
    write_json(run / "parameters.json", content)


def checkpoint(run, update=4) -> None:
    (run / "ppo" / "checkpoints" / f"update-{update:06d}").mkdir(parents=True)


def call(capsys, *arguments) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of the console command."""
    capsys.readouterr()
    try:
        status = cli.main(list(arguments))
    except SystemExit as stopped:  # --help and --version
        status = stopped.code
    printed = capsys.readouterr()
    return status, printed.out, printed.err
