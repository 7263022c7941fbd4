"""Whether held-out prompts are new: none may be among those that a stage was trained on."""

import contextlib
import io
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from ..data.rows import Prompt, load_demonstrations, load_prompts
from ..errors import DataError, RunError
from ..preferences.pair_files import read_items, read_pairs


def learned_from(run: Path, asked: dict[str, dict]) -> dict[str, list[Prompt]]:
    """What a stage learned from → its prompts.

    run: the run's folder. asked: finished stage → its parameters. Raises RunError for a file that
    cannot be read any more.
    """
    sources = {}
    if "sft" in asked:
        name = asked["sft"]["demonstrations"]
        sources["demonstrations of 01"] = lambda: [row.prompt for row in load_demonstrations(name)]
    if "preferences" in asked:
        items = run / "preferences/items.jsonl"
        sources["prompts of 02"] = lambda: [
            item.prompt for item in read_items(items) if item.split == "train"
        ]
    if own_pairs := asked.get("reward_model", {}).get("preferences"):
        sources["preferences of 03"] = lambda: [pair.prompt for pair in read_pairs(own_pairs)]
    if own_prompts := asked.get("ppo", {}).get("prompts"):
        sources["prompts of 04"] = lambda: load_prompts(own_prompts)
    learned = {}
    for source, load in sources.items():
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # the stage has told of its rows
                learned[source] = load()
        except DataError as error:
            again = " Run 02_preferences again." if source == "prompts of 02" else ""
            raise RunError(
                f"Whether held-out prompts are new cannot be said, because the {source} cannot be "
                f"read again: {error}{again}"
            ) from error
    return learned


def check_heldout(heldout: Iterable[Prompt], learned: dict[str, list[Prompt]]) -> None:
    """Raises RunError if a held-out prompt was trained on, however its spaces and capitals are."""
    known = {}
    for source, prompts in learned.items():
        for prompt in prompts:
            known.setdefault(_plain(prompt), source)
    both = [prompt for prompt in heldout if _plain(prompt) in known]
    if both:
        first = min(both, key=lambda prompt: prompt.text)
        raise RunError(
            f"{len(both)} held-out prompts were trained on, such as {first.text[:80]!r} among the "
            f"{known[_plain(first)]}: they would flatter π_RLHF, so give others as heldout_prompts."
        )


def _plain(prompt: Prompt) -> str:
    return " ".join(unicodedata.normalize("NFKC", prompt.text).split()).casefold()
