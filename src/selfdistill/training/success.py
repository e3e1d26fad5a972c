"""The scorer that tells a run which of its completions succeeded."""

from collections.abc import Sequence
from dataclasses import replace

from selfdistill.errors import UserError
from selfdistill.evaluate.scorer_choice import JUDGE_SCORER
from selfdistill.tasks import TASKS
from selfdistill.tasks.scorers import scorer_from
from selfdistill.tasks.task import Task
from selfdistill.types import Example, NamedScorer


def check_alone(task: Task, flag: str) -> None:
    """Raises UserError if the task's headline scorer asks a judge or runs programs. ``flag``: of what it is for."""
    headline = next(iter(task.scorers))
    if headline in task.judged or headline in task.programs:
        needs = "asks a judge" if headline in task.judged else "runs programs"
        raise UserError(f"{flag}: the scorer {headline} {needs}, which training does not. Name another --scorer.")


def with_scorer(task: Task, spec: str) -> Task:
    """The task with the scorer that ``spec`` names as its only one, as ``--scorer`` takes it. Raises UserError if there
    is no such scorer, or it asks a judge."""
    if spec == JUDGE_SCORER:
        raise UserError("--scorer judge: a preflight asks no judge. Name another scorer.")
    name, score = scorer_from(spec)
    return replace(task, scorers={name: score}, judged={}, programs={})


def success_scorer(task: Task, spec: str | None, rows: Sequence[Example]) -> NamedScorer:
    """The scorer of a run's completions: the one that ``spec`` names, or else the task's headline. Its name has what
    scores depend on: a hash of a person's file, the revision of a task.

    Args:
        task: of the rows.
        spec: as ``--scorer`` takes it; None for the task's.
        rows: the training rows.

    Raises:
        UserError: there is no such scorer, it asks a judge or runs programs, or it can grade none of the rows.
    """
    flag = "--demonstration_from own_success"
    if spec == JUDGE_SCORER:
        raise UserError(f"{flag}: training asks no judge. Name another --scorer.")
    if spec is not None:
        name, score = scorer_from(spec)
    else:
        check_alone(task, flag)
        name, score = next(iter(task.scorers.items()))
        name = f"{name} of {task.name} {task.revision}" if task.name in TASKS else name
    if not any(score(row.demonstration_text, row) is not None for row in rows):
        raise UserError(
            f"{flag}: {name} can grade none of the training rows. Add a column answer or demonstration, or name "
            "another --scorer."
        )
    return name, score
