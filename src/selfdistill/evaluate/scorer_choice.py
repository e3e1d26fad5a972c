"""Chooses a task's scorers: ``--scorer``, the judge that some need, and the sandbox of those that run programs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from selfdistill.data.own import Reading, files_of
from selfdistill.errors import UserError, did_you_mean
from selfdistill.evaluate.judge import Judge, judge_from, with_judge
from selfdistill.evaluate.sandbox import with_sandbox
from selfdistill.records.runs import run_in
from selfdistill.settings.evaluate import HUMANEVAL, MEASURES, EvalOptions
from selfdistill.settings.groups import JudgeOptions
from selfdistill.settings.rows import RowOptions
from selfdistill.tasks import TASKS, get_task, humaneval, resolve_data_dir
from selfdistill.tasks.custom import custom_task
from selfdistill.tasks.overlap import overlap_warning, rows_at_hand
from selfdistill.tasks.scorers import scorer_from
from selfdistill.tasks.task import Task, unscored
from selfdistill.types import Example, Scorer

JUDGE_SCORER = "judge"


@dataclass(frozen=True, slots=True)
class TaskRows:
    """A task, and those of its rows that are scored."""

    task: Task
    examples: Sequence[Example]
    judge: Judge | None = None
    """The judge that the task's scorers ask, if any."""


def chosen_task(
    name: str, path: str | None, options: JudgeOptions, *, train_path: str | None = None, reading: Reading | None = None
) -> Task:
    """The task of the user's own rows, or else the one of that name, with ``--scorer`` as its headline.

    Args:
        name: of the task.
        path: the user's own evaluation rows, as ``custom_task`` takes them.
        options: name the scorer.
        train_path: the user's own training rows.
        reading: how the user's own rows are read.

    Raises:
        UserError: there is no such task, scorer or file.
    """
    scorers: dict[str, Scorer] = {}
    if options.scorer == JUDGE_SCORER:
        scorers = {JUDGE_SCORER: unscored}
    elif options.scorer is not None:
        scorers = dict([scorer_from(options.scorer)])
    if path is not None or train_path is not None:
        task = custom_task(train_path, path, scorers=scorers or None, reading=reading)
    else:
        task = get_task(name)
        task = replace(task, scorers={**scorers, **{k: v for k, v in task.scorers.items() if k not in scorers}})
    if options.scorer == JUDGE_SCORER:
        task = replace(task, judged={JUDGE_SCORER: "correct"} | dict(task.judged))
    return task


def rows_to_score(name: str, options: EvalOptions, console: Console) -> TaskRows:
    """The task of that name in ``eval``'s options, with its rows and scorers.

    Prints a warning if evaluation prompts are also in the training rows.

    Raises:
        UserError: there is no such task, file, scorer or judge, or the task runs programs and that is not allowed.
    """
    data = options.data
    if name == HUMANEVAL:
        task = with_allowed_programs(
            humaneval.TASK, options.allow_code_execution, confined=not options.allow_unconfined_code
        )
    elif data.dataset_path is None and name not in TASKS and (hint := did_you_mean(name, MEASURES)):
        raise UserError(f"Unknown dataset name {name!r}.{hint}")
    else:
        task = _task_to_score(name, options, console)
    data_dir = resolve_data_dir(data.data_dir)
    examples = first_rows(task.load_eval(data_dir), data.limit)
    # rows of the user's own that --eval_share holds out share no prompt with the others
    train = rows_at_hand(task.load_train, data_dir) if data.rows.eval_share is None else []
    if warning := overlap_warning(task.name, train, examples) or _trained_on_warning(task.name, examples, options):
        console.print(f"[yellow]Warning:[/yellow] {escape(warning)}")
    task, judge = with_chosen_judge(task, options.judge, console)
    return TaskRows(task, examples, judge)


def _trained_on_warning(name: str, examples: Sequence[Example], options: EvalOptions) -> str | None:
    """A sentence if prompts of the data set ``name`` are in the rows that the run in ``--model_path`` was trained on.
    None if not, or if those are not a person's own rows on this machine, or were held out from."""
    run, rows = run_in(options.model_path), options.data.rows
    path = "" if run is None or run.dataset in TASKS else run.dataset
    if not path or rows.eval_share is not None:
        return None
    try:
        if not all(Path(file).exists() for file in files_of(path)):
            return None
        task = custom_task(path, None, reading=Reading(rows=RowOptions(columns=rows.columns, on_bad_row="skip")))
        return overlap_warning(name, task.load_train(None), examples, f"{path}, which the model was trained on,")
    except UserError:  # they have changed since
        return None


def _task_to_score(name: str, options: EvalOptions, console: Console) -> Task:
    """The task of ``eval``'s options; of the user's own rows with an ``--eval_share`` that share."""
    path, rows = options.data.dataset_path, options.data.rows
    reading = Reading(
        rows=rows, eval_limit=options.data.limit, for_evaluation=True, say=lambda text: console.print(escape(text))
    )
    if path is not None and rows.eval_share is not None:
        return chosen_task(name, None, options.judge, train_path=path, reading=reading)
    return chosen_task(name, path, options.judge, reading=reading)


def with_chosen_judge(task: Task, options: JudgeOptions, console: Console) -> tuple[Task, Judge | None]:
    """The task with its judged scorers asking the judge, and the judge; None if the task needs none or none is named.

    The judge is asked one question, so that a fault in it shows before any completion is made.

    Raises:
        UserError: there is no judge for ``--scorer judge``, or the judge does not work.
    """
    if not task.judged:
        if options.judge_url or options.judge_model:
            console.print(f"[yellow]Warning:[/yellow] {escape(task.name)} has no scorer that asks a judge.")
        return task, None
    judge = judge_from(options.judge_url, options.judge_model, options.judge_price)
    if judge is not None:
        judge.check()
        return with_judge(task, judge), judge
    if options.scorer == JUDGE_SCORER:
        raise UserError("--scorer judge needs a judge: give --judge_url and --judge_model.")
    names = escape(", ".join(task.judged))
    console.print(f"[yellow]Warning:[/yellow] {names} stay unscored without --judge_url and --judge_model.")
    return task, None


def with_allowed_programs(task: Task, allowed: bool, *, confined: bool = True) -> Task:
    """The task, with its programs run in the sandbox.

    Raises:
        UserError: it has programs and ``allowed`` is False, or ``confined`` is True and the system can't confine them.
    """
    if not task.programs:
        return task
    if not allowed:
        raise UserError(f"{task.name} runs programs that the model writes: give --allow_code_execution.")
    return with_sandbox(task, confined=confined)


def first_rows(rows: Sequence[Example], count: int | None) -> Sequence[Example]:
    """The first ``count`` rows, in order. If they have parts, a proportional number of each part's first rows."""
    parts: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        parts.setdefault(row.part, []).append(index)
    share = {index: (rank + 1) / len(part) for part in parts.values() for rank, index in enumerate(part)}
    return [rows[index] for index in sorted(sorted(share, key=lambda index: share[index])[:count])]


def unscored_reason(task: Task, examples: Sequence[Example], scores: Sequence[float | None]) -> str | None:
    """A sentence that says why the headline left rows unscored; None if it left none, or if it is a judge's scorer."""
    metric = next(iter(task.scorers))
    pairs = enumerate(zip(examples, scores, strict=True), start=1)
    left = [(number, row) for number, (row, score) in pairs if score is None]
    if not left or metric in task.judged:
        return None
    for number, row in left:
        if row.reference is not None and not isinstance(row.reference, str | int | float):
            kind = f"has an answer of type {type(row.reference).__name__}"
        elif row.reference is None and not row.demonstration:
            kind = "has no answer"
        else:
            continue
        return (
            f"{len(left):,} of {len(examples):,} rows of {task.name} can't be scored by {metric}: row {number} "
            f"{kind}. Give answers as text, or another --scorer."
        )
    return f"{len(left):,} of {len(examples):,} rows of {task.name} were left unscored by {metric}."
