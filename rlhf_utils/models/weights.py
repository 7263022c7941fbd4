"""from_pretrained with every failure in one sentence, and adapters merged into their base."""

import os
import warnings
from pathlib import Path

from peft import PeftModel
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils import cached_file

from ..errors import ModelError
from .source import hub_problem, read_config, read_header, resolve


def load_from(auto_class, name: str, **options):
    """auto_class.from_pretrained on a name. Raises ModelError in one sentence.

    An adapter is merged into the model that it was made for. With output_loading_info it is
    (model, info), as transformers gives them.
    """
    source = resolve(name)
    problem = "" if Path(source).is_dir() else hub_problem()
    adapter = _adapter_of(source, bool(problem))
    if adapter is not None:
        return _load_adapter(auto_class, name, source, adapter, options)
    try:
        return _from_pretrained(auto_class, source, bool(problem), options)
    except Exception as error:
        raise ModelError(_why(name, error, problem)) from error


def _from_pretrained(auto_class, source: str, offline: bool, options: dict):
    if is_model(auto_class):
        options = {"use_safetensors": True} | options
    return auto_class.from_pretrained(
        source, trust_remote_code=False, local_files_only=offline, **options
    )


def is_model(auto_class) -> bool:
    """Whether the class loads weights, other than AutoTokenizer and AutoConfig."""
    return hasattr(auto_class, "from_config")


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
        return (
            f"Could not load {name!r}: it is no built-in model (smollm2-135m, tiny) and no model "
            f"directory here, and the hub could not be reached ({problem}): check the name and "
            "the network."
        )
    return (
        f"Could not load {name!r}, neither as a built-in model (smollm2-135m, tiny) nor as a model "
        f"directory or hub id: {cause}"
    )


def first_line(error: Exception) -> str:
    """What a library says, cut to one line without terminal escapes."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return "".join(letter for letter in lines[0][:300] if letter.isprintable())


# --- adapters


def _adapter_of(source: str, offline: bool) -> dict | None:
    """The adapter_config.json of what holds an adapter and no whole model; else None."""
    if not Path(source).is_dir():
        file = _hub_file(source, "adapter_config.json", offline)
        whole = file and _hub_file(source, "config.json", offline)
        return read_config(Path(file)) if file and not whole else None
    file = Path(source, "adapter_config.json")
    whole = [f for f in Path(source).glob("*.safetensors") if f.stem != "adapter_model"]
    if whole or not file.is_file():
        return None
    adapter = read_config(file)
    beside = Path(source, str(adapter.get("base_model_name_or_path") or ""))
    if beside != Path(source) and beside.is_dir():  # 04 names π_SFT by its place in the run
        adapter["base_model_name_or_path"] = os.path.normpath(beside)
    return adapter


def _hub_file(source: str, file: str, offline: bool) -> str | None:
    try:
        return cached_file(
            source,
            file,
            local_files_only=offline,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
    except OSError:  # no such repository, which from_pretrained says in its own words
        return None


def _load_adapter(auto_class, name: str, source: str, adapter: dict, options: dict):
    if not is_model(auto_class):
        try:  # its own tokenizer, if it has one
            return _from_pretrained(auto_class, source, Path(source).is_dir(), options)
        except Exception:
            return _base(auto_class, name, adapter, options)
    return _merged(auto_class, name, source, adapter, dict(options))


def _merged(auto_class, name: str, source: str, adapter: dict, options: dict):
    with_info = options.pop("output_loading_info", False)
    header = _adapter_header(name, source)
    causal = auto_class is AutoModel and adapter.get("task_type") == "CAUSAL_LM"
    if auto_class is AutoModelForSequenceClassification:
        heads = [entry["shape"] for key, entry in header.items() if _is_head(key)]
        options |= {"num_labels": heads[-1][0]} if heads else {}
    options["output_loading_info"] = True
    kind = AutoModelForCausalLM if causal else auto_class
    model, info = _base(kind, name, adapter, options)
    try:
        with warnings.catch_warnings(action="ignore"):  # on "meta" nothing is copied
            merged = PeftModel.from_pretrained(model, source).merge_and_unload()
    except Exception as error:
        base = adapter.get("base_model_name_or_path")
        raise ModelError(
            f"The adapter {name!r} does not fit {base!r}, the model that it was made for: "
            f"{first_line(error)}"
        ) from error
    brought = {key.removeprefix("base_model.model.") for key in header}
    info["missing_keys"] = set(info["missing_keys"]) - brought
    merged = merged.base_model if causal else merged
    return (merged, info) if with_info else merged


def _adapter_header(name: str, source: str) -> dict[str, dict]:
    file = Path(source, "adapter_model.safetensors")
    if not Path(source).is_dir():
        file = Path(_hub_file(source, file.name, bool(hub_problem())) or file)
    if not file.is_file():
        raise ModelError(
            f"The adapter {name!r} has no adapter_model.safetensors: save it again as safetensors."
        )
    return read_header(file)


def _is_head(key: str) -> bool:
    return key.endswith(".weight") and ("score" in key or "classifier" in key)


def _base(auto_class, name: str, adapter: dict, options: dict):
    """What the model that an adapter was made for gives."""
    base = str(adapter.get("base_model_name_or_path") or "")
    try:
        return load_from(auto_class, base, **options)
    except ModelError as error:
        raise ModelError(
            f"The model {name!r} is an adapter for {base!r}, which could not be loaded: {error}"
        ) from error
