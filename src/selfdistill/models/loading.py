"""Loads models, configs and tokenizers by name."""

import contextlib
import io
import json
import os
import sys
import warnings
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, cast

import huggingface_hub
import torch
import transformers
from huggingface_hub import errors as hub_errors
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from selfdistill.errors import DamagedFilesError, UserError, brief, quoted
from selfdistill.models.adapters import beside as adapter_beside
from selfdistill.models.adapters import merged
from selfdistill.models.attention import use_fast_attention
from selfdistill.models.chat_template import replace_chat_template
from selfdistill.models.device import compute_dtype, device_named
from selfdistill.models.embedded import EMBEDDED_TITLE, load_gguf
from selfdistill.models.places import adapter_base, is_adapter, locate
from selfdistill.models.quantization import check_quantizable, differentiable, quantized
from selfdistill.settings.groups import DEFAULT_MODEL
from selfdistill.types import Quantize

_LOAD_ERRORS = (OSError, ValueError, ImportError, SafetensorError, hub_errors.StrictDataclassError)
"""Errors that the libraries raise for a folder, file or repository that can't be loaded."""
_READ = (".json", ".safetensors", ".jinja", ".model", ".txt")
"""Ends of the names of files that the libraries read."""


def quiet_libraries() -> None:
    """Switches off the libraries' progress bars and log messages below the level of errors."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    huggingface_hub.utils.logging.set_verbosity_error()
    huggingface_hub.utils.disable_progress_bars()
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"  # read when `datasets` is imported
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()
    for library in ("transformers", "peft", "huggingface_hub"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=library)


def load_model(
    name_or_path: str,
    *,
    dtype: str = "auto",
    device: str | None = None,
    attn_implementation: str | None = None,
    quantize: Quantize | None = None,
    beside: bool = False,
) -> PreTrainedModel:
    """Loads a causal language model, in eval mode, without printing to stdout.

    Args:
        name_or_path: ``smollm2-135m`` (embedded), a folder, a ``.gguf`` file (dequantized), the folder of a LoRA
            adapter (merged into its base, whose path may be relative to that folder), or a Hub id.
        dtype: see ``compute_dtype``.
        device: device to load to; by default ``default_device()``.
        attn_implementation: a name that transformers knows; by default the fastest that fits.
        quantize: bits of the weights of linear layers, which then can't be trained; None for those of ``dtype``.
        beside: with ``quantize``, an adapter stays beside the weights of its base, for use without training.

    Raises:
        UserError: the model can't be found, loaded or quantized, or is no causal language model. The message names
            --model_name.
        DamagedFilesError: weights are missing, of the wrong shape, or not finite.
    """
    place, source = device_named(device), locate(name_or_path)
    if quantize is not None and beside and isinstance(source, Path) and is_adapter(source):
        base = load_model(adapter_base(source), dtype=dtype, device=device, quantize=quantize)
        return cast(PreTrainedModel, adapter_beside(base, source))
    options: dict[str, Any] = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    if quantize is None:
        model = _load(name_or_path, compute_dtype(dtype, place), options)
        model = model.to(place)  # pyright: ignore[reportArgumentType]
    else:
        check_quantizable(name_or_path, source, quantize)
        options |= quantized(quantize, compute_dtype(dtype, place), place)
        model = differentiable(_load(name_or_path, compute_dtype(dtype, place), options))
    _check_finite(name_or_path, model)
    if attn_implementation is None:
        use_fast_attention(model)
    return model


def load_weights(name_or_path: str, *, dtype: str = "auto", device: str | None = None) -> dict[str, torch.Tensor]:
    """Loads a model's weights by parameter name, in the host's memory.

    Arguments and errors are those of load_model; ``device`` is where they will be used, which decides their dtype.
    """
    return dict(_load(name_or_path, compute_dtype(dtype, device_named(device)), {}).named_parameters())


def load_config(name_or_path: str) -> PreTrainedConfig:
    """Loads a model's config without its weights; names as in load_model.

    Raises:
        UserError: there is no config, or it is not of a causal language model.
    """
    source = locate(name_or_path)
    _check_readable(name_or_path, source)
    _check_files(name_or_path, source)
    try:
        if isinstance(source, Path) and source.is_file():
            with _whole_gguf(name_or_path):
                return AutoConfig.from_pretrained(source.parent, gguf_file=source.name)
        if isinstance(source, Path) and is_adapter(source):
            return load_config(adapter_base(source))
        config = AutoConfig.from_pretrained(str(source), trust_remote_code=False)
    except UserError:
        raise
    except _LOAD_ERRORS as error:
        raise UserError(f"Can't read the config of --model_name {name_or_path}: {brief(error, 20)}") from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(
            f"--model_name {name_or_path} is of type {config.model_type}, which is no causal language model. Take one "
            "such as Llama, Qwen or Gemma."
        )
    return config


def load_tokenizer(
    name_or_path: str,
    *,
    chat_template: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a model, with padding on the left; names as in load_model.

    A missing pad token is set to the end-of-sequence token. For an adapter's folder without tokenizer files it is the
    base model's tokenizer.

    Args:
        name_or_path: the model.
        chat_template: path of a Jinja file that replaces the tokenizer's chat template.
        chat_template_kwargs: passed to that template as it is tried.

    Raises:
        UserError: there is no tokenizer, it has neither a pad nor an end-of-sequence token, or ``chat_template`` is
            missing or broken.
    """
    tokenizer = _load_tokenizer(name_or_path)
    if chat_template is not None:
        replace_chat_template(tokenizer, chat_template, chat_template_kwargs or {})
    return tokenizer


def _load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    path = locate(name_or_path)
    _check_readable(name_or_path, path)
    reading: Any = contextlib.nullcontext()
    if isinstance(path, Path) and path.is_file():
        source, options, reading = str(path.parent), {"gguf_file": path.name}, _whole_gguf(name_or_path)
    elif isinstance(path, Path) and is_adapter(path) and not any(path.glob("tokenizer*")):
        return _load_tokenizer(adapter_base(path))
    else:
        source, options = str(path), {}
    try:
        # the GGUF reader draws its own progress bar, whatever the verbosity
        with contextlib.redirect_stderr(io.StringIO()), reading:
            tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left", trust_remote_code=False, **options)
    except UserError:
        raise
    except _LOAD_ERRORS as error:
        raise UserError(
            f"--model_name {name_or_path} has no tokenizer that loads: {brief(error, 12)} "
            "Copy its tokenizer.json and tokenizer_config.json beside the weights."
        ) from error
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"The tokenizer of --model_name {name_or_path} declares neither a pad nor an "
                "end-of-sequence token. Set eos_token in its tokenizer_config.json."
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def require_chat_template(tokenizer: PreTrainedTokenizerBase, name: str, *, has_flag: bool = True) -> None:
    """Raises UserError if the tokenizer of model ``name`` has no chat template, or several without a default.
    ``has_flag``: whether the caller takes ``--chat_template``."""
    templates: Any = tokenizer.chat_template
    if isinstance(templates, dict) and "default" not in templates:
        names = ", ".join(sorted(map(str, cast(dict[Any, Any], templates))))
        flag = "give its text with --chat_template FILE, or " if has_flag else ""
        raise UserError(
            f"The tokenizer of --model_name {name} has several chat templates and no default: {names}. Choose one: "
            f"{flag}call it default beside the tokenizer."
        )
    if not tokenizer.chat_template:
        flag = "give one with --chat_template FILE, " if has_flag else ""
        raise UserError(
            f"The tokenizer of --model_name {name} has no chat template. "
            f"Use an instruct model, {flag}or put one as chat_template.jinja beside its tokenizer."
        )


def _load(name: str, dtype: torch.dtype, options: dict[str, Any]) -> PreTrainedModel:
    source = locate(name)
    _check_readable(name, source)
    try:
        if isinstance(source, Path) and source.is_file():
            with _whole_gguf(name):
                model = load_gguf(source, dtype, options)
        elif isinstance(source, Path) and is_adapter(source):
            model = merged(_load(adapter_base(source), dtype, options), source)
        else:
            load_config(name)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(source),
                dtype=dtype,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # otherwise the library raises without naming them; refused below
                **options,
            )
            model, loading_info = loaded
            _check_loaded(name, loading_info)
    except UserError:
        raise
    except _LOAD_ERRORS as error:
        raise UserError(f"Can't load --model_name {name}: {brief(error, 25)}") from error
    # An adapter's file names this as its base; a full path, which PEFT never asks the Hub about.
    model.name_or_path = str(source.resolve()) if isinstance(source, Path) else source
    if name == DEFAULT_MODEL:
        setattr(model.config, "_name_or_path", EMBEDDED_TITLE)  # noqa: B010
    return model.eval()


@contextlib.contextmanager
def _whole_gguf(name: str) -> Generator[None]:
    """Context in which a GGUF file is read; for one that is damaged its readers raise errors of many kinds."""
    try:
        yield
    except (MemoryError, *_LOAD_ERRORS):
        raise
    except Exception as error:
        raise DamagedFilesError(
            f"--model_name {name} can't be read as a GGUF file ({type(error).__name__}: {brief(error, 10)}). Copy or "
            "download it again."
        ) from error


def _check_readable(name: str, source: Path | str) -> None:
    """Raises UserError for a file of a model that may not be read, which the library would call missing."""
    if isinstance(source, Path):
        files = [source] if source.is_file() else sorted(file for file in source.iterdir() if file.suffix in _READ)
        for file in files:
            if file.is_file() and not os.access(file, os.R_OK):
                raise UserError(f"--model_name {name}: {file} can't be read: permission denied. Change its rights.")


def _check_files(name: str, source: Path | str) -> None:
    """Raises UserError for a folder whose files would make the library run or fetch code, or read outside of it."""
    if not isinstance(source, Path) or source.is_file() or is_adapter(source):
        return
    if not any(source.glob("*.safetensors")) and (pickled := next(source.glob("*.bin"), None)):
        raise UserError(
            f"--model_name {name}: its weights are in {pickled.name}, a pickle, which may run code. In a place you "
            "trust, load it with transformers and save_pretrained it, which writes safetensors."
        )
    described = _json_in(source / "config.json")
    for key in ("attn_implementation", "_attn_implementation"):
        if "/" in str(described.get(key, "")):
            raise UserError(f"--model_name {name}: {key} in its config.json names code to be fetched. Delete it there.")
    shards = _json_in(source / "model.safetensors.index.json").get("weight_map")
    for shard in set(map(str, shards.values())) if isinstance(shards, dict) else ():
        if Path(shard).name != shard:
            raise UserError(f"--model_name {name}: its index names {quoted(shard)}, outside the folder. Correct it.")


def _json_in(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is none, whose error the library tells."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _check_loaded(name: str, loading_info: Any) -> None:
    """Raises DamagedFilesError if a weight would be random, because the files lack it or hold it in another shape."""
    for key, in_file, in_model in sorted(loading_info["mismatched_keys"]):
        raise DamagedFilesError(
            f"--model_name {name}: {key} has the shape {list(in_file)} in its file, and {list(in_model)} by its "
            "config.json. One of the two is another model's."
        )
    for key in sorted(loading_info["missing_keys"]):
        others = len(loading_info["missing_keys"]) - 1
        more = f" ({others} more are missing)" if others else ""
        raise DamagedFilesError(
            f"--model_name {name}: its files hold no weight {key}{more}. Copy the whole model again."
        )


@torch.no_grad()
def _check_finite(name: str, model: PreTrainedModel) -> None:
    """Raises DamagedFilesError if a weight is not a finite number."""
    named = (*model.named_parameters(), *model.named_buffers())  # tied weights once
    tensors = {key: tensor for key, tensor in named if tensor.is_floating_point() and tensor.numel()}
    ends = [torch.stack(torch.aminmax(tensor)).float() for tensor in tensors.values()]
    finite = torch.isfinite(torch.stack(ends)).all(1).tolist() if ends else []
    for key, is_finite in zip(tensors, finite, strict=True):
        if not is_finite:
            raise DamagedFilesError(
                f"--model_name {name}: {key} holds numbers that are not finite. Its training went wrong, or the file "
                "is damaged: take another copy or an earlier checkpoint."
            )
