"""Fields of transformers' TrainingArguments that this trainer would ignore or fail on, and refuses instead."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, cast

from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from selfdistill.errors import UserError, did_you_mean, quoted
from selfdistill.method.methods import METHODS
from selfdistill.method.optimizers import optimizer_name
from selfdistill.method.sources import source, teacher_writes
from selfdistill.method.token_weights import TOKEN_WEIGHTS
from selfdistill.settings.method import MethodConfig

_NO_EVALUATION = "The trainer measures the loss of held-out rows only; selfdistill train --eval_steps scores answers."
_OWN_PASSES = "Held-out rows are evaluated as a step's rows are, with its size and dtype."
_SHARDED = (
    "To split a model over processes give --shard_weights, which is FSDP2. Otherwise every process has whole weights; "
    "--lora_r and --quantize 4bit take fewer."
)
_OWN_EXCHANGE = "The training step adds up gradients by itself, in fp32; the model is not wrapped."
_OWN_LOSS = "The loss is the method's own."
_NOT_COMPILED = "The training step runs the model's own modules, which nothing compiles."

REFUSED: dict[str, str] = {
    "eval_accumulation_steps": _OWN_PASSES,
    "eval_do_concat_batches": _OWN_PASSES,
    "eval_use_gather_object": _OWN_PASSES,
    "per_device_eval_batch_size": _OWN_PASSES,
    "prediction_loss_only": _OWN_PASSES,
    "include_for_metrics": _OWN_PASSES,
    "batch_eval_metrics": _OWN_PASSES,
    "bf16_full_eval": _OWN_PASSES,
    "fp16_full_eval": _OWN_PASSES,
    "do_eval": _NO_EVALUATION,
    "do_predict": _NO_EVALUATION,
    "load_best_model_at_end": _NO_EVALUATION,
    "metric_for_best_model": _NO_EVALUATION,
    "greater_is_better": _NO_EVALUATION,
    "label_names": _NO_EVALUATION,
    "label_smoothing_factor": _OWN_LOSS,
    "neftune_noise_alpha": "The loss would measure the noise as well as the demonstration's effect.",
    "torch_compile": _NOT_COMPILED,
    "torch_compile_backend": _NOT_COMPILED,
    "torch_compile_mode": _NOT_COMPILED,
    "torch_empty_cache_steps": "The training step never empties the cache. Lower per_device_train_batch_size.",
    "auto_find_batch_size": "It would change the number of prompts in a step. The memory check names a size that fits.",
    "include_num_input_tokens_seen": "metrics.jsonl has tokens_seen.",
    "length_column_name": "Micro-batches are sorted by length anyway.",
    "remove_unused_columns": "Rows are records, not columns.",
    "use_cache": "Training keeps no cache; the saved config keeps the model's own value.",
    "resume_from_checkpoint": "Give it to trainer.train(), or give --resume.",
    "bf16": "Autocast is not used here. Load the model in the dtype to compute in (--dtype).",
    "fp16": "Autocast is not used here, and float16 has no loss scale. Train in bfloat16 or float32 (--dtype).",
    "fsdp": _SHARDED,
    "fsdp_config": _SHARDED,
    "deepspeed": _SHARDED,
    "parallelism_config": _SHARDED,
    "average_tokens_across_devices": "The loss counts the tokens of all processes anyway.",
    "ddp_find_unused_parameters": _OWN_EXCHANGE,
    "ddp_bucket_cap_mb": _OWN_EXCHANGE,
    "ddp_broadcast_buffers": _OWN_EXCHANGE,
    "ddp_static_graph": _OWN_EXCHANGE,
    "save_on_each_node": "Process 0 alone writes.",
    "ddp_backend": "It is NCCL on CUDA, XCCL on XPU and gloo on CPUs.",
}
"""Fields that must keep their default, with the reason."""
OF_EVAL_DATASET = ("eval_strategy", "eval_steps", "eval_delay", "eval_on_start")
"""Fields that have a use if SDFTTrainer has an eval_dataset, which no command gives it."""
REFUSED_VALUES: dict[tuple[str, str], str] = {
    ("train_sampling_strategy", "group_by_length"): "Micro-batches are sorted by length anyway.",
    ("train_sampling_strategy", "batch_rebalance"): "Micro-batches are sorted by length anyway.",
    ("save_strategy", "best"): _NO_EVALUATION,
    ("lr_scheduler_type", "reduce_lr_on_plateau"): _NO_EVALUATION,
    ("lr_scheduler_type", "greedy"): _NO_EVALUATION,
}
"""Refused values of fields whose other values are accepted, with the reason."""
OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd")
"""Optimizers that update slices of weights, number by number."""
ENGINES = ("auto", "own", "generate")
"""Rollout engines that read the module's weights while they are gathered."""
REFUSED_VARIABLES: dict[str, str] = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor, context or sequence parallelism",
    "ACCELERATE_DYNAMO_BACKEND": "torch.compile",
}
"""Environment variables by which accelerate launch asks for something that this trainer does not do, and what."""
_PACKAGES = {"azure_ml": "azureml-core", "comet_ml": "comet-ml"}
"""Packages of trackers that are called otherwise."""
_UNCHECKED = ("flyte",)
"""Trackers of which transformers does not say whether they are installed."""


def refuse_ignored(args: Any) -> None:
    """Checks the fields of an SDFTConfig as the user set them, before transformers fills in others.

    Raises:
        UserError: a field of REFUSED differs from its default, or a field has a value of REFUSED_VALUES.
    """
    for setting in fields(args):
        name, given = setting.name, getattr(args, setting.name)
        value = getattr(given, "value", given)  # the value of an enumeration's member
        if name in REFUSED and _is_set(setting, value):
            raise UserError(f"{name}={quoted(value)} has no effect here. {REFUSED[name]} Leave it out.")
        if reason := REFUSED_VALUES.get((name, str(value))):
            raise UserError(f"{name}={quoted(value)} can't be used here. {reason}")
    if args.push_to_hub and str(getattr(args.hub_strategy, "value", args.hub_strategy)) != "end":
        raise UserError(
            "push_to_hub=True: checkpoints are not pushed while a run trains. Give hub_strategy=end too, which pushes "
            "the trained model."
        )


def refuse_launch(environment: Mapping[str, str]) -> None:
    """Checks what accelerate launch was told. Raises UserError if a variable of REFUSED_VARIABLES asks for its part."""
    for name, asked in REFUSED_VARIABLES.items():
        if environment.get(name, "").lower() not in ("", "no", "false", "0"):
            raise UserError(
                f"{name}={environment[name]}: {asked} is not used here. Launch with recipes/accelerate/replicas.yaml "
                "or torchrun; for a larger model give --shard_weights (FSDP2), --lora_r or --quantize 4bit."
            )


def check_trackers(names: Sequence[str]) -> None:
    """Raises UserError if a tracker of ``report_to`` is unknown to transformers, or its package is not installed."""
    installed = (*get_available_reporting_integrations(), *_UNCHECKED) if names else ()  # it looks at many packages
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            known = sorted(INTEGRATION_TO_CALLBACK)
            raise UserError(f"report_to={quoted(name)} is not one of {', '.join(known)}.{did_you_mean(name, known)}")
        if name not in installed:
            raise UserError(
                f"report_to={name}: its package is not installed. pip install {_PACKAGES.get(name, name)}, or leave it "
                "out; the run's folder holds all numbers anyway."
            )


def refuse_with_split(args: Any, processes: int) -> None:
    """Checks an SDFTConfig that splits its model over ``processes`` (``shard_weights``).

    Raises:
        UserError: there is one process only, or a setting does not go with it.
    """
    if not args.shard_weights:
        return
    if processes == 1:
        raise UserError(
            "shard_weights: one process has nobody to share its weights with. Start several with torchrun or "
            "accelerate launch, or leave it out."
        )
    spec, writes, optimizer = METHODS[args.method], source(args), optimizer_name(args)
    whole = spec.completion == "teacher" or spec.teacher == "base_model"
    refused = {
        f"method={args.method}": (whole, "Take another method."),
        f"completion_source={args.completion_source}": (writes.together, "Take completion_source student."),
        "mixture_of=teacher": (writes.mixes and args.mixture_of == "teacher", "Take mixture_of demonstration."),
        "teacher_model": (args.teacher_model is not None, "Leave one of them out."),
        "teacher_home=host": (args.teacher_home == "host", "Leave that out: each keeps its slice of the teacher."),
        f"rollout_engine={args.rollout_engine}": (args.rollout_engine not in ENGINES, "Take own or generate."),
        f"optim={optimizer}": (optimizer not in OPTIMIZERS, f"Take {', '.join(OPTIMIZERS)}."),
        "use_liger_kernel": (args.use_liger_kernel, "Leave one of them out."),
    }
    for what, (bad, remedy) in refused.items():
        if bad:
            raise UserError(f"{what} does not go with shard_weights, where no process has the whole model. {remedy}")


def refuse_evaluation(args: Any) -> None:
    """Checks an SDFTConfig for a run without rows to evaluate on.

    Raises:
        UserError: a field of OF_EVAL_DATASET differs from its default.
    """
    for setting in fields(args):
        given = getattr(args, setting.name)
        value = getattr(given, "value", given)
        if setting.name in OF_EVAL_DATASET and _is_set(setting, value):
            raise UserError(
                f"{setting.name}={quoted(value)} needs rows to evaluate on. In Python give SDFTTrainer an "
                "eval_dataset; selfdistill train has --eval_steps, which scores answers."
            )


def refuse_with_server(args: MethodConfig) -> None:
    """Checks settings of a run whose teacher is behind a server, which gives its likeliest tokens at temperature 1, and
    no more.

    Raises:
        UserError: a setting asks for what such a teacher can't give.
    """
    if args.teacher_server is None:
        return
    renormalised = "Set temperature to 1, or leave divergence_tail out, which compares the k renormalised."
    refused = {
        "teacher_model": (args.teacher_model is not None, "Give one of them."),
        f"method={args.method}": (METHODS[args.method].completion != "student", "Take method sdft."),
        f"completion_source={args.completion_source}": (source(args).together, "Take completion_source student."),
        "mixture_of=teacher": (teacher_writes(args), "Take mixture_of demonstration."),
        f"divergence_support={args.divergence_support}": (
            args.divergence_support != "top_k",
            "Set divergence_support to top_k, with divergence_tail.",
        ),
        "divergence_top_k_of=student": (args.divergence_top_k_of == "student", "Take divergence_top_k_of teacher."),
        f"temperature={args.temperature:g}": (args.divergence_tail and args.temperature != 1, renormalised),
        f"target={args.target}": (args.target != "teacher", "Take target teacher."),
        f"token_weight={args.token_weight}": (
            bool({"teacher_logprobs", "entropies"} & {*TOKEN_WEIGHTS[args.token_weight].reads}),
            "Take token_weight one, position or late.",
        ),
    }
    for what, (bad, remedy) in refused.items():
        if bad:
            raise UserError(
                f"{what} does not go with teacher_server, which gives its likeliest tokens at temperature 1, and no "
                f"more. {remedy}"
            )


def _is_set(setting: Field[Any], value: Any) -> bool:
    """Whether a field has another value than its default. Before 5.10 transformers makes an empty list of fsdp, and of
    fsdp_config a dict that sets nothing."""
    default = setting.default if setting.default is not MISSING else setting.default_factory()  # type: ignore[misc]
    if value == [] or (isinstance(value, dict) and not any(cast(dict[str, Any], value).values())):
        return False
    return value not in (getattr(default, "value", default), None)
