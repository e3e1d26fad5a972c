"""``selfdistill preflight``."""

import json
from dataclasses import replace

from rich.console import Console
from rich.markup import escape

from selfdistill.settings.train import PreflightOptions, RunOptions, TrainOptions


def run(options: PreflightOptions, console: Console) -> None:
    """Runs the preflight and prints its table and verdict, or one JSON object.

    Raises:
        UserError: an option or row is wrong, or the model can't be loaded.
    """
    options.check()

    from selfdistill.evaluate.preflight_table import show_preflight  # loads torch
    from selfdistill.training.run import load_student, prepared_run
    from selfdistill.training.success import with_scorer
    from selfdistill.training.template import run_preflight

    asked = TrainOptions(
        method=options.method, seed=options.seed, source=options.source, recipe=options.recipe, run=RunOptions()
    )
    prepared = prepared_run(asked, Console(quiet=True) if options.json else console)
    if options.scorer is not None:
        prepared = replace(prepared, task=with_scorer(prepared.task, options.scorer))
    result = run_preflight(prepared, load_student(prepared), options.num_rows, console, quiet=options.json)
    if prepared.needs_template:
        prepared = prepared.with_template(result.best.template, result.best.repeat)
    if options.json:
        print(json.dumps(result.as_dict() | prepared.lengths_and_memory()))
        return
    show_preflight(result, console)
    console.print(f"Estimated memory of a training run: {prepared.memory.peak / 2**30:.1f} GiB")
    if prepared.shortage:
        console.print(f"[yellow]{escape(prepared.shortage)}[/yellow]")
