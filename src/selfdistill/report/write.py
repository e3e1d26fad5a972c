"""Writes the report's files, and prints its verdicts and tables."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from selfdistill import run_folder
from selfdistill.report import formats, wording
from selfdistill.report.contents import Results
from selfdistill.report.render import to_html, to_markdown
from selfdistill.report.table import Table
from selfdistill.report.tables import all_tables, to_csv

NOT_PRINTED = ("step", "steps", "tokens", "validation %")
"""Titles of columns that are left out on the narrow terminal."""


def write_report(results: Results, folder: Path, console: Console) -> None:
    """Writes the report's files into ``folder``, and prints verdicts and warnings."""
    page = write_files(results, folder)
    for headline in wording.headlines(results):
        name = f" {headline.run}" if len(results.runs) > 1 else ""
        console.print(f"[bold]{wording.verdict(headline)}[/bold]{escape(name)}")
        console.print(escape(" ".join(wording.reasons(headline))))
    for warning in results.warnings:
        console.print(f"[yellow]Warning:[/yellow] {escape(warning)}")
    console.print(f"Open {escape(str(page))}")


def write_files(results: Results, folder: Path) -> Path:
    """Writes results.json, report.md, tables/*.csv and report.html; returns the page's path."""
    run_folder.write_json(folder / run_folder.REPORT_RESULTS, results)
    run_folder.write_text(folder / run_folder.REPORT_TEXT, to_markdown(results))
    for table in all_tables(results):
        run_folder.write_text(folder / run_folder.REPORT_TABLES / f"{table.name}.csv", to_csv(table))
    run_folder.write_text(folder / run_folder.REPORT_PAGE, to_html(results))
    return folder / run_folder.REPORT_PAGE


def print_tables(results: Results, names: Sequence[str], console: Console) -> None:
    """Prints the tables whose names begin with one of ``names``, in the order of the page."""
    for table in all_tables(results):
        if any(table.name.startswith(name) for name in names):
            console.print(_printed(table))


def _printed(table: Table) -> RichTable:
    shown = RichTable(title=escape(table.title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    places = [place for place, column in enumerate(table.columns) if column.title not in NOT_PRINTED]
    for column in (table.columns[place] for place in places):
        shown.add_column(column.title, justify="left" if column.kind == "text" else "right", overflow="fold")
    for row in table.rows:
        shown.add_row(*(escape(formats.cell_text(table.columns[place].kind, row[place])) for place in places))
    return shown
