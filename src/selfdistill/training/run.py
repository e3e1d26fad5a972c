"""A prepared run, and the model it trains."""

import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.markup import escape
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback

from selfdistill import run_folder
from selfdistill.errors import UserError
from selfdistill.method.methods import METHODS
from selfdistill.method.needs import counts, deviations
from selfdistill.method.profile_trace import ProfileTrace
from selfdistill.method.rollout.engines import describe
from selfdistill.method.trainer import SDFTTrainer
from selfdistill.models import loading
from selfdistill.models.adapters import lora
from selfdistill.models.places import adapter_base, is_adapter, locate
from selfdistill.models.saving import ready_to_save
from selfdistill.models.tokens import eos_token_ids
from selfdistill.progress import progress_bar
from selfdistill.records.runs import run_in
from selfdistill.settings import flat
from selfdistill.settings.train import TrainOptions
from selfdistill.tasks import resolve_data_dir
from selfdistill.training.data import training_data, training_overlap
from selfdistill.training.prepare import ModelFiles, Prepared, prepare
from selfdistill.training.progress import TrainingProgress
from selfdistill.training.rendered import RenderedRows
from selfdistill.training.settings import without_idle_settings
from selfdistill.training.template import choose_template
from selfdistill.types import Example

MANY_ROWS = 5_000
"""Rows from which rendering is worth a progress line."""


def prepared_run(options: TrainOptions, console: Console) -> Prepared:
    """A run from its options to the point where its model is loaded; says what is odd about it.

    Raises:
        UserError: what ``training_data`` and ``prepare`` raise.
    """
    options, idle = without_idle_settings(options)
    if idle:
        console.print(f"[dim]Left out, for {options.method} has no use for it: {', '.join(idle)}.[/dim]")
    data = training_data(options)
    if warning := training_overlap(options, data):
        console.print(f"[yellow]Warning:[/yellow] {escape(warning)}")
    loading.quiet_libraries()
    files = ModelFiles(options.recipe.model.model_name)
    return prepare(options, data.task, rendered_rows(data.examples, files, console), files)


def load_student(prepared: Prepared) -> PreTrainedModel:
    """The model to train, on the device that the trainer uses."""
    model = prepared.options.recipe.model
    return loading.load_model(model.model_name, dtype=model.dtype, device=str(prepared.device))


def settled(prepared: Prepared, model: PreTrainedModel, console: Console) -> Prepared:
    """The run with its template chosen by a preflight, where its options leave it to one."""
    if not prepared.needs_template:
        return prepared
    return prepared.with_template(*choose_template(prepared, model, console))


def make_trainer(
    prepared: Prepared,
    model: PreTrainedModel,
    console: Console,
    *,
    weights: Mapping[str, Tensor] | None = None,
    quiet: bool = False,
) -> SDFTTrainer:
    """The trainer for a model in memory, LoRA put on it if wanted; says what is about to run unless ``quiet``.

    ``weights``: what the teacher starts from, by parameter name; see ``base_weights`` of SDFTTrainer.
    """
    options, config = prepared.options, prepared.config
    adapter = options.recipe.adapter
    if adapter.lora_r is not None:
        alpha = adapter.lora_alpha or 2 * adapter.lora_r
        model = cast(PreTrainedModel, lora(model, r=adapter.lora_r, alpha=alpha, dropout=0.0))
    callbacks: list[TrainerCallback] = [TrainingProgress(console)]
    if options.run.profile:
        callbacks.append(ProfileTrace(Path(str(config.output_dir)), console))
    trainer = SDFTTrainer(
        model,
        config,
        prepared.pairs,
        prepared.files.tokenizer,
        anchor_dataset=prepared.anchors,
        base_weights=base_weights(prepared) if METHODS[config.method].teacher == "base_model" else weights,
        facts={
            "model_name": options.recipe.model.model_name,
            "task": prepared.task.name,
            "dataset": options.source.dataset_path or prepared.task.name,
        },
        callbacks=callbacks,
    )
    if not quiet:
        announce(prepared, trainer, console)
    return trainer


def base_weights(prepared: Prepared) -> dict[str, Tensor]:
    """Weights to distil from, by parameter name. Raises UserError where no base model is named or known."""
    model = prepared.options.recipe.model
    name = prepared.options.run.base_model or started_from(model.model_name)
    base = loading.load_model(name, dtype=model.dtype, device=str(prepared.device))
    return dict(base.named_parameters())


def started_from(model_name: str) -> str:
    """The model that the run in folder ``model_name`` started from. Raises UserError where that isn't recorded."""
    record = run_in(model_name)
    if record is None:
        raise UserError(
            f"--method reinvoke: name the --base_model to distil from; {model_name} is no run that would tell."
        )
    return record.model_name


def announce(prepared: Prepared, trainer: SDFTTrainer, console: Console) -> None:
    """Says what is about to run, and every deviation from the paper's setting."""
    options, config = prepared.options, prepared.config
    prompts = config.per_device_train_batch_size * config.gradient_accumulation_steps
    num_read, num_kept = len(prepared.rows.examples), trainer.num_rows
    dropped = f" ({num_read - num_kept} over a length limit dropped)" if num_kept < num_read else ""
    source = options.source.dataset_path or options.source.dataset_name
    console.print(
        f"[bold]{config.method}[/bold] on {escape(source)}: {num_kept:,} rows{dropped}, "
        f"{prompts} prompts a step, model {escape(options.recipe.model.model_name)}"
    )
    if options.recipe.prompts.template != "auto" and not counts(config, "template"):
        console.print(f"[dim]{config.method} shows no demonstration: template {config.template} changes nothing.[/dim]")
    differing = ", ".join(f"{name} {ours} ({paper})" for name, (ours, paper) in deviations(config).items())
    if differing:
        console.print(f"[dim]Differs from the paper's setting (in brackets): {escape(differing)}[/dim]")
    samples = METHODS[config.method].samples or config.anchor_share > 0
    if samples and config.rollout_engine == "auto" and describe(trainer.step.engine) != "own":
        console.print("[dim]Completions are sampled by transformers' generate: our faster loop does not fit.[/dim]")


def check_overwrite(prepared: Prepared) -> None:
    """Raises UserError where ``--overwrite`` would delete what is no run of ours, or what the run reads."""
    options = prepared.options
    if options.run.overwrite and options.run.output_dir:
        inputs = [*flat.input_paths(options), *_read_unnamed(options)]
        run_folder.check_replaceable(Path(options.run.output_dir), inputs)


def _read_unnamed(options: TrainOptions) -> Generator[str]:
    """What a run reads that its options don't name: the folder of the tasks' data, and models behind the one named."""
    if data_dir := resolve_data_dir(options.recipe.data.data_dir):
        yield str(data_dir)
    model = options.recipe.model.model_name
    if METHODS[options.method].teacher == "base_model" and options.run.base_model is None:
        yield started_from(model)
    place = locate(model)
    while isinstance(place, Path) and is_adapter(place):
        yield (base := adapter_base(place))
        place = locate(base)


def empty_folder(folder: Path) -> None:
    """Deletes what is in an output folder, which may be a link to another; whether it may be was checked before
    (``check_overwrite``). What links in it lead to is left alone.

    Raises:
        UserError: something in it can't be deleted.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    except OSError as error:
        raise UserError(f"--overwrite: {error.filename} can't be deleted ({error.strerror}).") from error


def save_whole(model: PreTrainedModel, prepared: Prepared, folder: Path) -> None:
    """The model and its tokenizer, as a folder that any program can load."""
    tokenizer = prepared.files.tokenizer
    with ready_to_save(model, eos_token_ids(model, tokenizer)):
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def whole_model(trainer: SDFTTrainer) -> PreTrainedModel:
    """The trained model, LoRA adapters merged into it."""
    model: Any = trainer.model
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def rendered_rows(examples: Sequence[Example], files: ModelFiles, console: Console) -> RenderedRows:
    """Rows to render, with a progress line where there are many."""

    @contextmanager
    def progress(what: str, count: int) -> Generator[Callable[[int], None]]:
        if count < MANY_ROWS:
            yield lambda _: None
            return
        if not console.is_terminal:
            console.print(f"{what}: {count:,} rows")
        with progress_bar(console) as bar:
            line = bar.add_task(what, total=count, note="")
            yield lambda done: bar.advance(line, done)

    return RenderedRows(examples, files.tokenizer, progress)
