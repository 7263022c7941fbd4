"""A name → what transformers loads: a folder or hub id, checked before anything is read.

Everything that is wrong with a name or a folder is said in one sentence.
"""

import functools
import json
import re
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants

from ..errors import ModelError
from ..files import read_json
from .builtin import resolve as builtin_folder

HUB_ID = r"(?=.{1,96}$)[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?"  # the hub's own limit
WEIGHTS = (".gguf", ".ggml", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".zip", ".onnx")
SECONDS = 5  # that the hub may take to answer at all
AGAIN = "put the model there again, or run what made it again."


def resolve(name: str) -> str:
    """A folder or hub id that transformers can load. Makes a built-in model at its first use.

    A name that looks like a path is never asked of the hub. Raises ModelError.
    """
    if folder := builtin_folder(name):
        return str(folder)
    path = _path(name)
    if path and path.is_dir():
        _check_folder(name, path)
        return str(path)
    if path and path.is_file() or str(name).lower().endswith(WEIGHTS):
        raise ModelError(
            f"The model {name!r} is a single file: give the folder that transformers' "
            "save_pretrained wrote (config.json, *.safetensors, tokenizer.json)."
        )
    if not re.fullmatch(HUB_ID, str(name)) or ".." in name:
        raise ModelError(
            f"There is no model folder {name!r}, and that is no hub id (owner/name) either: "
            "check the path."
        )
    return name


def _path(name: str) -> Path | None:
    """The name as a path, or None for one that can be none."""
    try:
        path = Path(name).expanduser()
        path.is_dir()
    except (OSError, RuntimeError, TypeError, ValueError):  # too long, no such user, a NUL
        return None
    return path if name else None


def _check_folder(name: str, folder: Path) -> None:
    if not any((folder / file).is_file() for file in ("config.json", "adapter_config.json")):
        inside = sorted(file.parent for file in folder.glob("*/config.json"))
        advice = f"did you mean {str(inside[0])!r}?" if inside else "give a model's own folder."
        raise ModelError(f"The folder {name!r} is no model, as it has no config.json: {advice}")
    for file in ("config.json", "adapter_config.json", "tokenizer_config.json", "tokenizer.json"):
        if (folder / file).is_file():
            read_config(folder / file)
    for file in sorted(folder.glob("*.safetensors")):
        read_header(file)
    pickles = [*folder.glob("pytorch_model*.bin"), *folder.glob("adapter_model.bin")]
    if pickles and not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"The model {name!r} has its weights in {pickles[0].name}, a pickle, which can run "
            "code: save it again as safetensors."
        )


def read_config(file: Path) -> dict:
    """The object in a JSON file. Raises ModelError for one that is damaged."""
    try:
        content = read_json(file)
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
        return content
    except (ValueError, OSError, RecursionError) as error:
        raise ModelError(f"{file} is damaged ({error}): {AGAIN}") from None


def read_header(file: Path) -> dict[str, dict]:
    """Tensor name → its dtype, shape and place. Raises ModelError for a file that is damaged."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(size - 8, 100_000_000):
                raise ValueError("its header is cut")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"{file} is damaged ({error}): {AGAIN}") from None
    if size != end:
        raise ModelError(
            f"{file} is damaged: it has {size:,} bytes, and by its header {end:,}: {AGAIN}"
        )
    return header


# --- the hub


def hub_problem() -> str:
    """Why the hub cannot be asked; empty if it can. Libraries alone would try for a minute."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        _ask_hub()
    except Exception as error:
        return f"{constants.ENDPOINT} does not answer, {type(error).__name__}"
    return ""


@functools.cache  # an answer is kept, a failure is not
def _ask_hub() -> None:
    huggingface_hub.get_session().head(constants.ENDPOINT, timeout=SECONDS)
