"""``selfdistill train``."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from selfdistill.settings.train import TrainOptions


def run(options: TrainOptions, console: Console) -> None:
    """Trains a model and saves it, or prints what would be done (``--dry_run``).

    Raises:
        UserError: an option or row is wrong, the output folder is in use, or the model can't be trained.
    """
    options.check()

    from selfdistill.training.dry_run import dry_run  # loads torch
    from selfdistill.training.prepare import require_memory
    from selfdistill.training.run import (
        check_overwrite,
        check_resumed,
        empty_folder,
        load_student,
        make_trainer,
        prepared_run,
        settled,
    )

    if options.run.dry_run:
        dry_run(options, console)
        return
    prepared = prepared_run(options, console)
    check_overwrite(prepared)
    require_memory(prepared)
    model = load_student(prepared)
    prepared = settled(prepared, model, console)
    check_resumed(prepared)
    trainer = make_trainer(prepared, model, console)
    if options.run.overwrite:  # last, when nothing can be refused any more
        empty_folder(Path(str(options.run.output_dir)))
    trainer.train(resume_from_checkpoint=options.run.resume or None)
    trainer.save_model()
    console.print(f"Model and records are in {escape(str(options.run.output_dir))}.")
