"""The tasks of a study, each with its training and evaluation rows: named tasks, or a user's own rows."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from selfdistill.data.own import Reading, own_evaluation
from selfdistill.errors import UserError
from selfdistill.evaluate.scorer_choice import TaskRows, chosen_task, first_rows, with_chosen_judge
from selfdistill.settings.groups import DataOptions
from selfdistill.settings.sources import sources
from selfdistill.settings.study import MeasureOptions
from selfdistill.tasks import resolve_data_dir
from selfdistill.tasks.custom import custom_task
from selfdistill.tasks.overlap import overlap_warning
from selfdistill.tasks.task import BatchScorer, Task
from selfdistill.types import Example, Scorer

HELD_OUT = 200
"""Largest number of a user's own rows that are held out for evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A task with the rows it is trained on and the rows it is tested on."""

    task: Task
    train: Sequence[Example]
    test: TaskRows

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    def identity(self) -> dict[str, str]:
        """What identifies the subject, by description: fingerprints of its ordered rows, and its headline scorer."""
        return {
            f"training rows of {self.name}": fingerprint(self.train),
            f"evaluation rows of {self.name}": fingerprint(self.test.examples),
            f"scorer of {self.name}": next(iter(self.task.scorers)),
        }


def named_subject(name: str, data: DataOptions, measures: MeasureOptions, console: Console) -> Subject:
    """The task of that name with its rows.

    Raises:
        UserError: there is no such task, its data are missing, or it needs a judge and none is named.
    """
    task, data_dir = chosen_task(name, None, measures.judge), resolve_data_dir(data.data_dir)
    return _subject(task, task.load_train(data_dir), task.load_eval(data_dir), name, data, measures, console)


def own_subject(
    train_path: str,
    eval_path: str | None,
    data: DataOptions,
    measures: MeasureOptions,
    console: Console,
    *,
    seed: int = 42,
) -> Subject:
    """A user's own rows. They are evaluated on ``eval_path``, or else on the share of ``eval_share``, or else on the
    evaluation split of a folder that has one, or else on the last fifth of the rows, at most HELD_OUT.

    ``seed`` is of the draws from weighted sources.

    Raises:
        UserError: there is no such file, a row is bad, too few rows are left, or a judge is needed and none is named.
    """
    name = Path(sources(train_path)[0].name).stem
    reading = Reading(rows=data.rows, seed=seed, say=lambda text: console.print(escape(text)))
    data.rows.check(own=True, eval_path=eval_path)
    if eval_path is None and data.rows.eval_share is None:
        eval_path = own_evaluation(train_path)
    apart = eval_path is not None or data.rows.eval_share is not None
    if apart:
        reading = replace(reading, train_limit=data.limit)
    load_train = custom_task(train_path, None, name=name, reading=reading).load_train
    chosen = chosen_task(name, eval_path, measures.judge, train_path=train_path, reading=reading)
    task = replace(chosen, name=name, load_train=load_train)
    data_dir = resolve_data_dir(data.data_dir)
    train = task.load_train(data_dir)
    if apart:
        rows = task.load_eval(data_dir)
    else:
        count = min(HELD_OUT, len(train) // 5)
        train, rows = train[: len(train) - count], train[len(train) - count :]
    return _subject(task, train, rows, train_path, data, measures, console)


def hold_back(whole: Subject, count: int) -> tuple[Subject, TaskRows]:
    """The subject without its last ``count`` training rows, and those rows as a test for choosing learning rates.

    Raises:
        UserError: no training row would be left, or the scorer can't grade the rows held back.
    """
    if count >= len(whole.train):
        raise UserError(f"--validation_rows {count} leaves none of the {len(whole.train)} training rows. Lower it.")
    train, held = whole.train[:-count], whole.train[-count:]
    scorer = next(iter(whole.task.scorers.values()))
    if not isinstance(scorer, BatchScorer) and not any(_gradable(scorer, row) for row in held):
        raise UserError(
            f"{whole.name}: its scorer can't grade training rows, so no learning rate can be chosen. Give each arm one "
            "rate."
        )
    return replace(whole, train=train), TaskRows(whole.task, held, whole.test.judge)


def fingerprint(rows: Sequence[Example]) -> str:
    """A hash of the rows in their order, as 12 hex digits."""
    sha = hashlib.sha256()
    for row in rows:
        sha.update(json.dumps(asdict(row), sort_keys=True, default=str).encode())
    return sha.hexdigest()[:12]


def _subject(
    task: Task,
    train: Sequence[Example],
    rows: Sequence[Example],
    named: str,
    data: DataOptions,
    measures: MeasureOptions,
    console: Console,
) -> Subject:
    train, rows = train[: data.limit], first_rows(rows, measures.eval_limit)
    if not rows:
        raise UserError(f"{named} leaves no evaluation rows: give at least five rows, or an evaluation file.")
    if warning := overlap_warning(task.name, train, rows):
        console.print(f"[yellow]Warning:[/yellow] {escape(warning)}")
    task, judge = with_chosen_judge(task, measures.judge, console)
    if next(iter(task.scorers)) in task.judged and judge is None:
        raise UserError(f"{task.name} is scored by a judge: give --judge_url and --judge_model, or another --scorer.")
    return Subject(task=task, train=train, test=TaskRows(task, rows, judge))


def _gradable(scorer: Scorer, row: Example) -> bool:
    return scorer(row.demonstration_text, row) is not None
