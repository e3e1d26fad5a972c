"""``selfdistill recipes``."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from selfdistill.settings.recipes import FOLDER, recipe_names, recipe_path
from selfdistill.settings.report import RecipesOptions


def run(options: RecipesOptions, console: Console) -> None:
    """Prints every recipe with its flag and its purpose."""
    table = Table(title="recipes", title_justify="left")
    table.add_column("use it with", overflow="fold")
    table.add_column("for")
    for name in recipe_names():
        lines = recipe_path(name).read_text(encoding="utf-8").splitlines()
        comments = [line[1:].strip() for line in lines if line.startswith("#")]
        table.add_row(escape(f"--config {name}"), escape(" ".join(comments)))
    console.print(table)
    console.print(f"The files are in {escape(str(FOLDER))}.")
