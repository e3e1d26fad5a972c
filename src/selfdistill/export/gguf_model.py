"""A model as a GGUF file, the format of llama.cpp: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md."""

import contextlib
import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import torch
import transformers
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, LlamaFileType
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from selfdistill.errors import UserError, brief
from selfdistill.export.gguf_vocabulary import add_vocabulary
from selfdistill.models.attention import has_plain_attention
from selfdistill.settings.export import BY_PROGRAM

FILE = "model.gguf"
PROGRAM = "llama-quantize"
BLOCK = 32
"""Weights that share a scale in every type of BY_LIBRARY. A row of another length stays in 16 bits."""
ENDS = ("token_embd.weight", "output.weight")
"""Embedding and output head; they lose most, so that they have at least 8 bits."""


class Architecture(NamedTuple):
    """How GGUF names a family, and what it changes in its weights."""

    name: MODEL_ARCH
    interleaved: bool
    """Whether the two halves of a head, which rotary embeddings turn against each other, alternate in the file."""


ARCHITECTURES = {
    "llama": Architecture(MODEL_ARCH.LLAMA, interleaved=True),
    "mistral": Architecture(MODEL_ARCH.LLAMA, interleaved=True),
    "qwen2": Architecture(MODEL_ARCH.QWEN2, interleaved=False),
    "qwen3": Architecture(MODEL_ARCH.QWEN3, interleaved=False),
}
"""By transformers' model type."""
TYPES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


def check_gguf(config: PreTrainedConfig, quantize: str | None) -> None:
    """Checks before weights are loaded that a model can be written.

    Raises:
        UserError: its family or its rotary embedding is not known here, or a program that is needed is not installed.
    """
    kind, rope = config.model_type, _rope(config)["rope_type"]
    if kind not in ARCHITECTURES or not has_plain_attention(config) or rope not in ("default", "llama3"):
        what = (
            f"rope_type {rope}" if kind in ARCHITECTURES and has_plain_attention(config) else f"models of type {kind}"
        )
        raise UserError(
            f"--to gguf: {what} can't be written here, only {', '.join(ARCHITECTURES)} without sliding windows. Write "
            "--to safetensors, and convert that by llama.cpp's convert_hf_to_gguf.py."
        )
    if quantize in BY_PROGRAM and shutil.which(PROGRAM) is None:
        raise UserError(
            f"--quantize {quantize} is made by llama.cpp's program {PROGRAM}, which is not on PATH. Install llama.cpp, "
            "or take q8_0 or q4_0."
        )


def write_gguf(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    file: Path,
    *,
    name: str,
    dtype: torch.dtype,
    quantize: str | None,
) -> None:
    """Writes a model with its tokenizer and chat template.

    Args:
        model: on the CPU, in fp32.
        tokenizer: its tokenizer.
        file: the file to write.
        name: of the model, for readers.
        dtype: of matrices that are not quantized; norms and biases are in fp32.
        quantize: one of BY_LIBRARY or BY_PROGRAM, or None.

    Raises:
        UserError: the tokenizer can't be written, or llama-quantize fails.
    """
    by_program = quantize in BY_PROGRAM
    kind = (quantize if quantize and not by_program else TYPES[dtype]).upper()
    whole = file.with_name(f"whole-{file.name}") if by_program else file
    architecture = ARCHITECTURES[model.config.model_type]
    writer = GGUFWriter(whole, gguf.MODEL_ARCH_NAMES[architecture.name])
    try:
        _add_config(writer, model.config, name, LlamaFileType[kind if kind == "ALL_F32" else _file_type(kind)])
        add_vocabulary(writer, model, tokenizer)
        _write_tensors(writer, model, GGMLQuantizationType[kind])
    finally:
        writer.close()
    if by_program:
        _quantize(whole, file, str(quantize))
        whole.unlink()


def read_gguf(file: Path, config: PreTrainedConfig) -> PreTrainedModel:
    """Reads a file's weights, dequantized to fp32, into a model of this config."""
    options: dict[str, Any] = {}
    if config.model_type == "mistral":  # in GGUF it is a Llama, and the reader knows it as that only
        same = config.to_dict().items()
        config = LlamaConfig(**{name: value for name, value in same if name not in ("model_type", "architectures")})
    if packed := getattr(transformers, "GgufConfig", None):
        options["quantization_config"] = packed(dequantize=True)
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        model: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, config=config, dtype=torch.float32, **options
        )
    return model.eval()


def _file_type(kind: str) -> str:
    return "ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"


def _rope(config: Any) -> dict[str, Any]:
    return {"rope_type": "default", **(config.rope_parameters or {})}


def _add_config(writer: GGUFWriter, config: Any, name: str, file_type: LlamaFileType) -> None:
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_name(name)
    writer.add_type("model")
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(_rope(config)["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _write_tensors(writer: GGUFWriter, model: PreTrainedModel, kind: GGMLQuantizationType) -> None:
    """Writes header and weights; one weight after the other is converted."""
    tensors = [(name, tensor, _type_of(name, tensor, kind)) for name, tensor in _tensors(model)]
    for name, tensor, stored in tensors:
        size = gguf.quant_shape_to_byte_shape(tuple(tensor.shape), stored)
        writer.add_tensor_info(name, tuple(tensor.shape), np.dtype(np.float32), int(np.prod(size)), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, tensor, stored in tensors:
        writer.write_tensor_data(gguf.quants.quantize(tensor.contiguous().numpy(), stored))


def _type_of(name: str, tensor: Tensor, kind: GGMLQuantizationType) -> GGMLQuantizationType:
    types = GGMLQuantizationType
    if tensor.ndim == 1:
        return types.F32
    if kind in (types.F32, types.BF16, types.F16):
        return kind
    if tensor.shape[-1] % BLOCK:
        return types.F16
    return types.Q8_0 if name in ENDS else kind


def _tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """The weights [fp32] by their names in the file. Tied output heads are left out, as readers expect."""
    config: Any = model.config
    architecture = ARCHITECTURES[config.model_type]
    names = gguf.get_tensor_name_map(architecture.name, config.num_hidden_layers)
    if (factors := _frequency_factors(config)) is not None:
        yield "rope_freqs.weight", factors
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise UserError(f"--to gguf: weight {key} of this {config.model_type} model has no place in GGUF.")
        heads = {".attn_q.": config.num_attention_heads, ".attn_k.": config.num_key_value_heads}
        for part, count in heads.items():
            if part in name and architecture.interleaved:
                tensor = interleaved(tensor, count)
        yield name, tensor.detach().float()


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """Rows of a projection [heads * D, ...] in the order in which GGUF has them for Llama: i and i + D/2 of a head lie
    next to each other."""
    split = weight.view(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return split.transpose(1, 2).reshape(weight.shape)


def _frequency_factors(config: Any) -> Tensor | None:
    """What each frequency [D/2] of the rotary embedding is divided by, for Llama 3's long contexts; None if nothing."""
    rope = _rope(config)
    if rope["rope_type"] == "default":
        return None
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    plain = rope["rope_theta"] ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    return plain / scaled


def _quantize(whole: Path, file: Path, kind: str) -> None:
    run = subprocess.run([PROGRAM, str(whole), str(file), kind.upper()], capture_output=True, text=True, check=False)
    if run.returncode or not file.is_file():
        said = (run.stderr or run.stdout).strip().splitlines() or ["no message"]
        raise UserError(f"--quantize {kind}: {PROGRAM} failed: {brief(said[-1], 20)}. Take q8_0 or q4_0.")
