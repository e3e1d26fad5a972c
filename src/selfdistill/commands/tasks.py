"""``selfdistill tasks``."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from selfdistill.errors import UserError
from selfdistill.settings.report import TasksOptions
from selfdistill.tasks import TASKS, humaneval, resolve_data_dir
from selfdistill.tasks.overlap import overlap_share
from selfdistill.tasks.task import Task


def run(options: TasksOptions, console: Console) -> None:
    """Prints every task with its source, licence, scorers and, where the data are at hand, its counts
    and the share of evaluation prompts that are in the training rows too."""
    if options.markdown:
        print(markdown())
        return
    data_dir = resolve_data_dir(None)
    table = Table(title="tasks", title_justify="left")
    for name in ("name", "scored by", "train", "eval", "overlap", "licence", "revision"):
        is_number = name in ("train", "eval", "overlap")
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for task in TASKS.values():
        cells = (task.name, "\n".join(task.scorers), *_counts(task, data_dir), task.licence, task.revision)
        table.add_row(*map(escape, cells))
    console.print(table)
    for task in TASKS.values():
        console.print(f"[bold]{escape(task.name)}[/bold]: {escape(task.description)} Source: {escape(task.source)}.")
    console.print("Overlap: share of evaluation prompts that are in the training rows too.")
    console.print("A dash in the table: the data are not at hand; name their folder with SELFDISTILL_DATA.")


def markdown() -> str:
    """The tasks as the table of docs/evaluation.md."""
    lines = ["| task | what | scored by | source | licence |", "|---|---|---|---|---|"]
    for task in (*TASKS.values(), humaneval.TASK):
        scorers = ", ".join(f"`{name}`" + (" (judge)" if name in task.judged else "") for name in task.scorers)
        lines.append(f"| `{task.name}` | {task.description} | {scorers} | {task.source} | {task.licence} |")
    return "\n".join(lines)


def _counts(task: Task, data_dir: Path | None) -> tuple[str, str, str]:
    try:
        train, evaluation = task.load_train(data_dir), task.load_eval(data_dir)
    except UserError:  # the data are not here
        return "-", "-", "-"
    return f"{len(train):,}", f"{len(evaluation):,}", f"{overlap_share(train, evaluation):.1%}"
