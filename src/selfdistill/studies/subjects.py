"""What a study trains on and is tested on: a named task, or a person's own rows."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from selfdistill.errors import UserError
from selfdistill.evaluate.scorer_choice import TaskRows, chosen_task, first_rows, with_chosen_judge
from selfdistill.settings.groups import DataOptions
from selfdistill.settings.study import MeasureOptions
from selfdistill.tasks import resolve_data_dir
from selfdistill.tasks.custom import custom_task
from selfdistill.tasks.overlap import overlap_warning
from selfdistill.tasks.task import BatchScorer, Scorer, Task
from selfdistill.types import Example

HELD_OUT = 200
"""Most rows that are held out of a person's own for evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A task with the rows to train on and the test of it."""

    task: Task
    train: list[Example]
    test: TaskRows

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    def facts(self) -> dict[str, str]:
        """What makes it another subject if it changes: its rows, their order, and the scorer."""
        return {
            f"training rows of {self.name}": fingerprint(self.train),
            f"evaluation rows of {self.name}": fingerprint(self.test.examples),
            f"scorer of {self.name}": next(iter(self.task.scorers)),
        }


def named_subject(name: str, data: DataOptions, measures: MeasureOptions, console: Console) -> Subject:
    """The task of that name. Raises UserError where there is none, or it needs a judge and none is named."""
    task, data_dir = chosen_task(name, None, measures.judge), resolve_data_dir(data.data_dir)
    return _subject(task, task.load_train(data_dir), task.load_eval(data_dir), name, data, measures, console)


def own_subject(
    train_path: str, eval_path: str | None, data: DataOptions, measures: MeasureOptions, console: Console
) -> Subject:
    """A person's own rows, of which the last fifth, at most HELD_OUT, is held out where ``eval_path`` is None.

    Raises:
        UserError: there is no such file, or a row is bad.
    """
    name = Path(train_path).stem
    load_train = custom_task(train_path, None, name=name).load_train
    task = replace(chosen_task(name, eval_path or train_path, measures.judge), name=name, load_train=load_train)
    data_dir = resolve_data_dir(data.data_dir)
    train = task.load_train(data_dir)
    if eval_path is not None:
        rows = task.load_eval(data_dir)
    else:
        count = min(HELD_OUT, len(train) // 5)
        train, rows = train[: len(train) - count], train[len(train) - count :]
    return _subject(task, train, rows, train_path, data, measures, console)


def hold_back(whole: Subject, count: int) -> tuple[Subject, TaskRows]:
    """The subject without its last ``count`` training rows, and these as a test that chooses learning rates.

    Raises:
        UserError: no training row would be left, or the scorer can't grade them.
    """
    if count >= len(whole.train):
        raise UserError(f"--validation_rows {count} leaves none of the {len(whole.train)} training rows. Lower it.")
    train, held = whole.train[:-count], whole.train[-count:]
    scorer = next(iter(whole.task.scorers.values()))
    if not isinstance(scorer, BatchScorer) and not any(_gradable(scorer, row) for row in held):
        raise UserError(
            f"{whole.name}: its scorer can't grade training rows, so no learning rate can be chosen. Give one rate for "
            "each arm."
        )
    return replace(whole, train=train), TaskRows(whole.task, held, whole.test.judge)


def fingerprint(rows: Sequence[Example]) -> str:
    """Twelve hex digits that change with any row or their order."""
    sha = hashlib.sha256()
    for row in rows:
        sha.update(json.dumps(asdict(row), sort_keys=True, default=str).encode())
    return sha.hexdigest()[:12]


def _subject(
    task: Task,
    train: list[Example],
    rows: list[Example],
    named: str,
    data: DataOptions,
    measures: MeasureOptions,
    console: Console,
) -> Subject:
    train, rows = train[: data.limit], first_rows(rows, measures.eval_limit)
    if not rows:
        raise UserError(f"{named} has no evaluation rows: give five rows or more, or rows of their own.")
    if warning := overlap_warning(task.name, train, rows):
        console.print(f"[yellow]Warning:[/yellow] {escape(warning)}")
    task, judge = with_chosen_judge(task, measures.judge, console)
    if next(iter(task.scorers)) in task.judged and judge is None:
        raise UserError(f"{task.name} is scored by a judge: give --judge_url and --judge_model, or another --scorer.")
    return Subject(task=task, train=train, test=TaskRows(task, rows, judge))


def _gradable(scorer: Scorer, row: Example) -> bool:
    return scorer(row.demonstration_text, row) is not None
