"""Liger's GPU kernels for norms, rotary embeddings and gated blocks (``use_liger_kernel``).

transformers puts them into the model's own modules when training begins, and a training step runs those modules.
Liger's losses are left out: they replace the model's outer forward pass, which a step does not run.
"""

import importlib
import inspect
from typing import Any

from transformers import PreTrainedConfig
from transformers.utils.import_utils import is_liger_kernel_available

from selfdistill.errors import UserError, brief, did_you_mean, quoted

WITHOUT_TRITON = ("cpu", "mps")
"""Devices for which the compiler of Liger's kernels makes no code."""
LOSSES = ("cross_entropy", "fused_linear_cross_entropy")
"""Names in ``liger_kernel_config`` that stand for a loss."""


def check_liger(args: Any) -> None:
    """Checks the settings of an SDFTConfig, and turns Liger's losses off in them.

    Raises:
        UserError: ``use_liger_kernel`` without the package or on a device that has no such kernels, or
            ``liger_kernel_config`` without it or with a loss.
    """
    chosen: dict[str, bool] = args.liger_kernel_config or {}
    if not args.use_liger_kernel:
        if chosen:
            raise UserError("liger_kernel_config would be ignored: it counts only with use_liger_kernel=true.")
        return
    if args.device.type in WITHOUT_TRITON:
        raise UserError(
            f"use_liger_kernel: Liger's kernels run on GPUs that Triton supports; this run is on {args.device.type}. "
            "Leave it out."
        )
    if not is_liger_kernel_available():
        raise UserError(
            "use_liger_kernel: liger-kernel 0.3 or newer is not installed. Install it with pip install liger-kernel, "
            "or leave the setting out."
        )
    for name in LOSSES:
        if chosen.get(name):
            raise UserError(f"liger_kernel_config: {name} has no effect here. The loss is the method's own.")
    args.liger_kernel_config = {**chosen, **dict.fromkeys(LOSSES, False)}


def check_liger_for(model_config: PreTrainedConfig, args: Any) -> None:
    """Checks that Liger has the kernels that are asked for, because it says nothing if it has not.

    Raises:
        UserError: it has none for models of this type, or not all of ``liger_kernel_config``, or can't be imported.
    """
    if not args.use_liger_kernel:
        return
    try:
        functions: dict[str, Any] = importlib.import_module(
            "liger_kernel.transformers.monkey_patch"
        ).MODEL_TYPE_TO_APPLY_LIGER_FN
    except (ImportError, AttributeError) as error:
        raise UserError(f"use_liger_kernel: liger-kernel can't be used ({brief(error)}). Leave it out.") from error
    kind = model_config.model_type
    if kind not in functions:
        raise UserError(f"use_liger_kernel: Liger has no kernels for models of type {kind}. Leave it out.")
    known = [name for name in inspect.signature(functions[kind]).parameters if name not in ("model", *LOSSES)]
    for name in args.liger_kernel_config:
        if name not in (*known, *LOSSES):
            raise UserError(
                f"liger_kernel_config: Liger has no {quoted(name)} for models of type {kind}, only {', '.join(known)}."
                f"{did_you_mean(name, known)}"
            )
