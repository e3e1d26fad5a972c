"""What SDFTTrainer accepts: settings, rows and models that it would not train wrongly."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from peft import PeftConfig
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.errors import UserError
from selfdistill.method.config import SDFTConfig
from selfdistill.method.liger import check_liger_for
from selfdistill.method.methods import METHODS
from selfdistill.method.refused import refuse_evaluation
from selfdistill.models.adapters import adapt
from selfdistill.models.device import compute_dtype
from selfdistill.models.loading import load_model, load_tokenizer, require_chat_template
from selfdistill.models.output_head import check_head
from selfdistill.models.quantization import quantized_to
from selfdistill.models.tokens import check_end_of_turn, eos_token_ids


def check_arguments(args: Any, rows: Any, held_out: Any, model: Any) -> None:
    """Checks the kind of a trainer's settings, rows, held-out rows and model.

    Raises:
        TypeError: the settings are no SDFTConfig.
        UserError: the rows are none, or the model is wrapped for several devices or processes; the settings ask for
            evaluations and there are no held-out rows.
    """
    if not isinstance(args, SDFTConfig):
        raise TypeError(f"args must be a SDFTConfig, not {type(args).__name__}")
    if held_out is None:
        refuse_evaluation(args)
    args.use_one_device()
    if isinstance(rows, Mapping):
        raise UserError(f"train_dataset is a mapping of {', '.join(map(str, rows))}. Give one split of it.")
    if rows is None or isinstance(rows, str | bytes):
        raise UserError("train_dataset: give rows, such as a datasets.Dataset or a list of dicts.")
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise UserError(
            f"The model is wrapped in {type(model).__name__}: give the model itself. torchrun --nproc_per_node 8 "
            "starts a process for each of 8 GPUs, and the trainer adds up their gradients."
        )


def check_model(model: PreTrainedModel) -> None:
    """Raises UserError for a model that this trainer would train wrongly or not at all."""
    adapters: dict[str, Any] = getattr(model, "peft_config", None) or {}
    for adapter in adapters.values():
        if adapter.is_prompt_learning or getattr(adapter, "alora_invocation_tokens", None):
            raise UserError(
                f"The adapter {adapter.peft_type.value} acts through the wrapper's own forward pass, which training "
                "here does not use, so it would learn nothing. Take LoRA without alora_invocation_tokens."
            )
    if not adapters and (bits := quantized_to(model)):
        raise UserError(f"The model's weights are quantized to {bits}, which can't be trained: give peft_config.")
    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        raise UserError(
            "The model's weights are split over processes (tensor parallelism or FSDP) already. Give the whole model: "
            "load it without tp_plan, and for a large one set shard_weights=True."
        )
    check_head(model)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("No weight of the model is trainable: call model.requires_grad_(True), or give peft_config.")
    places = set((getattr(model, "hf_device_map", None) or {}).values())
    if len(places) > 1:
        raise UserError(f"The model is spread over {len(places)} devices (device_map). Load it on one device.")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype == torch.float16:
            raise UserError(
                f"{name} is float16, in which most gradients of this loss become 0. Load the model in bfloat16 or "
                "float32."
            )


def where_to_load(dtype: str, args: SDFTConfig) -> dict[str, Any]:
    """Arguments of ``load_model``: the training device and a dtype for it. A model that is to be split is read on the
    host, since the device may not hold it."""
    if not args.shard_weights:
        return {"dtype": dtype, "device": str(args.device)}
    return {"dtype": str(compute_dtype(dtype, args.device)).removeprefix("torch."), "device": "cpu"}


def loaded(
    model: PreTrainedModel | str,
    args: SDFTConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    peft_config: PeftConfig | None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, with its adapter if wanted, and its tokenizer, both checked. One given by name is loaded on the
    training device, or on the host if it is to be split.

    Raises:
        UserError: one of them is missing or can't be loaded, no token that ends generation ends an answer in the
            chat template, or as ``check_model`` and ``check_liger_for``.
    """
    if isinstance(model, str):
        tokenizer = tokenizer or load_tokenizer(model)
    if tokenizer is None:
        raise UserError("processing_class: give the tokenizer along with a model that is already loaded.")
    student: Any = load_model(model, **where_to_load("auto", args)) if isinstance(model, str) else model
    require_chat_template(tokenizer, student.name_or_path, has_flag=False)
    if METHODS[args.method].prompt == "chat":
        check_end_of_turn(tokenizer, eos_token_ids(student, tokenizer))
    if peft_config is not None:
        student = adapt(student, peft_config)
    check_model(student)
    check_liger_for(student.config, args)
    return cast(PreTrainedModel, student), tokenizer
