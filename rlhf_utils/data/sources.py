"""Names of data: a file, a folder that save_to_disk made, or a hub id → its records.

A hub id is owner/name, or the one word of an old data set; `:config` and `@split` may follow.
"""

import difflib
import os
import re
from pathlib import Path

from ..errors import DataError
from ..records import (
    BATCH,
    READABLE,
    Numbered,
    cause_of,
    open_records,
    shown_name,
    table_records,
)

WORD = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
HUB_ID = re.compile(rf"((?:{WORD}/)?{WORD})(?::({WORD}))?(?:@(\w+))?")
FILE_ENDING = re.compile(r"\.([A-Za-z]{2,8}\d?|7z)$")  # no hub id ends so; .v2 may
PATIENCE_S = 5  # for the hub's first answer; the library itself would try for half a minute


def open_source(source: str) -> tuple[str, Numbered]:
    """("line" or "row", as the records are counted; the records). Raises DataError."""
    if not isinstance(source, (str, Path)) or not str(source).strip():
        raise DataError(f"{source!r} names no data: give a file or a hub id.")
    source = str(source)
    path = Path(os.path.expanduser(source))
    if os.path.exists(path):
        return open_records(path)
    folder, _, split = str(path).rpartition("@")
    if folder and os.path.isdir(folder):
        return open_records(Path(folder), split)
    parts = HUB_ID.fullmatch(source)
    if not parts or FILE_ENDING.search(parts[1].lower().removesuffix(".gz")):
        raise DataError(
            f"There is no file {shown_name(os.path.abspath(path))}: give a file that ends in "
            f"{READABLE}; or a hub id such as owner/name, owner/name:config or owner/name@split."
        )
    if difflib.get_close_matches(source.lower(), ("builtin", "crisp"), 1, 0.8):
        raise DataError(f"{source!r} is no data set here: give 'builtin', a file or a hub id.")
    return "row", _hub_records(source, *parts.groups())


def _hub_records(source: str, name: str, config: str | None, split: str | None) -> Numbered:
    import datasets
    from huggingface_hub import HfApi

    failed = f"Could not load the data set {source!r}"
    try:
        if not datasets.config.HF_HUB_OFFLINE:
            HfApi().dataset_info(name, timeout=PATIENCE_S)
        table = datasets.load_dataset(name, config, split=split or "train")
    except Exception as error:  # these libraries have many of their own
        raise DataError(
            f"{failed}: {cause_of(error)}. Check its name, configuration and split "
            "(owner/name:config@split) and the network, give a file, or set HF_HUB_OFFLINE=1 for "
            "what was loaded before."
        ) from error
    return table_records(table.with_format("arrow").iter(BATCH), failed)
