"""``selfdistill tasks``."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from selfdistill.options import ListOptions
from selfdistill.tasks import TASKS, resolve_data_dir
from selfdistill.types import UserError


def run(options: ListOptions, console: Console) -> None:
    """Prints every task with its source, licence, scorers and, where the data are at hand, its counts."""
    data_dir = resolve_data_dir(None)
    table = Table(title="tasks", title_justify="left")
    for name in ("name", "scored by", "train", "eval", "licence", "revision"):
        table.add_column(name, justify="right" if name in ("train", "eval") else "left", overflow="fold")
    for task in TASKS.values():
        try:
            counts = [f"{len(load(data_dir)):,}" for load in (task.load_train, task.load_eval)]
        except UserError:  # the data are not here
            counts = ["-", "-"]
        cells = (task.name, ", ".join(task.scorers), *counts, task.licence, task.revision)
        table.add_row(*map(escape, cells))
    console.print(table)
    for task in TASKS.values():
        console.print(f"[bold]{escape(task.name)}[/bold]: {escape(task.description)} Source: {escape(task.source)}.")
    console.print("A dash in the table: the data are not at hand; name their folder with SELFDISTILL_DATA.")
