"""What a model can be written as: a row of FORMS each."""

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill import run_folder
from selfdistill.errors import UserError, brief
from selfdistill.export.card import public_name
from selfdistill.export.compare import logits_of
from selfdistill.export.gguf_model import FILE, check_gguf, read_gguf, write_gguf
from selfdistill.export.ollama import MODELFILE, modelfile
from selfdistill.export.source import Source
from selfdistill.models.loading import load_config, load_model
from selfdistill.models.places import is_adapter, locate
from selfdistill.models.saving import save_model
from selfdistill.models.tokens import eos_token_ids

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A model to be written."""

    source: Source
    model: PreTrainedModel
    """On the CPU, in fp32; an adapter is merged into it."""
    tokenizer: PreTrainedTokenizerBase
    name: str
    """For readers."""
    dtype: torch.dtype
    quantize: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One of the values of ``--to``."""

    check: Callable[[Source, str | None], None]
    """Raises UserError, before weights are loaded, if the model can't be written so. Takes ``--quantize``, too."""
    write: Callable[[Job, Path], str]
    """Writes into an empty folder; returns what is to be told, or an empty text."""
    logits: Callable[[Job, Path, Tensor], Tensor]
    """Logits [T, V] in fp32, for ids [1, T], of what was written, loaded by a library that it is for."""
    loading: Callable[[str, Source], str]
    """How to load it, in Markdown, by its name."""


# -- the whole model --------------------------------------------------------------------------------------------------


def _any(source: Source, quantize: str | None) -> None:
    pass


def _needs_adapter(source: Source, quantize: str | None) -> None:
    if source.base is None:
        raise UserError(f"{source.name} is a whole model, without an adapter. Write it with --to safetensors.")


def write_whole(job: Job, folder: Path) -> str:
    """Writes model and tokenizer in the Hugging Face layout."""
    model: Any = job.model
    model.to(job.dtype)
    save_model(model, job.tokenizer, eos_token_ids(model, job.tokenizer), folder)
    return ""


def _whole_logits(job: Job, folder: Path, ids: Tensor) -> Tensor:
    return logits_of(load_model(str(folder), dtype="float32", device="cpu"), ids)


def _load_whole(name: str, source: Source) -> str:
    return (
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{name}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")\n```\n\n`vllm serve {name}` serves it.\n'
    )


# -- the adapter alone ------------------------------------------------------------------------------------------------


def _check_adapter(source: Source, quantize: str | None) -> None:
    _needs_adapter(source, quantize)
    base = locate(str(source.base))
    if isinstance(base, Path) and (base.is_file() or is_adapter(base)):
        what = "a GGUF file" if base.is_file() else "an adapter itself"
        raise UserError(
            f"--to adapter: the base of {source.name}, {base}, is {what}, which PEFT can't load. --to merged."
        )


def _write_adapter(job: Job, folder: Path) -> str:
    """Copies the adapter; its base is named by Hub id, or by its full path on this machine."""
    assert job.source.folder is not None
    weights, described = ADAPTER_FILES
    shutil.copyfile(job.source.folder / weights, folder / weights)
    config = json.loads((job.source.folder / described).read_text(encoding="utf-8"))
    place = locate(str(job.source.base))
    config["base_model_name_or_path"] = str(place.resolve()) if isinstance(place, Path) else place
    run_folder.write_json(folder / described, config)
    job.tokenizer.save_pretrained(folder)
    return f"Its base is {config['base_model_name_or_path']}."


def _adapter_logits(job: Job, folder: Path, ids: Tensor) -> Tensor:
    base = load_model(str(job.source.base), dtype="float32", device="cpu")
    return logits_of(PeftModel.from_pretrained(base, str(folder)).eval(), ids)


def _load_adapter(name: str, source: Source) -> str:
    return (
        "```python\nfrom peft import AutoPeftModelForCausalLM\n\n"
        f'model = AutoPeftModelForCausalLM.from_pretrained("{name}")  # on {public_name(str(source.base))}\n```\n'
    )


# -- GGUF and Ollama --------------------------------------------------------------------------------------------------


def _check_gguf(source: Source, quantize: str | None) -> None:
    check_gguf(load_config(source.name), quantize)


def _write_gguf(job: Job, folder: Path) -> str:
    write_gguf(job.model, job.tokenizer, folder / FILE, name=job.name, dtype=job.dtype, quantize=job.quantize)
    return ""


def _gguf_logits(job: Job, folder: Path, ids: Tensor) -> Tensor:
    return logits_of(read_gguf(folder / FILE, load_config(job.source.name)), ids)


def _load_gguf(name: str, source: Source) -> str:
    return (
        f"`llama-server -m {FILE}`, or any other program that reads GGUF. The file holds tokenizer and chat template.\n"
    )


def _write_ollama(job: Job, folder: Path) -> str:
    _write_gguf(job, folder)
    options = job.source.run.chat_template_kwargs if job.source.run else {}
    text, has_template = modelfile(job.tokenizer, options, FILE)
    run_folder.write_text(folder / MODELFILE, text)
    if has_template:
        return ""
    return (
        f"{MODELFILE} has no TEMPLATE: this chat template does more than put texts around the turns. Ollama takes one "
        "of its own if it knows the one in the GGUF file; else write it."
    )


def _load_ollama(name: str, source: Source) -> str:
    return f"```\nollama create {name.rpartition('/')[2].lower()} -f {MODELFILE}\n```\n"


# -- MLX --------------------------------------------------------------------------------------------------------------


def _check_mlx(source: Source, quantize: str | None) -> None:
    if util.find_spec("mlx_lm") is None:
        raise UserError("--to mlx needs mlx_lm, which is not installed: pip install mlx-lm (macOS; on Linux mlx[cpu]).")


def _write_mlx(job: Job, folder: Path) -> str:
    """Writes what mlx_lm makes of the whole model, which is written beside for the time."""
    from mlx_lm import convert  # type: ignore[import-not-found]

    whole, made = folder / f"{run_folder.STAGING}-whole", folder / f"{run_folder.STAGING}-mlx"
    whole.mkdir()
    write_whole(job, whole)
    bits: dict[str, Any] = {"quantize": True, "q_bits": int(job.quantize[0])} if job.quantize else {}
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it tells what it does
            convert(str(whole), str(made), dtype=str(job.dtype).removeprefix("torch."), **bits)
    except Exception as error:  # whatever a library of another framework raises
        raise UserError(f"--to mlx: mlx_lm can't convert this model: {brief(error, 20)}") from error
    for path in made.iterdir():
        path.rename(folder / path.name)
    made.rmdir()
    shutil.rmtree(whole)
    return ""


def _mlx_logits(job: Job, folder: Path, ids: Tensor) -> Tensor:
    import mlx.core as mx  # type: ignore[import-not-found]
    from mlx_lm import load  # type: ignore[import-not-found]

    model, *_ = load(str(folder))
    model.set_dtype(mx.float32)
    return torch.tensor(model(mx.array(ids.tolist())).astype(mx.float32).tolist())[0]


def _load_mlx(name: str, source: Source) -> str:
    return f"`mlx_lm.generate --model {name} --prompt ...`\n"


FORMS = {
    "safetensors": Form(check=_any, write=write_whole, logits=_whole_logits, loading=_load_whole),
    "merged": Form(check=_needs_adapter, write=write_whole, logits=_whole_logits, loading=_load_whole),
    "adapter": Form(check=_check_adapter, write=_write_adapter, logits=_adapter_logits, loading=_load_adapter),
    "gguf": Form(check=_check_gguf, write=_write_gguf, logits=_gguf_logits, loading=_load_gguf),
    "ollama": Form(check=_check_gguf, write=_write_ollama, logits=_gguf_logits, loading=_load_ollama),
    "mlx": Form(check=_check_mlx, write=_write_mlx, logits=_mlx_logits, loading=_load_mlx),
}
