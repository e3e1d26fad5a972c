"""``selfdistill tasks``."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from selfdistill.errors import MissingDataError, UserError
from selfdistill.settings.report import TasksOptions
from selfdistill.tasks import TASKS, humaneval, resolve_data_dir
from selfdistill.tasks.overlap import overlap_share
from selfdistill.tasks.task import Task


def run(options: TasksOptions, console: Console) -> None:
    """Prints every task with its scorers, licence and source. If its data are available, also the number of rows and
    the share of evaluation prompts that occur in the training rows."""
    if options.markdown:
        print(markdown())
        return
    data_dir = resolve_data_dir(None)
    table = Table(title="tasks", title_justify="left")
    for name in ("name", "scored by", "train", "eval", "overlap", "licence", "revision"):
        is_number = name in ("train", "eval", "overlap")
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for task in TASKS.values():
        cells = (task.name, "\n".join(task.scorers), *_counts(task, data_dir, console), task.licence, task.revision)
        table.add_row(*map(escape, cells))
    console.print(table)
    for task in TASKS.values():
        console.print(f"[bold]{escape(task.name)}[/bold]: {escape(task.description)} Source: {escape(task.source)}.")
    console.print("overlap: share of the evaluation prompts that occur in the training rows.")
    console.print("A dash means that the data were not found. Set SELFDISTILL_DATA to their folder.")


def markdown() -> str:
    """The tasks as the table of docs/evaluation.md."""
    lines = ["| task | what | scored by | source | licence |", "|---|---|---|---|---|"]
    for task in (*TASKS.values(), humaneval.TASK):
        scorers = ", ".join(f"`{name}`" + (" (judge)" if name in task.judged else "") for name in task.scorers)
        lines.append(f"| `{task.name}` | {task.description} | {scorers} | {task.source} | {task.licence} |")
    return "\n".join(lines)


def _counts(task: Task, data_dir: Path | None, console: Console) -> tuple[str, str, str]:
    """Training rows, evaluation rows and overlap; dashes if the data are missing or, with a warning, broken."""
    try:
        train, evaluation = task.load_train(data_dir), task.load_eval(data_dir)
    except MissingDataError:
        return "-", "-", "-"
    except UserError as error:
        console.print(f"[yellow]Warning:[/yellow] {escape(str(error))}")
        return "-", "-", "-"
    return f"{len(train):,}", f"{len(evaluation):,}", f"{overlap_share(train, evaluation):.1%}"
