"""LoRA adapters: added to a model for training, or read from a folder and merged into their base."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, load_peft_weights, set_peft_model_state_dict
from transformers import PreTrainedModel

from selfdistill.errors import UserError, brief
from selfdistill.models.output_head import output_head


def lora(
    model: PreTrainedModel,
    *,
    r: int,
    alpha: float,
    dropout: float,
    target_modules: str | Sequence[str] = "all-linear",
) -> PeftModel:
    """Adds a LoRA adapter to the model, in place, in the dtype that it computes in, and returns the wrapped model.

    Args:
        model: the base model.
        r: rank of the adapter.
        alpha: the adapter's update is scaled by alpha / r.
        dropout: dropout rate of the adapter's input.
        target_modules: module names, or ``all-linear`` for every linear layer except the output head.

    Raises:
        UserError: a value is out of range, no module matches, or the adapter includes the output head.
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
        adapted = adapt(model, config)
    except ValueError as error:
        raise UserError(f"Bad LoRA setting: {brief(error, 30)}") from error
    output_head(adapted)
    return adapted


def adapt(model: PreTrainedModel, config: PeftConfig) -> PeftModel:
    """Adds an adapter to the model, in place, with weights in the dtype that the model computes in. In fp32, which is
    PEFT's way for a bf16 model, every input of an adapter would be copied; beside a float16 model it is."""
    adapted = cast(PeftModel, get_peft_model(model, config, autocast_adapter_dtype=False))
    for parameter in adapted.parameters():
        if parameter.requires_grad:  # beside quantized weights PEFT makes it fp32
            parameter.data = parameter.data.to(torch.float32 if model.dtype == torch.float16 else model.dtype)
    return adapted


def merged(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Returns ``base`` with the adapter in ``folder`` merged into it; all its weights are trainable. Raises UserError
    as ``beside``."""
    whole = cast(PreTrainedModel, cast(Any, beside(base, folder)).merge_and_unload())
    return whole.requires_grad_(True)


def beside(base: PreTrainedModel, folder: Path) -> PeftModel:
    """Returns ``base`` with the adapter in ``folder`` beside its weights, for use without training.

    Raises:
        UserError: weights of the adapter are missing, pickled, of a different shape, or match nothing in the base.
    """
    if (folder / "adapter_model.bin").is_file() and not (folder / "adapter_model.safetensors").is_file():
        raise UserError(
            f"The adapter in {folder} is in adapter_model.bin, a pickle, which may run code. In a place you trust, "
            "load it with PEFT and save_pretrained it, which writes safetensors."
        )
    config = cast(Any, PeftConfig.from_pretrained(str(folder)))
    config.inference_mode = True
    config.base_model_name_or_path = None  # otherwise PEFT warns if the base was moved
    model = cast(PeftModel, get_peft_model(base, config))
    try:
        outcome = set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
    except RuntimeError as error:  # torch's for weights of another shape; its second line names the first one
        reason = brief(str(error).partition("\n")[2] or error, 21)
        raise UserError(
            f"The adapter in {folder} does not fit its base: {reason} Name the base that it was trained on."
        ) from error
    lacking = [name for name in outcome.missing_keys if "lora_" in name]
    for what, names in (("fits nothing in its base", outcome.unexpected_keys), ("is not in its file", lacking)):
        if names:
            raise UserError(
                f"The adapter in {folder} does not fit: its weight {names[0]} {what} ({len(names)} such). Name the "
                "base that it was trained on."
            )
    return model.eval()
