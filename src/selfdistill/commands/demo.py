"""``selfdistill demo``: before, training, after, on the embedded model and data."""

import shutil
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from selfdistill.commands import eval as eval_command
from selfdistill.commands import train as train_command
from selfdistill.settings.commands import DemoOptions, EvalOptions
from selfdistill.types import EvalResult

NUM_SAMPLES = 3
SDFT = "sdft-cpu"
"""The recipe that learns the demo's task by self-distillation."""


def run(options: DemoOptions, console: Console) -> None:
    """Evaluates, trains, evaluates again, prints a table and sample completions, writes the report.

    Raises:
        UserError: the output folder is in use, or the model can't be fetched.
    """
    settings = train_command.from_yaml(options.config)
    settings.output_dir, settings.overwrite = options.output_dir, options.overwrite
    settings.skip_memory_check |= options.skip_memory_check
    settings.check()

    from selfdistill.models import loading

    loading.quiet_libraries()
    if options.overwrite:
        shutil.rmtree(options.output_dir, ignore_errors=True)
    run_dir = Path(options.output_dir)
    task, examples = train_command.training_examples(settings)
    rows = task.load_eval(None)[: options.limit]
    tokenizer = loading.load_tokenizer(settings.model_name)
    train_command.check_before_loading(settings, task, examples, tokenizer)
    model = loading.load_model(settings.model_name, dtype=settings.dtype)
    scoring = EvalOptions()

    console.print(f"Scoring {escape(settings.model_name)} on {len(rows)} rows it will not train on ...")
    before = eval_command.evaluate_model(model, tokenizer, task, rows, scoring, console)
    eval_command.write_into_run(before, run_dir / "eval-before")
    trainer = train_command.make_trainer(settings, task, examples, model, tokenizer, console)
    trainer.train()
    trainer.save_model()
    console.print("Scoring the trained model ...")
    after = eval_command.evaluate_model(model, tokenizer, task, rows, scoring, console)
    eval_command.write_into_run(after, run_dir / "eval")

    console.print(comparison(before, after))
    _show_samples(before, after, console)
    _report(run_dir, console)
    if options.config == DemoOptions.config:
        console.print(
            f"The same rows by self-distillation: [bold]selfdistill demo --config {SDFT} --output_dir DIR[/bold]"
        )


def comparison(before: EvalResult, after: EvalResult) -> Table:
    """Both results side by side: a row for the whole, one for every part."""
    from selfdistill.evaluate.run import summary

    table = Table(title=f"{after.task}: {after.metric}", title_justify="left")
    table.add_column("evaluation rows")
    for name in ("rows", "before [95% interval]", "after [95% interval]"):
        table.add_column(name, justify="right")
    old, new = summary(before), summary(after)
    for part, values in {"all": new, **new["parts"]}.items():
        earlier = old if part == "all" else old["parts"][part]
        percent = eval_command.percent
        table.add_row(part, str(values["num_total"]), percent(earlier), percent(values))
    return table


def _show_samples(before: EvalResult, after: EvalResult, console: Console) -> None:
    step = max(1, len(after.samples) // NUM_SAMPLES)
    for old, new in list(zip(before.samples, after.samples, strict=True))[::step][:NUM_SAMPLES]:
        question = str(new.example.prompt[-1]["content"])
        verdict = "right" if new.scores[after.metric] else "wrong"
        text = f"{question}\n\nbefore: {old.completion.strip()}\n\nafter:  {new.completion.strip()}   ({verdict})"
        console.print(Panel(escape(text), title=escape(new.example.id), title_align="left"))


def _report(run_dir: Path, console: Console) -> None:
    from selfdistill.commands import report
    from selfdistill.settings.commands import ReportOptions

    report.run(ReportOptions(folder=str(run_dir)), console)
