"""Training rows of a run."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from selfdistill.data.general import anchor_examples
from selfdistill.data.own import Reading
from selfdistill.errors import UserError
from selfdistill.method.methods import METHODS
from selfdistill.settings.train import TrainOptions
from selfdistill.tasks import get_task, resolve_data_dir
from selfdistill.tasks.custom import custom_task
from selfdistill.tasks.overlap import overlap_warning, repeats_warning, rows_at_hand
from selfdistill.tasks.task import Task
from selfdistill.types import Example


class TrainingData(NamedTuple):
    """A task and its training rows."""

    task: Task
    examples: Sequence[Example]


def training_data(options: TrainOptions, say: Callable[[str], None]) -> TrainingData:
    """Loads the task and its training rows, at most ``--limit``. A method that needs no demonstrations gets general
    prompts. ``say`` is told of rows that were left out.

    Raises:
        UserError: there is no such task or file, a row is invalid, or there are no rows.
    """
    spec, limit = METHODS[options.method], options.recipe.data.limit
    reading = Reading(
        rows=options.recipe.data.rows,
        seed=options.seed,
        raw_text=spec.prompt == "raw_text",
        needs_demonstration=options.recipe.prompts.demonstration_from == "row",
        train_limit=limit,
        say=say,
    )
    if not spec.needs_demonstration:
        examples = anchor_examples(options.source.dataset_path, reading)
        return TrainingData(get_task(options.source.dataset_name), examples)
    if options.source.dataset_path is not None:
        task = custom_task(options.source.dataset_path, None, reading=reading)
    else:
        task = get_task(options.source.dataset_name)
    examples = task.load_train(resolve_data_dir(options.recipe.data.data_dir))[:limit]
    if not examples:
        raise UserError(f"{task.name} has no training rows. Choose another --dataset_name, or give --dataset_path.")
    return TrainingData(task, examples)


def row_warnings(options: TrainOptions, data: TrainingData) -> list[str]:
    """Warnings of training rows that are there more than once, if they are the person's own, and of evaluation prompts
    of the task among them, if its evaluation rows are available."""
    if not METHODS[options.method].needs_demonstration:
        return []
    own, found = options.source.dataset_path, list[str | None]()
    if own is not None:
        found.append(repeats_warning(own[:80], data.examples))
    if options.recipe.data.rows.eval_share is None:  # held-out rows share no prompt with the training rows
        evaluation = rows_at_hand(data.task.load_eval, resolve_data_dir(options.recipe.data.data_dir))
        found.append(overlap_warning(data.task.name, data.examples, evaluation))
    return [warning for warning in found if warning is not None]
