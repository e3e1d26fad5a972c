"""How ``eval`` scores: ``--scorer``, and the judge that some scorers need."""

from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from selfdistill.settings.commands import EvalOptions
from selfdistill.tasks import get_task
from selfdistill.tasks.custom import custom_task
from selfdistill.tasks.scorers import scorer_from
from selfdistill.tasks.task import Scorer, Task, unjudged
from selfdistill.types import UserError

if TYPE_CHECKING:
    from selfdistill.evaluate.judge import Judge

JUDGE_SCORER = "judge"


def chosen_task(name: str, options: EvalOptions) -> Task:
    """The task of ``--dataset_path``, or else the one named, with the scorer of ``--scorer`` as its headline.

    Raises:
        UserError: there is no such task, scorer or file.
    """
    scorers: dict[str, Scorer] = {}
    if options.scorer == JUDGE_SCORER:
        scorers = {JUDGE_SCORER: unjudged}
    elif options.scorer is not None:
        scorers = dict([scorer_from(options.scorer)])
    if options.dataset_path is not None:
        task = custom_task(None, options.dataset_path, scorers=scorers or None)
    else:
        task = get_task(name)
        task = replace(task, scorers={**scorers, **{k: v for k, v in task.scorers.items() if k not in scorers}})
    if options.scorer == JUDGE_SCORER:
        task = replace(task, judged={JUDGE_SCORER: "correct"} | dict(task.judged))
    return task


def with_chosen_judge(task: Task, options: EvalOptions, console: Console) -> tuple[Task, "Judge | None"]:
    """The task with its judged scorers asking the judge, if it has any and a judge is named.

    The judge is asked one question, so that what is wrong with it shows before any completion is made.

    Raises:
        UserError: ``--scorer judge`` without a judge, or a judge that does not work.
    """
    if not task.judged:
        if options.judge_url or options.judge_model:
            console.print(f"[yellow]Warning:[/yellow] {escape(task.name)} has no scorer that asks a judge.")
        return task, None
    from selfdistill.evaluate.judge import judge_from, with_judge

    judge = judge_from(options.judge_url, options.judge_model, options.judge_price)
    if judge is not None:
        judge.check()
        return with_judge(task, judge), judge
    if options.scorer == JUDGE_SCORER:
        raise UserError("--scorer judge needs a judge: give --judge_url and --judge_model.")
    names = escape(", ".join(task.judged))
    console.print(f"[yellow]Warning:[/yellow] {names} stay unscored without --judge_url and --judge_model.")
    return task, None
