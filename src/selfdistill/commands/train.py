"""``selfdistill train``."""

import shutil
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.markup import escape

from selfdistill.config import MethodConfig, deviations_from_paper
from selfdistill.options import TrainOptions
from selfdistill.tasks import get_task, resolve_data_dir
from selfdistill.tasks.custom import custom_task
from selfdistill.tasks.general import anchor_examples
from selfdistill.tasks.task import Task
from selfdistill.types import Example, UserError
from selfdistill.yaml_settings import checked, parse_assignments

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from selfdistill.sdft_config import SDFTConfig
    from selfdistill.trainer import SDFTTrainer


def run(options: TrainOptions, from_file: dict[str, Any], console: Console) -> None:
    """Trains as the options say; ``from_file`` holds trainer settings that a YAML file gave.

    Raises:
        UserError: anything the user can mend.
    """
    options.check()
    task, examples = training_examples(options)
    from selfdistill import models  # loads torch

    models.quiet_libraries()
    tokenizer = models.load_tokenizer(options.model_name)
    models.require_chat_template(tokenizer, options.model_name)
    if options.dry_run:
        from selfdistill.commands.dry_run import show

        show(options, trainer_config(options, from_file, task), examples, tokenizer, console)
        return

    if options.overwrite and options.output_dir:
        shutil.rmtree(options.output_dir, ignore_errors=True)
    model = models.load_model(options.model_name, dtype=options.dtype)
    trainer = make_trainer(options, from_file, task, examples, model, tokenizer, console)
    trainer.train(resume_from_checkpoint=options.resume or None)
    trainer.save_model()
    console.print(f"Model and records are in {escape(str(options.output_dir))}.")


def make_trainer(
    options: TrainOptions,
    from_file: dict[str, Any],
    task: Task,
    examples: list[Example],
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    console: Console,
) -> "SDFTTrainer":
    """The trainer for a model in memory, LoRA put on it if wanted; says what is about to run."""
    from selfdistill import models
    from selfdistill.progress import TrainingProgress
    from selfdistill.trainer import SDFTTrainer

    args = trainer_config(options, from_file, task)
    if options.lora_r is not None:
        alpha = options.lora_alpha or 2 * options.lora_r
        model = cast("PreTrainedModel", models.lora(model, r=options.lora_r, alpha=alpha, dropout=0.0))
    trainer = SDFTTrainer(
        model,
        args,
        examples,
        tokenizer,
        anchor_dataset=anchor_examples(args.anchor_data) if args.anchor_share else [],
        callbacks=[TrainingProgress(console)],
    )
    announce(options, args, len(examples), trainer.num_rows, console)
    return trainer


def training_examples(options: TrainOptions) -> tuple[Task, list[Example]]:
    """The task and its training rows, ``--limit`` applied."""
    if options.dataset_path is not None:
        task = custom_task(options.dataset_path, None)
    else:
        task = get_task(options.dataset_name)
    examples = task.load_train(resolve_data_dir(options.data_dir))
    return task, examples[: options.limit]


def trainer_config(options: TrainOptions, from_file: dict[str, Any], task: Task) -> "SDFTConfig":
    """The trainer's config: options, then what the file sets of its other fields, then --set.

    Raises:
        UserError: an unknown field, a field that has a flag of its own, or a value out of range.
    """
    from selfdistill.sdft_config import SDFTConfig

    others = other_fields()
    extra = from_file | parse_assignments(options.set, list(others))
    for name, value in extra.items():
        extra[name] = checked(value, others[name], f"--set {name}")
    if options.save_steps is not None:
        extra = {"save_strategy": "steps", "save_steps": options.save_steps} | extra
    settings = options.method_settings() | extra
    if settings["max_completion_length"] is None:
        settings["max_completion_length"] = task.max_new_tokens
    try:
        return SDFTConfig(output_dir=options.output_dir or "unused", **settings)
    except UserError:
        raise
    except (ValueError, ImportError) as error:  # what TrainingArguments refuses
        raise UserError(" ".join(str(error).split()[:40])) from error


def other_fields() -> dict[str, Any]:
    """Fields of the trainer's config that have no flag, with their types."""
    import typing

    from selfdistill.sdft_config import SDFTConfig

    taken = {f.name for f in fields(MethodConfig)} | {f.name for f in fields(TrainOptions)}
    types = typing.get_type_hints(SDFTConfig)
    return {f.name: types.get(f.name, Any) for f in fields(SDFTConfig) if f.init and f.name not in taken}


def announce(options: TrainOptions, args: "SDFTConfig", num_read: int, num_kept: int, console: Console) -> None:
    """Says what is about to run, and every deviation from the paper's setting."""
    prompts = args.per_device_train_batch_size * args.gradient_accumulation_steps
    dropped = f" ({num_read - num_kept} over a length limit dropped)" if num_kept < num_read else ""
    source = options.dataset_path or options.dataset_name
    console.print(
        f"[bold]{args.method}[/bold] on {escape(source)}: {num_kept:,} rows{dropped}, "
        f"{prompts} prompts a step, model {escape(options.model_name)}"
    )
    deviations = deviations_from_paper(args.to_dict())
    if deviations:
        told = ", ".join(f"{name} {ours} ({paper})" for name, (ours, paper) in deviations.items())
        console.print(f"[dim]Differs from the paper's setting (in brackets): {escape(told)}[/dim]")
