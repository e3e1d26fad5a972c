"""``selfdistill demo``: evaluates, trains and evaluates again, or compares two methods on the demo's task."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from selfdistill import run_folder
from selfdistill.checkpoints.lock import check_unlocked, locked
from selfdistill.commands import compare_and_report
from selfdistill.errors import UserError
from selfdistill.settings import flat
from selfdistill.settings.evaluate import DRIFT, DecodingOptions
from selfdistill.settings.study import CompareOptions
from selfdistill.settings.train import DemoOptions, TrainOptions
from selfdistill.settings.yaml_files import options_from_file
from selfdistill.types import EvalResult, message_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from selfdistill.evaluate.drift import Drift, DriftProbe
    from selfdistill.records.evaluations import EvalRecord
    from selfdistill.training.prepare import Prepared

NUM_SAMPLES = 3
"""Rows whose completions before and after training are printed."""
AGAINST = {"sft": "sft-cpu"}
"""For each value of ``--against``, the recipe that it is trained by."""
SHARED = (
    *("config", "from_file", "dataset_name", "model_name", "max_steps", "max_completion_length"),
    *("per_device_train_batch_size", "gradient_accumulation_steps"),
)
"""What both methods of ``--against`` take from the demo's own settings."""
CHECKPOINTS = 3
"""Evaluations during a run of ``--against``: points on the front of skill against drift."""


def run(options: DemoOptions, console: Console) -> None:
    """Says how long it takes, evaluates, trains, evaluates again, prints a table and sample completions, and writes the
    report. With ``--against`` it trains by both methods and writes a report that compares them.

    Raises:
        UserError: an option or setting is wrong, the output folder is in use, or the model can't be trained.
    """
    options.check()
    if options.against is not None:
        compare_and_report(_comparison_of(options, options.against), console)
        return
    settings = _settings(options)
    settings.check()
    run_folder.check_unused(options.output_dir, overwrite=options.overwrite)
    _train(options, settings, console)
    if options.config == DemoOptions.config:
        command = "selfdistill demo --against sft --output_dir DIR"
        console.print(f"To train on the same rows by supervised fine-tuning, too, and compare: [bold]{command}[/bold]")


def _train(options: DemoOptions, settings: TrainOptions, console: Console) -> None:
    """Evaluates, trains and evaluates again. Raises UserError as ``run``."""
    from selfdistill.evaluate.results import write_evaluation, write_records  # loads torch
    from selfdistill.evaluate.scorer_choice import TaskRows, first_rows
    from selfdistill.evaluate.task_rows import score_rows
    from selfdistill.report.collect import collect
    from selfdistill.report.write import write_report
    from selfdistill.tasks import resolve_data_dir
    from selfdistill.training.demo_size import demo_size
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
    size = demo_size(options, prepared, model, rows)
    prepared = prepared.with_steps(size.steps)
    rows = TaskRows(prepared.task, first_rows(evaluation, size.rows))
    trainer = make_trainer(prepared, model, console)
    if options.overwrite:  # last, when nothing can be refused any more
        empty_folder(folder)

    console.print(size.said)
    name = settings.recipe.model.model_name
    console.print(f"Scoring {escape(name)} on {len(rows.examples)} evaluation rows ...")
    before = score_rows(model, tokenizer, rows, decoding, console)
    old = write_evaluation(folder / run_folder.EVAL_BEFORE, before)
    probe = _drift_probe(options.drift_prompts, model, prepared)
    with locked(folder):
        trainer.train()
        trainer.save_model()
    console.print("Scoring the trained model ...")
    after = score_rows(model, tokenizer, rows, decoding, console)
    new = write_evaluation(folder / run_folder.EVAL, after)
    drift = probe and probe.measure(model)
    if drift:
        write_records(folder / run_folder.EVAL, DRIFT, drift.record, drift.samples)

    console.print(_comparison(old, new, drift, has_format=prepared.task.format_probe is not None))
    _show_samples(before, after, console)
    write_report(collect(folder), folder, console)


def _drift_probe(count: int, model: "PreTrainedModel", prepared: "Prepared") -> "DriftProbe | None":
    """Measures drift from the model as it is now, on ``count`` general prompts; None for 0."""
    from selfdistill.data.general import drift_examples
    from selfdistill.evaluate.drift import DriftProbe
    from selfdistill.training.demo_size import ANSWER_TOKENS

    if not count:
        return None
    return DriftProbe(
        model,
        prepared.files.tokenizer,
        drift_examples()[:count],
        format_probe=prepared.task.format_probe,
        max_new_tokens=ANSWER_TOKENS,
        chat_template_kwargs=prepared.config.chat_variables("student"),
    )


def _settings(options: DemoOptions) -> TrainOptions:
    """Options of the training run."""
    given: dict[str, Any] = {"output_dir": options.output_dir, "overwrite": options.overwrite}
    if options.max_steps is not None:
        given["max_steps"] = options.max_steps
    if options.skip_memory_check:
        given["skip_memory_check"] = True
    return flat.changed(options_from_file(TrainOptions, options.config), given)


def _comparison_of(options: DemoOptions, against: str) -> CompareOptions:
    """Options of a comparison of the demo's settings with those of another recipe, on the same rows in the same order.

    Raises:
        UserError: both train by the same method.
    """
    recipe = options_from_file(TrainOptions, AGAINST[against])
    own = options_from_file(TrainOptions, options.config)
    if own.method == recipe.method:
        raise UserError(
            f"--against {against}: {options.config} trains by {own.method} itself. Leave --config out, or name another."
        )
    defaults, others = flat.flatten(TrainOptions()), flat.flatten(recipe)
    given = {name: value for name, value in others.items() if value != defaults[name] and name not in SHARED}
    values: dict[str, Any] = {
        "output_dir": options.output_dir,
        "overwrite": options.overwrite,
        "arm": (f"{own.method}: method={own.method}", f"{against}: {_assignments(given)}"),
        "seeds": str(own.seed),
        "checkpoints": CHECKPOINTS,
        "eval_limit": options.limit,
        "drift_prompts": options.drift_prompts,
        "prior": "none",
    }
    values |= {"max_steps": options.max_steps} if options.max_steps is not None else {}
    values |= {"skip_memory_check": True} if options.skip_memory_check else {}
    return flat.changed(options_from_file(CompareOptions, options.config), values)


def _assignments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _comparison(before: "EvalRecord", after: "EvalRecord", drift: "Drift | None", *, has_format: bool) -> Table:
    """Results before and after training: one row for all evaluation rows, then one for each part, and what the training
    cost on general prompts. ``has_format``: whether the skill's answers have a form of their own."""
    from selfdistill.evaluate.table import percent

    table = Table(title=f"{after.config.task}: {after.config.metric}", title_justify="left")
    table.add_column("evaluation rows")
    for name in ("rows", "before [95% interval]", "after [95% interval]"):
        table.add_column(name, justify="right")
    for part, score in {"all": after.score, **after.parts}.items():
        earlier = before.score if part == "all" else before.parts[part]
        table.add_row(part, str(score.num_total), percent(earlier), percent(score))
    if drift:
        record = drift.record
        table.add_section()
        table.add_row("general prompts: KL, nats per token", str(record.num_prompts), "0", f"{record.kl_per_token:.3f}")
        if has_format:
            table.add_row("general answers in the skill's format", "", "", f"{record.format_leak_rate:.1%}")
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
