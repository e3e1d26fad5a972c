"""Models whose linear layers are quantized by bitsandbytes, for adapters to be trained beside them (QLoRA).

Source: Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", arXiv 2305.14314 (4bit); Dettmers et al.,
"LLM.int8()", arXiv 2208.07339 (8bit). Embeddings, norms and the output head stay as they are.
"""

from collections.abc import Sequence
from importlib import util
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from selfdistill.errors import UserError
from selfdistill.models.output_head import unwrapped
from selfdistill.models.places import is_adapter
from selfdistill.types import Quantize

BLOCK = 64
"""Weights of 4 bits that share a scale of 8 bits."""
SCALES = 256
"""Scales of 8 bits that share an fp32 one."""


def check_quantizable(name: str, place: Path | str, quantize: Quantize) -> None:
    """Raises UserError unless the model ``name``, found at ``place``, can be loaded quantized."""
    if util.find_spec("bitsandbytes") is None:
        raise UserError(f"--quantize {quantize} needs bitsandbytes: pip install 'selfdistill[gpu]'.")
    if isinstance(place, Path) and place.is_file():
        raise UserError(
            f"--quantize {quantize}: {name} is a GGUF file, which is dequantized. Give the folder or Hub id of the "
            "model that it was made of."
        )
    if isinstance(place, Path) and is_adapter(place):
        raise UserError(
            f"--quantize {quantize}: {name} is an adapter, which can't be merged into quantized weights. Load it "
            "without --quantize, save_pretrained() what that gives, and name its folder."
        )


def quantized(quantize: Quantize, dtype: torch.dtype, place: torch.device) -> dict[str, Any]:
    """Arguments of from_pretrained for a model that computes in ``dtype`` and is quantized on its way to ``place``."""
    if quantize == "4bit":
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    else:
        config = BitsAndBytesConfig(load_in_8bit=True)
    if str(place) == "cuda":  # transformers' Trainer compares it with its own device
        place = torch.device("cuda", torch.cuda.current_device())
    return {"quantization_config": config, "device_map": {"": place}}


def differentiable(model: PreTrainedModel) -> PreTrainedModel:
    """Returns the model, whose 4-bit layers keep one layout. On some CPUs bitsandbytes would change it for good in the
    first forward pass without gradients, and gradients can't pass through the other."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    return model


def quantized_to(model: PreTrainedModel | PeftModel) -> Quantize | None:
    """Bits of a model's weights if bitsandbytes quantized them, otherwise None."""
    config: Any = getattr(unwrapped(model).config, "quantization_config", None)
    if getattr(config, "load_in_4bit", False):
        return "4bit"
    return "8bit" if getattr(config, "load_in_8bit", False) else None


def linear_layers(model: PreTrainedModel) -> list[nn.Linear]:
    """The layers of a model that would be quantized: all linear ones but the output head."""
    head = model.get_output_embeddings()
    return [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]


def quantized_bytes(quantize: Quantize, layers: Sequence[nn.Linear]) -> int:
    """Bytes that the weights of linear layers take when quantized."""
    numbers = sum(layer.weight.numel() for layer in layers)
    if quantize == "8bit":
        return numbers + 4 * sum(layer.out_features for layer in layers)
    return round(numbers * (0.5 + (1 + 4 / SCALES) / BLOCK))
