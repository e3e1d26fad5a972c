"""``selfdistill tasks``."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from selfdistill.settings.commands import ListOptions
from selfdistill.tasks import TASKS, resolve_data_dir
from selfdistill.tasks.overlap import overlap_share
from selfdistill.types import UserError


def run(options: ListOptions, console: Console) -> None:
    """Prints every task with its source, licence, scorers and, where the data are at hand, its counts
    and the share of evaluation prompts that are in the training rows too."""
    data_dir = resolve_data_dir(None)
    table = Table(title="tasks", title_justify="left")
    for name in ("name", "scored by", "train", "eval", "overlap", "licence", "revision"):
        is_number = name in ("train", "eval", "overlap")
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for task in TASKS.values():
        try:
            train, evaluation = task.load_train(data_dir), task.load_eval(data_dir)
            counts = [f"{len(train):,}", f"{len(evaluation):,}", f"{overlap_share(train, evaluation):.1%}"]
        except UserError:  # the data are not here
            counts = ["-", "-", "-"]
        cells = (task.name, "\n".join(task.scorers), *counts, task.licence, task.revision)
        table.add_row(*map(escape, cells))
    console.print(table)
    for task in TASKS.values():
        console.print(f"[bold]{escape(task.name)}[/bold]: {escape(task.description)} Source: {escape(task.source)}.")
    console.print("Overlap: share of evaluation prompts that are in the training rows too.")
    console.print("A dash in the table: the data are not at hand; name their folder with SELFDISTILL_DATA.")
