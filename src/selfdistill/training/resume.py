"""Goes on with the run in an output folder, or starts one."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from selfdistill import run_folder
from selfdistill.checkpoints.commit import tidy
from selfdistill.checkpoints.find import checkpoints_in
from selfdistill.checkpoints.lock import locked
from selfdistill.checkpoints.manifest import DamagedError, verify
from selfdistill.checkpoints.space import check_space
from selfdistill.errors import UserError
from selfdistill.method.fingerprints import PROCESSES, changes, in_words, of_data, of_scoring
from selfdistill.method.processes import Processes
from selfdistill.method.save_size import model_bytes
from selfdistill.method.trainer import SDFTTrainer
from selfdistill.records.runs import RunConfig, run_in
from selfdistill.training.prepare import Prepared
from selfdistill.training.run import empty_folder
from selfdistill.training.stop import stoppable
from selfdistill.training.watch import load_best


def begun_run(prepared: Prepared) -> RunConfig | None:
    """The run that was begun in the output folder; None if there is none, or it is to be overwritten. Raises UserError
    if its record is broken."""
    run = prepared.options.run
    return None if run.overwrite else run_in(str(run.output_dir))


def taken_over(prepared: Prepared, begun: RunConfig) -> Prepared:
    """The run with the template that a preflight chose when it was begun. Raises UserError as ``with_template``."""
    if not prepared.needs_template:
        return prepared
    return prepared.with_template(begun.settings["template"], begun.settings["template_repeat"])


def check_begun(prepared: Prepared, begun: RunConfig) -> bool:
    """Compares what is known before the model is loaded with the run that was begun.

    Returns:
        Whether that run is finished: all steps are made, and its model is saved.

    Raises:
        UserError: a setting or the data differ, and ``--allow_changes`` is not given.
    """
    options = prepared.options
    read = of_data(prepared.files.tokenizer, prepared.pairs, prepared.anchors)
    read |= of_scoring(prepared.config, prepared.pairs, prepared.scorer)
    read[PROCESSES] = str(Processes.here().size)
    now: dict[str, Any] = {
        "model_name": options.recipe.model.model_name,
        "settings": prepared.config.to_dict(),
        "fingerprints": begun.fingerprints | read,
    }
    differing = changes(begun, replace(begun, **now))
    if differing and not options.run.allow_changes:
        raise UserError(
            f"{options.run.output_dir} holds a run with {in_words(differing)}. Give the same to go on with it, "
            "--allow_changes, --overwrite, or another --output_dir."
        )
    return not differing and _is_finished(Path(str(options.run.output_dir)))


def clear_away(folder: Path) -> None:
    """Deletes what a crash left in the folder of a finished run as its model was being saved.

    Raises:
        UserError: another command uses the folder, or something can't be deleted.
    """
    with locked(folder):
        tidy(folder)


def train(trainer: SDFTTrainer, prepared: Prepared, console: Console) -> None:
    """Trains from the newest whole checkpoint in the output folder, or from the start, and saves the model: that of the
    last step, or of the best evaluation (``--keep_best``).

    Raises:
        StoppedError: a signal ended the run, which is saved.
        UserError: another command uses the folder, something in it can't be deleted, the model would not fit on the
            disk, or as ``SDFTTrainer.train`` raises it.
    """
    with ExitStack() as stack:
        goes_on = trainer.processes.once(lambda: _open_folder(trainer, prepared, console, stack))
        with stoppable(trainer, console):
            trainer.train(resume_from_checkpoint=goes_on, allow_changes=prepared.options.run.allow_changes)
        load_best(trainer, prepared, console)
        trainer.save_model()


def _open_folder(trainer: SDFTTrainer, prepared: Prepared, console: Console, stack: ExitStack) -> bool:
    """Locks the output folder while ``stack`` lasts, and prepares it. Returns whether it holds a checkpoint."""
    run = prepared.options.run
    folder = Path(str(run.output_dir))
    stack.enter_context(locked(folder))
    if run.overwrite:  # last, when nothing can be refused any more
        empty_folder(folder)
    size = model_bytes(trainer.model)
    check_space(folder, size, "The trained model takes", "Free some, or name another --output_dir.")
    tidy(folder)
    checkpoints = checkpoints_in(folder)
    if checkpoints:
        console.print(f"Going on with the run in {escape(str(folder))}.")
    else:
        for name in run_folder.GROWING:  # of a run that was stopped before its first checkpoint
            run_folder.forget_after(folder / name, -1)
    return bool(checkpoints)


def _is_finished(folder: Path) -> bool:
    try:
        verify(folder, others=True)
    except DamagedError:
        return False
    return "train_loss" in run_folder.last_row(folder / run_folder.METRICS)
