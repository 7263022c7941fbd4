"""Where things lie: the stages, their notebooks, and the folders of runs. Needs no torch."""

import os
import re
from pathlib import Path

from ..errors import RunError

# stage → notebook, and the minutes that it takes in the demo on 2 CPU cores: the first estimate
STAGES = {
    "sft": ("01_sft", 5.8),
    "preferences": ("02_preferences", 3.9),
    "reward_model": ("03_reward_model", 3.3),
    "ppo": ("04_ppo", 5.3),
    "evaluation": ("05_evaluation", 2.1),
}


def project_root() -> Path:
    """The folder with notebooks/ and rlhf_utils/: here, above, or where this package lies."""
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[2]):
        if (folder / "notebooks" / "01_sft.ipynb").is_file() and (folder / "rlhf_utils").is_dir():
            return folder
    return here


def run_dir(name: str) -> Path:
    """outputs/<name>. Raises RunError for any other path, so that no run leaves outputs/."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise RunError(
            f"run={name!r} is no run name: use 1 to 64 letters, digits, '.', '_' or '-', "
            "beginning with a letter or digit."
        )
    return Path(os.environ.get("RLHF_OUTPUTS") or project_root() / "outputs") / name


def notebook_path(stage: str) -> Path:
    name = STAGES[stage][0] if stage in STAGES else stage
    return project_root() / "notebooks" / f"{name}.ipynb"
