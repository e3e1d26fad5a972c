"""``selfdistill demo``: evaluates, trains and evaluates again."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from selfdistill import run_folder
from selfdistill.checkpoints.lock import check_unlocked, locked
from selfdistill.settings import flat
from selfdistill.settings.evaluate import DecodingOptions
from selfdistill.settings.train import DemoOptions, TrainOptions
from selfdistill.settings.yaml_files import options_from_file
from selfdistill.types import EvalResult, message_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from selfdistill.evaluate.scorer_choice import TaskRows
    from selfdistill.records.evaluations import EvalRecord
    from selfdistill.training.prepare import Prepared

NUM_SAMPLES = 3
"""Rows whose completions before and after training are printed."""
SDFT = "sdft-cpu"
"""Recipe that trains on the demo's task by self-distillation."""


def run(options: DemoOptions, console: Console) -> None:
    """Says how long it takes, evaluates, trains, evaluates again, prints a table and sample completions, and writes the
    report.

    Raises:
        UserError: an option or setting is wrong, the output folder is in use, or the model can't be trained.
    """
    options.check()
    settings = _settings(options)
    settings.check()
    run_folder.check_unused(options.output_dir, overwrite=options.overwrite)

    from selfdistill.evaluate.results import write_evaluation  # loads torch
    from selfdistill.evaluate.scorer_choice import TaskRows, first_rows
    from selfdistill.evaluate.task_rows import score_rows
    from selfdistill.report.collect import collect
    from selfdistill.report.write import write_report
    from selfdistill.tasks import resolve_data_dir
    from selfdistill.training.prepare import require_memory
    from selfdistill.training.run import (
        check_overwrite,
        empty_folder,
        load_student,
        make_trainer,
        prepared_run,
        settled,
    )

    folder = Path(options.output_dir)
    check_unlocked(folder)
    prepared = prepared_run(settings, console)
    check_overwrite(prepared)
    require_memory(prepared)
    evaluation = prepared.task.load_eval(resolve_data_dir(settings.recipe.data.data_dir))
    rows = TaskRows(prepared.task, first_rows(evaluation, options.limit))
    decoding = DecodingOptions(chat_template_kwargs=prepared.config.chat_variables("student"))
    model, tokenizer = load_student(prepared), prepared.files.tokenizer
    prepared = settled(prepared, model, console)
    trainer = make_trainer(prepared, model, console)
    if options.overwrite:  # last, when nothing can be refused any more
        empty_folder(folder)

    console.print(_how_long(prepared, model, rows))
    name = settings.recipe.model.model_name
    console.print(f"Scoring {escape(name)} on {len(rows.examples)} evaluation rows ...")
    before = score_rows(model, tokenizer, rows, decoding, console)
    old = write_evaluation(folder / run_folder.EVAL_BEFORE, before)
    with locked(folder):
        trainer.train()
        trainer.save_model()
    console.print("Scoring the trained model ...")
    after = score_rows(model, tokenizer, rows, decoding, console)
    new = write_evaluation(folder / run_folder.EVAL, after)

    console.print(_comparison(old, new))
    _show_samples(before, after, console)
    write_report(collect(folder), folder, console)
    if options.config == DemoOptions.config:
        command = f"selfdistill demo --config {SDFT} --output_dir DIR"
        console.print(f"To train on the same rows by self-distillation: [bold]{command}[/bold]")


def _how_long(prepared: "Prepared", model: "PreTrainedModel", rows: "TaskRows") -> str:
    """A sentence about the time that scoring, training and scoring again take here."""
    from selfdistill.training import duration

    scoring = duration.scoring_work(prepared, len(rows.examples), rows.task.max_new_tokens)
    work = duration.total([scoring, duration.training_work(prepared), scoring])
    takes = duration.in_words(duration.seconds(work, duration.measured(model, work.decoding)))
    return f"This takes {takes} on this machine ({duration.machine(model.device)})."


def _settings(options: DemoOptions) -> TrainOptions:
    """Options of the training run."""
    given: dict[str, Any] = {"output_dir": options.output_dir, "overwrite": options.overwrite}
    if options.max_steps is not None:
        given["max_steps"] = options.max_steps
    if options.skip_memory_check:
        given["skip_memory_check"] = True
    return flat.changed(options_from_file(TrainOptions, options.config), given)


def _comparison(before: "EvalRecord", after: "EvalRecord") -> Table:
    """Results before and after training: one row for all evaluation rows, then one for each part."""
    from selfdistill.evaluate.table import percent

    table = Table(title=f"{after.config.task}: {after.config.metric}", title_justify="left")
    table.add_column("evaluation rows")
    for name in ("rows", "before [95% interval]", "after [95% interval]"):
        table.add_column(name, justify="right")
    for part, score in {"all": after.score, **after.parts}.items():
        earlier = before.score if part == "all" else before.parts[part]
        table.add_row(part, str(score.num_total), percent(earlier), percent(score))
    return table


def _show_samples(before: EvalResult, after: EvalResult, console: Console) -> None:
    step = max(1, len(after.samples) // NUM_SAMPLES)
    for old, new in list(zip(before.samples, after.samples, strict=True))[::step][:NUM_SAMPLES]:
        question = message_text(new.example.prompt[-1])
        score = new.scores[after.metric]
        verdict = (
            "not scored" if score is None else "right" if score == 1 else "wrong" if score == 0 else f"{score:.2f}"
        )
        text = f"{question}\n\nbefore: {old.completion.strip()}\n\nafter:  {new.completion.strip()}   ({verdict})"
        console.print(Panel(escape(text), title=escape(new.example.id), title_align="left"))
