"""From a command's options to a trainer, and what is saved."""

import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.markup import escape
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback, set_seed

from selfdistill import run_folder
from selfdistill.checkpoints.commit import install
from selfdistill.errors import DiskError, UserError
from selfdistill.method.accepted import where_to_load
from selfdistill.method.methods import METHODS
from selfdistill.method.needs import counts, deviations
from selfdistill.method.processes import Processes
from selfdistill.method.profile_trace import ProfileTrace
from selfdistill.method.rollout.engines import describe
from selfdistill.method.trainer import SDFTTrainer
from selfdistill.models import loading
from selfdistill.models.adapters import lora
from selfdistill.models.places import adapter_base, is_adapter, locate
from selfdistill.models.saving import save_model
from selfdistill.models.tokens import eos_token_ids
from selfdistill.progress import progress_bar
from selfdistill.records.runs import run_in
from selfdistill.settings import flat
from selfdistill.settings.train import TrainOptions
from selfdistill.tasks import resolve_data_dir
from selfdistill.training.data import row_warnings, training_data
from selfdistill.training.prepare import ModelFiles, Prepared, prepare, require_memory
from selfdistill.training.progress import TrainingProgress
from selfdistill.training.rendered import RenderedRows
from selfdistill.training.settings import needs_template, without_idle_settings
from selfdistill.training.shown_rows import control_token_warning, date_warning, lost_thoughts_warning
from selfdistill.training.success import with_scorer
from selfdistill.training.template import choose_template
from selfdistill.training.watch import check_watched, held_out_rows, watch
from selfdistill.types import Example

MANY_ROWS = 5_000
"""Number of rows from which rendering shows its progress."""


def prepared_run(options: TrainOptions, console: Console) -> Prepared:
    """Prepares a run up to the loading of its model; prints settings that are left out and a warning about overlap.

    Raises:
        UserError: as ``training_data``, ``held_out_rows``, ``prepare`` and ``check_watched`` raise it.
    """
    options, idle = without_idle_settings(options)
    if idle:
        console.print(f"[dim]Left out, since {options.method} has no use for them: {', '.join(idle)}.[/dim]")
    data = training_data(options, lambda text: console.print(escape(text)))
    _warn(console, *row_warnings(options, data))
    loading.quiet_libraries()
    files = ModelFiles(options.recipe.model.model_name, options.recipe)
    _warn(console, control_token_warning(data.examples, files.tokenizer))
    test = held_out_rows(options, data.examples, console)
    task = data.task
    if options.watch.scorer is not None and needs_template(options):
        task = with_scorer(task, options.watch.scorer)
    prepared = prepare(options, task, rendered_rows(data.examples, files, console), files)
    prepared = replace(prepared, test=test)
    check_watched(prepared)
    config = prepared.config
    if METHODS[config.method].prompt == "chat":
        _warn(console, date_warning(files.tokenizer, config.chat_variables("student")))
        _warn(console, lost_thoughts_warning(prepared.pairs, files.tokenizer, config.template))
    return prepared


def _warn(console: Console, *warnings: str | None) -> None:
    for warning in warnings:
        if warning is not None:
            console.print(f"[yellow]Warning:[/yellow] {escape(warning)}")


def load_student(prepared: Prepared) -> PreTrainedModel:
    """Loads the model to train, onto the device that the trainer uses, or onto the host if it is to be split."""
    model = prepared.options.recipe.model
    where = where_to_load(model.dtype, prepared.config)
    return loading.load_model(model.model_name, quantize=model.quantize, **where)


def settled(prepared: Prepared, model: PreTrainedModel, console: Console) -> Prepared:
    """The run with its template settled: for ``--template auto`` a preflight chooses it.

    Raises:
        UserError: as ``choose_template`` and ``Prepared.with_template`` raise it, or the run needs more memory with
            that template's prompts than there is.
    """
    if not prepared.needs_template:
        return prepared
    chosen = Processes.here(prepared.device).once(lambda: choose_template(prepared, model, console))
    found = prepared.with_template(*chosen)
    require_memory(found)
    _warn(console, lost_thoughts_warning(found.pairs, found.files.tokenizer, found.config.template))
    return found


def make_trainer(
    prepared: Prepared,
    model: PreTrainedModel,
    console: Console,
    *,
    weights: Mapping[str, Tensor] | None = None,
    quiet: bool = False,
) -> SDFTTrainer:
    """Makes the trainer for a loaded model, with LoRA adapters added if the options ask for them.

    Args:
        prepared: the run; its template is settled.
        model: the model to train.
        console: for progress and what is announced.
        weights: the teacher's initial weights by parameter name; see ``base_weights`` of SDFTTrainer.
        quiet: don't announce the run.

    Raises:
        UserError: the model can't be trained with these settings, or no base model to distil from is known.
    """
    options, config = prepared.options, prepared.config
    adapter = options.recipe.adapter
    set_seed(config.seed)  # adapters are initialised at random
    if adapter.lora_r is not None:
        alpha = adapter.lora_alpha or 2 * adapter.lora_r
        model = cast(PreTrainedModel, lora(model, r=adapter.lora_r, alpha=alpha, dropout=0.0))
    callbacks: list[TrainerCallback] = [TrainingProgress(console)]
    if options.run.profile and Processes.here().is_main:
        callbacks.append(ProfileTrace(Path(str(config.output_dir)), console))
    trainer = SDFTTrainer(
        model,
        config,
        prepared.pairs,
        prepared.files.tokenizer,
        anchor_dataset=prepared.anchors,
        scorer=prepared.scorer,
        base_weights=base_weights(prepared) if METHODS[config.method].teacher == "base_model" else weights,
        facts={
            "model_name": options.recipe.model.model_name,
            "task": prepared.task.name,
            "dataset": options.source.dataset_path or prepared.task.name,
            "chat_template": options.recipe.model.chat_template or "",
        },
        callbacks=callbacks,
    )
    trainer.checkpoints.on_warning = lambda text: console.print(f"[yellow]Warning:[/yellow] {escape(text)}")
    if not quiet:
        announce(prepared, trainer, console)
    watch(trainer, prepared, console)
    return trainer


def base_weights(prepared: Prepared) -> dict[str, Tensor]:
    """Weights of the base model to distil from, by parameter name. Raises UserError if none is named or recorded."""
    model = prepared.options.recipe.model
    return loading.load_weights(base_name(prepared.options), dtype=model.dtype, device=str(prepared.device))


def base_name(options: TrainOptions) -> str:
    """The model that ``reinvoke`` distils from. Raises UserError if none is named or recorded."""
    return options.run.base_model or started_from(options.recipe.model.model_name)


def started_from(model_name: str) -> str:
    """The model that the run in folder ``model_name`` started from. Raises UserError if that is not recorded."""
    record = run_in(model_name)
    if record is None:
        raise UserError(
            f"--method reinvoke: name the --base_model to distil from; {model_name} is not a run that records one."
        )
    return record.model_name


def announce(prepared: Prepared, trainer: SDFTTrainer, console: Console) -> None:
    """Prints what is about to run, and every difference from the paper's settings."""
    options, config = prepared.options, prepared.config
    size = trainer.processes.size
    prompts = config.per_device_train_batch_size * config.gradient_accumulation_steps * size
    together = f" in {size} processes" if size > 1 else ""
    num_read, num_kept = len(prepared.rows.examples), trainer.num_rows
    dropped = f" ({num_read - num_kept} over a length limit dropped)" if num_kept < num_read else ""
    source = options.source.dataset_path or options.source.dataset_name
    console.print(
        f"[bold]{config.method}[/bold] on {escape(source)}: {num_kept:,} rows{dropped}, "
        f"{prompts} prompts per step{together}, model {escape(options.recipe.model.model_name)}"
    )
    if options.recipe.prompts.template != "auto" and not counts(config, "template"):
        console.print(f"[dim]{config.method} shows no demonstration: template {config.template} changes nothing.[/dim]")
    differing = ", ".join(f"{name} {ours} ({paper})" for name, (ours, paper) in deviations(config).items())
    if differing:
        console.print(f"[dim]Differs from the paper's setting (in brackets): {escape(differing)}[/dim]")
    samples = METHODS[config.method].samples or config.anchor_share > 0
    if samples and config.rollout_engine == "auto" and describe(trainer.step.engine) != "own":
        console.print(
            "[dim]Completions are sampled by transformers' generate: our faster loop does not support this model.[/dim]"
        )


def check_overwrite(prepared: Prepared) -> None:
    """Raises UserError if ``--overwrite`` would delete something other than a run, or something that the run reads."""
    options = prepared.options
    if options.run.overwrite and options.run.output_dir:
        inputs = [*flat.input_paths(options), *_read_unnamed(options)]
        run_folder.check_replaceable(Path(options.run.output_dir), inputs)


def _read_unnamed(options: TrainOptions) -> Generator[str]:
    """What a run reads although no option is its path: the folder of the tasks' data, the file of feedback_file, the
    model to distil from, and the models that adapters belong to."""
    if data_dir := resolve_data_dir(options.recipe.data.data_dir):
        yield str(data_dir)
    if feedback := options.recipe.prompts.feedback_file:
        yield feedback.rpartition(":")[0]
    models = [options.recipe.model.model_name, *filter(None, [options.recipe.teachers.teacher_model])]
    if METHODS[options.method].teacher == "base_model":
        models.append(base_name(options))
    for model in models:
        yield model
        place = locate(model)
        while isinstance(place, Path) and is_adapter(place):
            yield (base := adapter_base(place))
            place = locate(base)


def empty_folder(folder: Path) -> None:
    """Deletes the contents of an output folder but for its lock and leases, or creates it. Call ``check_overwrite``
    first. The folder may be a link; links inside it are deleted, but not their targets.

    Raises:
        DiskError: something in it can't be deleted.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in (path for path in folder.iterdir() if path.name not in (run_folder.LOCK, run_folder.LEASES)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    except OSError as error:
        raise DiskError(f"--overwrite: {error.filename} can't be deleted ({error.strerror}).") from error


def save_whole(model: PreTrainedModel, prepared: Prepared, folder: Path) -> None:
    """Saves the model and its tokenizer to a folder in the Hugging Face layout, by the commit protocol."""
    tokenizer = prepared.files.tokenizer
    install(folder, lambda staging: save_model(model, tokenizer, eos_token_ids(model, tokenizer), staging))


def whole_model(trainer: SDFTTrainer) -> PreTrainedModel:
    """The trained model, with LoRA adapters merged into its weights."""
    model: Any = trainer.model
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def rendered_rows(examples: Sequence[Example], files: ModelFiles, console: Console) -> RenderedRows:
    """Rows to render; rendering many of them shows its progress on the console."""

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
