"""Names, folders, GGUF files and adapters to models and tokenizers; devices, dtypes, LoRA, end tokens."""

import contextlib
import difflib
import io
import json
import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import huggingface_hub
import torch
import transformers
from huggingface_hub import errors as hub_errors
from jinja2 import TemplateError
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from selfdistill.models.attention import use_fast_attention
from selfdistill.models.cpu import prepare_cpu
from selfdistill.models.embedded import (
    DEFAULT_MODEL,
    EMBEDDED_FOLDER,
    EMBEDDED_TITLE,
    brief,
    cache_dir,
    embedded_model_path,
    load_gguf,
)
from selfdistill.models.output_head import HeadTransform, check_head, decoder, head_transform, output_head
from selfdistill.types import UserError

__all__ = [
    "DEFAULT_MODEL",
    "HeadTransform",
    "cache_dir",
    "check_head",
    "compute_dtype",
    "decoder",
    "default_device",
    "embedded_model_path",
    "eos_token_ids",
    "head_transform",
    "load_config",
    "load_model",
    "load_tokenizer",
    "lora",
    "output_head",
    "pad_token_id",
    "quiet_libraries",
    "require_chat_template",
]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_LOAD_ERRORS = (OSError, ValueError, ImportError, SafetensorError, hub_errors.StrictDataclassError)
"""What the libraries raise for a folder, file or repository that can't be loaded."""


def quiet_libraries() -> None:
    """Switches off the libraries' progress bars and everything they log below an error."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    huggingface_hub.utils.logging.set_verbosity_error()
    huggingface_hub.utils.disable_progress_bars()
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"  # read when `datasets` is imported
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()
    for library in ("transformers", "peft", "huggingface_hub"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=library)


# --- loading ------------------------------------------------------------------------------------


def load_model(
    name_or_path: str,
    *,
    dtype: str = "auto",
    device: str | None = None,
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """The causal language model of that name, in eval mode; it prints nothing to stdout.

    ``name_or_path``: ``smollm2-135m`` (embedded), a folder, a ``.gguf`` file (dequantized), the
    folder of a LoRA adapter (merged into its base, whose path may be relative to that folder), or a
    Hub id. ``dtype``: see compute_dtype. ``device``: default_device() unless given.
    Raises UserError that names --model_name for whatever can't be found or loaded.
    """
    place = _device(device)
    if place.type == "cpu":
        prepare_cpu()
    options = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    model = _load(name_or_path, compute_dtype(dtype, place), options)
    model = cast(PreTrainedModel, model.to(place))  # pyright: ignore[reportArgumentType]
    if attn_implementation is None:
        use_fast_attention(model)
    return model


def load_config(name_or_path: str) -> PreTrainedConfig:
    """The model's config, without its weights; names as in load_model. Raises UserError where there is none."""
    source = _locate(name_or_path)
    try:
        if isinstance(source, Path) and source.is_file():
            return AutoConfig.from_pretrained(source.parent, gguf_file=source.name)
        if isinstance(source, Path) and _is_adapter(source):
            return load_config(_adapter_base(source))
        return AutoConfig.from_pretrained(str(source), trust_remote_code=False)
    except _LOAD_ERRORS as error:
        raise UserError(f"Can't read the config of --model_name {name_or_path}: {brief(error, 20)}") from error


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to ``name_or_path`` (as in load_model), padding on the left.

    A missing pad token is set to the end-of-sequence token. An adapter's folder without tokenizer
    files has its base's. Raises UserError where there is none.
    """
    path = _locate(name_or_path)
    if isinstance(path, Path) and path.is_file():
        source, options = str(path.parent), {"gguf_file": path.name}
    elif isinstance(path, Path) and _is_adapter(path) and not any(path.glob("tokenizer*")):
        return load_tokenizer(_adapter_base(path))
    else:
        source, options = str(path), {}
    try:
        # the GGUF reader draws its own progress bar, whatever the verbosity
        with contextlib.redirect_stderr(io.StringIO()):
            tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left", trust_remote_code=False, **options)
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


def require_chat_template(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raises UserError where the tokenizer of model ``name`` has no chat template."""
    if not tokenizer.chat_template:
        raise UserError(
            f"The tokenizer of --model_name {name} has no chat template. "
            "Use an instruct model, or give one with --set chat_template."
        )


def _load(name: str, dtype: torch.dtype, options: dict[str, Any]) -> PreTrainedModel:
    source = _locate(name)
    try:
        if isinstance(source, Path) and source.is_file():
            model = load_gguf(source, dtype, options)
        elif isinstance(source, Path) and _is_adapter(source):
            base = _load(_adapter_base(source), dtype, options)
            adapter = cast(Any, PeftModel.from_pretrained(base, source))
            model = cast(PreTrainedModel, adapter.merge_and_unload())
        else:
            model = AutoModelForCausalLM.from_pretrained(str(source), dtype=dtype, trust_remote_code=False, **options)
    except UserError:
        raise
    except _LOAD_ERRORS as error:
        raise UserError(f"Can't load --model_name {name}: {brief(error, 25)}") from error
    # An adapter's file names this as its base; a full path, which PEFT never asks the Hub about.
    model.name_or_path = str(source.resolve()) if isinstance(source, Path) else source
    if name == DEFAULT_MODEL:
        model.config._name_or_path = EMBEDDED_TITLE
    return model.eval()


def _locate(name: str) -> Path | str:
    """The folder or .gguf file that ``name`` means, or ``name`` itself if it is a Hub id."""
    if name == DEFAULT_MODEL:
        return embedded_model_path()
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix == ".gguf":
            return path
        raise UserError(f"--model_name {name} is a file but not a .gguf. Pass the folder it is in.")
    if path.is_dir():
        if _is_adapter(path) or (path / "config.json").is_file():
            return path
        inside = [*path.glob("*/config.json"), *path.glob("*/adapter_config.json")]
        newest = max(inside, key=lambda file: file.stat().st_mtime, default=None)
        hint = f"Did you mean {newest.parent}?" if newest else "Pass a saved model's folder."
        raise UserError(f"The folder --model_name {name} has no config.json. {hint}")
    hint = _suggestion(path)
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        _check_hub(name, hint)
        return name
    raise UserError(
        f"--model_name {name} is neither the embedded {DEFAULT_MODEL}, a folder, a .gguf file nor a "
        f"Hub id (owner/name). {hint or f'Try {DEFAULT_MODEL}.'}"
    )


def _suggestion(path: Path) -> str:
    """A question that names the known model or neighbouring folder most like ``path``, or ``""``."""
    folder = path.parent
    siblings = [str(child) for child in folder.iterdir() if child.is_dir()] if folder.is_dir() else []
    known = {other.lower(): other for other in [*siblings, DEFAULT_MODEL]}
    close = difflib.get_close_matches(str(path).lower(), known, n=1)
    return f"Did you mean {known[close[0]]}?" if close else ""


def _check_hub(name: str, hint: str) -> None:
    """Raises UserError, ending in ``hint``, unless the Hub or its cache here has the model ``name``."""
    try:
        huggingface_hub.hf_hub_download(name, "config.json")
        return
    except hub_errors.GatedRepoError:
        reason = "is gated. Accept its terms on the Hub, then run `hf auth login`."
    except hub_errors.RepositoryNotFoundError:
        reason = "is neither a folder here nor a Hub model you can see. Check the spelling."
    except hub_errors.LocalEntryNotFoundError:
        reason = "is neither a folder here nor in the Hub cache, and "
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            reason += "HF_HUB_OFFLINE forbids fetching it. Unset that once, or pass a folder."
        else:
            reason += "the Hub can't be reached. Check the network, or pass a folder."
    except hub_errors.EntryNotFoundError:
        reason = "has no config.json on the Hub. Download its adapter or .gguf and pass that path."
    except (OSError, ValueError) as error:
        reason = f"can't be fetched from the Hub: {brief(error)}"
    raise UserError(f"--model_name {name} {reason} {hint}".rstrip())


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def _adapter_base(folder: Path) -> str:
    """Name or path of a LoRA adapter's base; a path relative to the adapter's folder is resolved."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except ValueError:
        config = {}
    base = config.get("base_model_name_or_path")
    if config.get("peft_type") != "LORA" or not base:
        raise UserError(
            f"{folder / 'adapter_config.json'} is not a LoRA adapter with a base model. "
            "Set its base_model_name_or_path, or merge the adapter and pass the result."
        )
    if re.split(r"[/\\]", base)[-1] == EMBEDDED_FOLDER:  # perhaps in another machine's cache
        return DEFAULT_MODEL
    beside = folder / base
    resolved = str(beside) if base != DEFAULT_MODEL and beside.is_dir() else base
    if Path(resolved).resolve() == folder.resolve():
        raise UserError(f"The adapter {folder} names itself as its base_model_name_or_path; mend it.")
    return resolved


# --- device, dtype, adapters --------------------------------------------------------------------


def default_device() -> torch.device:
    """CUDA if there is one, else Apple's GPU, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _device(name: str | None) -> torch.device:
    if name is None:
        return default_device()
    try:
        torch.empty(0, device=name)  # also refuses a device that this machine or build lacks
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"Device {name} is not available here; this machine has {default_device().type}.") from error


def compute_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """``auto``, ``float32``, ``bfloat16`` or ``float16`` to the dtype to compute in on ``device``.

    ``auto`` is bfloat16 where the hardware multiplies it faster than float32: CUDA cards with bf16,
    and CPUs with AMX or AVX-512 bf16 units or ARM's bf16 extension. It is float32 elsewhere, also on
    Apple's GPUs, whose float32 is about as fast and whose bf16 depends on the system's version.
    """
    if dtype in _DTYPES:
        return _DTYPES[dtype]
    if dtype != "auto":
        raise UserError(f"dtype {dtype} is unknown; choose auto, {', '.join(_DTYPES)}.")
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and _cpu_has_bf16()
    return torch.bfloat16 if fast else torch.float32


def _cpu_has_bf16() -> bool:
    if not torch.backends.mkldnn.is_available():  # the library that uses the units
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        has = torch.cpu.get_capabilities()
        return any(has.get(unit) for unit in ("amx_bf16", "avx512_bf16", "bf16"))
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)


def lora(
    model: PreTrainedModel,
    *,
    r: int,
    alpha: float,
    dropout: float,
    target_modules: str | Sequence[str] = "all-linear",
) -> PeftModel:
    """Adds a LoRA adapter of rank ``r`` to the model, in place; its weights are float32.

    ``alpha``: the update is scaled by alpha / r. ``target_modules``: module names, or
    ``all-linear`` (every linear layer but the output head). Raises UserError for a bad value.
    """
    targets = target_modules if isinstance(target_modules, str) else list(target_modules)
    if alpha <= 0:
        raise UserError(f"LoRA alpha must be above 0, got {alpha}; twice the rank is usual.")
    try:
        config = LoraConfig(
            r=r,
            lora_alpha=cast(int, alpha),  # PEFT only divides it by r
            lora_dropout=dropout,
            target_modules=targets,
            task_type="CAUSAL_LM",
        )
        adapted = cast(PeftModel, get_peft_model(model, config, autocast_adapter_dtype=True))
    except ValueError as error:
        raise UserError(f"Bad LoRA setting: {brief(error, 30)}") from error
    output_head(adapted)
    return adapted


# --- end of sequence ----------------------------------------------------------------------------


def eos_token_ids(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token id that ends a completion.

    Those that the generation config, the model's config and the tokenizer declare, and the token
    with which the chat template ends an assistant's turn. Ids outside the vocabulary are left out.
    """
    text_config = model.config.get_text_config(decoder=True)
    declared: list[Any] = [tokenizer.eos_token_id, _end_of_turn_id(tokenizer)]
    for config in (model.generation_config, model.config, text_config):
        ids = getattr(config, "eos_token_id", None)
        declared.extend(ids if isinstance(ids, list | tuple) else [ids])
    return {i for i in declared if isinstance(i, int) and 0 <= i < text_config.vocab_size}


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The padding id; load_tokenizer sees to it that there is one."""
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int)
    return pad


def _end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the chat template puts right after an assistant's content, if any."""
    if not tokenizer.chat_template:
        return None
    mark = "zq7mark"
    user = [{"role": "user", "content": "Hi"}]
    try:
        asked = _render(tokenizer, user)
        opened = _render(tokenizer, user, add_generation_prompt=True)
        answered = _render(tokenizer, [*user, {"role": "assistant", "content": mark}])
    except (TemplateError, TypeError, ValueError):
        return None
    after = answered.rpartition(mark)[2].lstrip()
    ids = cast(list[int], tokenizer(after, add_special_tokens=False)["input_ids"]) if after else []
    if not ids:
        return None
    added = tokenizer.added_tokens_decoder.get(ids[0])
    if added is None or not added.special or not after.startswith(added.content):
        return None
    # A token that also opens turns would end every completion at its start.
    return None if added.content in opened.removeprefix(asked) else ids[0]


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[Any], **options: Any) -> str:
    return cast(str, tokenizer.apply_chat_template(messages, tokenize=False, **options))
