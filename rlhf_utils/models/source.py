"""A name → what transformers loads: a folder or hub id, or an adapter merged into its base.

Everything that is wrong with a name, a folder or its files is said in one sentence.
"""

import functools
import json
import re
import shutil
import tempfile
import warnings
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils import cached_file

from ..errors import ModelError
from ..files import read_json
from .builtin import resolve as builtin_folder

HUB_ID = r"(?=.{1,96}$)[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?"  # the hub's own limit
SECONDS = 5  # that the hub may take to answer at all
ADAPTER = "adapter_config.json"
HEAD = r"(score|classifier).*\.weight$"


def load_from(auto_class, name: str, **options):
    """auto_class.from_pretrained on a name. Raises ModelError in one sentence.

    An adapter is merged into the model that it was made for. With output_loading_info it is
    (model, info), as transformers gives them. device_map="meta" reads names and shapes of the
    weights, and fetches no more of them from the hub.
    """
    source = resolve(name)
    problem = "" if Path(source).is_dir() else hub_problem()
    try:
        adapter = _adapter_of(source, bool(problem))
        if not adapter:
            return _from_pretrained(auto_class, source, bool(problem), options)
        if _has_weights(auto_class):
            return _merged(auto_class, source, adapter, options)
        try:
            return _from_pretrained(auto_class, source, bool(problem), options)
        except Exception:  # it has no tokenizer of its own
            return _base(auto_class, source, adapter, options)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(_damage(source) or _why(name, error, problem)) from error


def _has_weights(auto_class) -> bool:
    return hasattr(auto_class, "from_config")


def _from_pretrained(auto_class, source: str, offline: bool, options: dict):
    if _has_weights(auto_class):
        options = {"use_safetensors": True} | options
    options = {"trust_remote_code": False, "local_files_only": offline} | options
    if options.get("device_map") != "meta" or offline or Path(source).is_dir():
        return auto_class.from_pretrained(source, **options)
    with tempfile.TemporaryDirectory() as folder:
        _fetch_hollow(source, Path(folder))
        return auto_class.from_pretrained(folder, **options)


def _damage(source: str) -> str:
    """Says which of a folder's files cannot be read; empty if all can."""
    for file in sorted(Path(source).glob("[!.]*.*")):
        try:
            if file.suffix == ".json":
                json.loads(file.read_bytes())
            if file.suffix == ".safetensors":
                safe_open(file, "pt")
        except Exception as error:
            told = f"{file} is damaged ({first_line(error)})"
            return f"{told}: put the model there again, or run what made it again."
    return ""


def _why(name: str, error: Exception, problem: str) -> str:
    cause = first_line(error)
    if "trust_remote_code" in str(error):
        return (
            f"The model {name!r} brings code of its own (trust_remote_code), which is never run "
            "here: take a model that transformers knows."
        )
    if "does not recognize this architecture" in str(error):
        return f"The model {name!r} is of a kind that this transformers does not know: {cause}"
    if problem:
        cause = f"the hub could not be reached ({problem}): check the name and the network."
    return (
        f"Could not load {name!r}, as a built-in model (smollm2-135m, tiny), a folder or a hub id: "
        f"{cause}"
    )


def first_line(error: Exception) -> str:
    """What a library says, cut to one line without terminal escapes."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return "".join(letter for letter in lines[0][:300] if letter.isprintable())


def resolve(name: str) -> str:
    """A folder or hub id that transformers can load. Makes a built-in model at its first use.

    A name that looks like a path is never asked of the hub. Raises ModelError.
    """
    if folder := builtin_folder(name):
        return str(folder)
    try:
        path = Path(name).expanduser()
        is_folder, is_file = bool(name) and path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError):  # too long, no such user, a NUL
        is_folder = is_file = False
    if is_folder:
        _check_folder(name, path)
        return str(path)
    if is_file or name.lower().endswith((".gguf", ".safetensors", ".bin")):
        raise ModelError(
            f"The model {name!r} is a single file: give the folder that transformers' "
            "save_pretrained wrote (config.json, *.safetensors, tokenizer.json)."
        )
    if not re.fullmatch(HUB_ID, name) or ".." in name:
        raise ModelError(
            f"There is no model folder {name!r}, and that is no hub id (owner/name) either: "
            "check the path."
        )
    return name


def _check_folder(name: str, folder: Path) -> None:
    heads = ("config.json", ADAPTER)
    if not any((folder / file).is_file() for file in heads):
        inside = sorted(f.parent for file in heads for f in folder.glob(f"*/{file}"))
        advice = f"did you mean {str(inside[0])!r}?" if inside else "give a model's own folder."
        raise ModelError(f"The folder {name!r} is no model, as it has no config.json: {advice}")
    pickles = [*folder.glob("pytorch_model*.bin"), *folder.glob("adapter_model.bin")]
    if pickles and not any(folder.glob("[!.]*.safetensors")):
        raise ModelError(
            f"The model {name!r} has its weights in {pickles[0].name}, a pickle, which can run "
            "code: save it again as safetensors."
        )


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


def _file(source: str, file: str, offline: bool = False) -> Path | None:
    """A file of a folder or of the hub's; None if it is not there."""
    try:
        return Path(cached_file(source, file, local_files_only=offline))
    except OSError:  # no such repository is said by from_pretrained in its own words
        return None


def _fetch_hollow(source: str, folder: Path) -> None:
    """The model's config and weights without their numbers: a file that is a hole but its head."""
    shutil.copy(cached_file(source, "config.json"), folder)
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for file in huggingface_hub.get_safetensors_metadata(source).files_metadata.values():
        start = end
        for name, tensor in file.tensors.items():
            place = [start + offset for offset in tensor.data_offsets]
            header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": place}
            end = max(end, place[1])
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)


# --- adapters


def _adapter_of(source: str, offline: bool) -> dict | None:
    """The adapter_config.json of what holds an adapter; None for a whole model.

    Raises ModelError for a folder that holds both: transformers would mix them.
    """
    file = _file(source, ADAPTER, offline)
    on_hub = file and not Path(source).is_dir()
    if not file or on_hub and _file(source, "config.json", offline):
        return None
    if any(f.stem != "adapter_model" for f in Path(source).glob("[!.]*.safetensors")):
        raise ModelError(
            f"The folder {source!r} holds a whole model and an adapter: move one of them away."
        )
    return read_json(file)


def _merged(auto_class, source: str, adapter: dict, options: dict):
    with_info = options.pop("output_loading_info", False)
    file = _file(source, "adapter_model.safetensors", Path(source).is_dir() or bool(hub_problem()))
    if not file:
        raise ModelError(
            f"The adapter {source!r} has no adapter_model.safetensors: save it again as "
            "safetensors."
        )
    with safe_open(file, "pt") as weights:
        shapes = {key: weights.get_slice(key).get_shape() for key in weights.keys()}  # noqa: SIM118, it is no dict
    if auto_class is AutoModelForSequenceClassification:
        heads = [shape for key, shape in shapes.items() if re.search(HEAD, key)]
        options |= {"num_labels": heads[-1][0]} if heads else {}
    # an adapter names what it changes in a whole model
    kind = AutoModelForCausalLM if auto_class is AutoModel else auto_class
    model, info = _base(kind, source, adapter, options | {"output_loading_info": True})
    try:
        _make_room(model, shapes)
        with warnings.catch_warnings(action="ignore"):  # on "meta" nothing is copied
            tuned = PeftModel.from_pretrained(model, source)
    except Exception as error:
        raise ModelError(
            f"The adapter {source!r} does not fit {adapter['base_model_name_or_path']!r}, the "
            f"model that it was made for: {first_line(error)}"
        ) from error
    if not hasattr(tuned, "merge_and_unload"):
        raise ModelError(
            f"The adapter {source!r} is of a kind that cannot be merged into its model "
            f"({adapter.get('peft_type')}): take a LoRA adapter, or a whole model."
        )
    merged = tuned.merge_and_unload()
    brought = {key.removeprefix("base_model.model.") for key in shapes}
    info["missing_keys"] = set(info["missing_keys"]) - brought
    merged = merged.base_model if auto_class is AutoModel else merged
    return (merged, info) if with_info else merged


def _make_room(model, shapes: dict[str, list[int]]) -> None:
    """As many embeddings as the adapter has, which may have learned new tokens."""
    embeddings = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is embeddings)
    whole = [shape[0] for key, shape in shapes.items() if re.search(rf"\.{name}\..*weight$", key)]
    lora = [shape[1] for key, shape in shapes.items() if f".{name}.lora_embedding_A" in key]
    if (size := max(whole + lora, default=0)) > embeddings.weight.shape[0]:
        model.resize_token_embeddings(size, mean_resizing=False)


def _base(auto_class, source: str, adapter: dict, options: dict):
    """What the model that an adapter was made for gives; its path may count from the adapter's."""
    base = adapter.get("base_model_name_or_path") or ""
    if Path(source, base).is_dir() and not Path(base).is_dir():
        base = str(Path(source, base))
    try:
        if not base or Path(base).is_dir() and Path(base).samefile(source):
            raise ModelError("name its model's folder in base_model_name_or_path.")
        return load_from(auto_class, base, **options)
    except ModelError as error:
        raise ModelError(
            f"The model {source!r} is an adapter for {base!r}, which could not be loaded: {error}"
        ) from error
