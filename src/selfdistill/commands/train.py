"""``selfdistill train``."""

from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from selfdistill.checkpoints.lock import check_unlocked
from selfdistill.launcher import place
from selfdistill.settings.train import TrainOptions


def run(options: TrainOptions, console: Console) -> None:
    """Trains a model and saves it, or prints what would be done (``--dry_run``).

    Raises:
        UserError: an option or row is wrong, the output folder is in use, or the model can't be trained.
    """
    options.check()

    from selfdistill.method.processes import Processes  # loads torch
    from selfdistill.training.dry_run import dry_run
    from selfdistill.training.prepare import require_memory
    from selfdistill.training.resume import begun_run, check_begun, clear_away, taken_over, train
    from selfdistill.training.run import (
        check_overwrite,
        load_student,
        make_trainer,
        prepared_run,
        settled,
    )

    if options.run.dry_run:
        dry_run(options, console)
        return
    folder = Path(str(options.run.output_dir))
    if place().rank == 0:
        check_unlocked(folder)
    prepared = prepared_run(options, console)
    processes = Processes.here(prepared.device)
    processes.once(lambda: check_overwrite(prepared))
    begun = processes.once(lambda: begun_run(prepared))
    if begun is not None:
        prepared = taken_over(prepared, begun)
        if processes.once(partial(check_begun, prepared, begun)):
            processes.once(lambda: clear_away(folder))
            console.print(f"The run in {escape(str(folder))} is finished. Nothing is left to train.")
            return
    require_memory(prepared)
    model = load_student(prepared)
    prepared = settled(prepared, model, console)
    trainer = make_trainer(prepared, model, console)
    trainer.tracked.report = partial(_report, folder)
    train(trainer, prepared, console)
    console.print(f"Model and records are in {escape(str(folder))}.")


def _report(folder: Path) -> Path:
    """Writes the report of the run in a folder, and returns the folder."""
    from selfdistill.report.collect import collect
    from selfdistill.report.write import write_files  # loads altair

    write_files(collect(folder), folder)
    return folder
