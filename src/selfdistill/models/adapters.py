"""LoRA adapters: put on a model to be trained, or read from a folder and merged into their base."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

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


def merged(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """``base`` with the adapter in ``folder`` merged into it; all its weights are trainable.

    Raises:
        UserError: weights of the adapter are missing, have another shape, or fit nothing in the base.
    """
    config = cast(Any, PeftConfig.from_pretrained(str(folder)))
    config.inference_mode = True
    config.base_model_name_or_path = None  # or PEFT warns where the base was moved
    model = cast(Any, get_peft_model(base, config))
    try:
        found = set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
    except RuntimeError as error:  # torch's, for weights of another shape; the second line names the first of them
        reason = brief(str(error).partition("\n")[2] or error, 21)
        raise UserError(
            f"The adapter in {folder} does not fit its base: {reason} Name the base of its training."
        ) from error
    lacking = [name for name in found.missing_keys if "lora_" in name]
    for what, names in (("fits nothing in its base", found.unexpected_keys), ("is not in its file", lacking)):
        if names:
            raise UserError(
                f"The adapter in {folder} does not fit: its weight {names[0]} {what} ({len(names)} such). Name the "
                "base that it was trained on."
            )
    whole = cast(PreTrainedModel, model.merge_and_unload())
    return whole.requires_grad_(True)
