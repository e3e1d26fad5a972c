"""``selfdistill train``."""

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from rich.console import Console
from rich.markup import escape

from selfdistill import run_folder
from selfdistill.data.general import anchor_examples
from selfdistill.settings.commands import TrainOptions
from selfdistill.settings.method import LEARNS_TOKENS, SHOWS_DEMONSTRATION, MethodConfig, deviations_from_paper
from selfdistill.settings.recipes import recipe_names, recipe_path
from selfdistill.settings.yaml_files import checked, parse_assignments, with_file
from selfdistill.tasks import get_task, resolve_data_dir
from selfdistill.tasks.custom import custom_task
from selfdistill.tasks.overlap import overlap_warning
from selfdistill.tasks.task import Task
from selfdistill.types import Example, UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from selfdistill.method.config import SDFTConfig
    from selfdistill.method.trainer import SDFTTrainer

_TrainOptions = TypeVar("_TrainOptions", bound=TrainOptions)


def run(options: TrainOptions, console: Console) -> None:
    """Trains as the options say.

    Raises:
        UserError: anything the user can mend.
    """
    options.check()
    task, examples = training_examples(options)
    if warning := _overlap(options, task, examples):
        console.print(f"[yellow]Warning:[/yellow] {escape(warning)}")
    from selfdistill.models import loading  # loads torch

    loading.quiet_libraries()
    tokenizer = loading.load_tokenizer(options.model_name)
    loading.require_chat_template(tokenizer, options.model_name)
    if options.dry_run:
        from selfdistill.training.dry_run import show

        show(options, trainer_config(options, task, examples, tokenizer), examples, tokenizer, console)
        return

    check_before_loading(options, task, examples, tokenizer)
    model = loading.load_model(options.model_name, dtype=options.dtype)
    trainer = make_trainer(options, task, examples, model, tokenizer, console)
    if options.overwrite and options.output_dir:  # only now that nothing can be refused any more
        shutil.rmtree(options.output_dir, ignore_errors=True)
        Path(options.output_dir).mkdir(parents=True, exist_ok=True)
    trainer.train(resume_from_checkpoint=options.resume or None)
    trainer.save_model()
    console.print(f"Model and records are in {escape(str(options.output_dir))}.")


def check_before_loading(
    options: TrainOptions, task: Task, examples: list[Example], tokenizer: "PreTrainedTokenizerBase"
) -> None:
    """Builds settings and prompts once, so that what is wrong shows before any weight is loaded.

    Raises:
        UserError: a setting is unknown or out of range, a prompt is over its limit, the model is not there, or the
            run would take more memory than there is.
    """
    from selfdistill.method.memory import shortage
    from selfdistill.method.prompts import as_examples, render_pairs
    from selfdistill.models import loading

    config = loading.load_config(options.model_name)
    args = trainer_config(options, task, examples, tokenizer)
    if args.template == "auto":  # about the shortest of those that a preflight tries
        args.template = "paper"
    rows = as_examples(examples, "train", demonstrations=args.method != "reinvoke")
    pairs = render_pairs(rows, args, tokenizer, config)
    if options.skip_memory_check:
        return
    if lacking := shortage(config, args, pairs, dtype=options.dtype, lora_r=options.lora_r):
        raise UserError(f"{lacking} --skip_memory_check tries it anyway.")


def make_trainer(
    options: TrainOptions,
    task: Task,
    examples: list[Example],
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    console: Console,
    *,
    weights: "dict[str, Tensor] | None" = None,
    quiet: bool = False,
) -> "SDFTTrainer":
    """The trainer for a model in memory, LoRA put on it if wanted; says what is about to run unless ``quiet``.

    ``weights``: what the teacher starts from, by parameter name; see ``base_weights`` of SDFTTrainer.
    """
    from selfdistill.method.trainer import SDFTTrainer
    from selfdistill.models import loading
    from selfdistill.progress import TrainingProgress

    args = trainer_config(options, task, examples, tokenizer)
    if args.template == "auto":
        _settle_template(options, args, model, tokenizer, task, examples, console)
    if options.lora_r is not None:
        alpha = options.lora_alpha or 2 * options.lora_r
        model = cast("PreTrainedModel", loading.lora(model, r=options.lora_r, alpha=alpha, dropout=0.0))
    trainer = SDFTTrainer(
        model,
        args,
        examples,
        tokenizer,
        anchor_dataset=anchor_examples(args.anchor_data) if args.anchor_share else [],
        base_weights=base_weights(options) if args.method == "reinvoke" else weights,
        facts={
            "model_name": options.model_name,
            "task": task.name,
            "dataset": options.dataset_path or task.name,
        },
        callbacks=[TrainingProgress(console)],
    )
    if options.profile:
        from selfdistill.method.profile_trace import ProfileTrace

        trainer.add_callback(ProfileTrace(Path(str(args.output_dir)), console))
    if not quiet:
        announce(options, args, len(examples), trainer.num_rows, console)
    return trainer


def _settle_template(
    options: TrainOptions,
    args: "SDFTConfig",
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    task: Task,
    examples: list[Example],
    console: Console,
) -> None:
    """Replaces ``auto`` by what a preflight finds best; a method that shows no demonstration needs none."""
    if args.method in SHOWS_DEMONSTRATION:
        from selfdistill.commands.preflight import choose_template

        args.template, args.template_repeat = choose_template(  # type: ignore[assignment]
            options, args, model, tokenizer, task, examples, console
        )
    else:
        args.template = "paper"


def training_examples(options: TrainOptions) -> tuple[Task, list[Example]]:
    """The task and its training rows, ``--limit`` applied."""
    if options.method == "reinvoke":  # general prompts, no demonstrations
        return get_task(options.dataset_name), anchor_examples(options.dataset_path)[: options.limit]
    if options.dataset_path is not None:
        task = custom_task(options.dataset_path, None)
    else:
        task = get_task(options.dataset_name)
    examples = task.load_train(resolve_data_dir(options.data_dir))
    return task, examples[: options.limit]


def _overlap(options: TrainOptions, task: Task, examples: list[Example]) -> str | None:
    if options.method == "reinvoke":  # general prompts, no task's
        return None
    return overlap_warning(task, resolve_data_dir(options.data_dir), train=examples)


def base_weights(options: TrainOptions) -> dict[str, "Tensor"]:
    """Weights to distil from, by parameter name.

    Raises:
        UserError: no base model is named or known, or LoRA is asked for.
    """
    from selfdistill.models import loading

    if options.lora_r is not None:
        raise UserError("--method reinvoke trains all weights. Leave --lora_r out.")
    name = options.base_model or started_from(options.model_name)
    return dict(loading.load_model(name, dtype=options.dtype).named_parameters())


def started_from(model_name: str) -> str:
    """The model that the run in folder ``model_name`` started from. Raises UserError where that isn't recorded."""
    record = Path(model_name) / run_folder.CONFIG
    if not record.is_file():
        raise UserError(f"--method reinvoke: name the --base_model to distil from; {record} does not tell.")
    return json.loads(record.read_text(encoding="utf-8"))["model_name"]


def trainer_config(
    options: TrainOptions, task: Task, examples: list[Example], tokenizer: "PreTrainedTokenizerBase"
) -> "SDFTConfig":
    """The trainer's config: options, then what the file sets of its other fields, then --set.

    Raises:
        UserError: an unknown field, a field that has a flag of its own, or a value out of range.
    """
    from selfdistill.method.config import SDFTConfig

    others = other_fields()
    extra = options.from_file | parse_assignments(options.set, list(others))
    for name, value in extra.items():
        extra[name] = checked(value, others[name], f"--set {name}")
    if options.save_steps is not None:
        extra = {"save_strategy": "steps", "save_steps": options.save_steps} | extra
    settings = options.method_settings() | extra
    if settings["max_completion_length"] is None:
        settings["max_completion_length"] = completion_budget(task, examples, tokenizer, options.method)
    try:
        return SDFTConfig(output_dir=options.output_dir or "unused", **settings)
    except UserError:
        raise
    except (ValueError, ImportError) as error:  # what TrainingArguments refuses
        raise UserError(" ".join(str(error).split()[:40])) from error


def completion_budget(task: Task, examples: list[Example], tokenizer: "PreTrainedTokenizerBase", method: str) -> int:
    """Tokens of a completion where nobody said: half as much again as 95% of the demonstrations take, at least 256,
    at most what the task allows. A model that rambles on costs time and teaches nothing. Where the demonstration is
    the completion, the longest one fits."""
    lengths = sorted(len(tokenizer(example.demonstration_text)["input_ids"]) for example in examples)
    if not lengths:
        return task.max_new_tokens
    usual, longest = lengths[int(0.95 * (len(lengths) - 1))], lengths[-1] + 16
    return min(task.max_new_tokens, max(256, usual * 3 // 2, longest if method in LEARNS_TOKENS else 0))


def from_yaml(path: str, options_class: type[_TrainOptions] = TrainOptions) -> _TrainOptions:
    """Options as a YAML file or a recipe's name sets them. Raises UserError for what is wrong in it, with its line."""
    if not Path(path).exists() and path in recipe_names():
        path = str(recipe_path(path))
    options, extra = with_file(options_class, path, list(other_fields()))
    options.config = path
    options.from_file = extra
    return options


def other_fields() -> dict[str, Any]:
    """Fields of the trainer's config that have no flag, with their types."""
    import typing

    from selfdistill.method.config import SDFTConfig

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
