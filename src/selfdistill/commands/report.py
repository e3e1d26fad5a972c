"""``selfdistill report``."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from selfdistill.settings.commands import ReportOptions
from selfdistill.types import UserError


def run(options: ReportOptions, console: Console) -> None:
    """Writes report.html, report.md, results.json and tables/*.csv, and prints the verdict.

    Raises:
        UserError: the folder does not exist or holds nothing to report on.
    """
    folder = Path(options.folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Name the --output_dir of a train, compare or continual.")

    from selfdistill.report import collect, render, wording  # loads altair

    results = collect.collect(folder)
    page = render.write(results, Path(options.output) if options.output else folder)
    for headline in wording.headlines(results):
        name = f" {headline.run}" if len(results.runs) > 1 else ""
        console.print(f"[bold]{wording.verdict(headline)}[/bold]{escape(name)}")
        console.print(escape(" ".join(wording.reasons(headline))))
    for warning in results.warnings:
        console.print(f"[yellow]Warning:[/yellow] {escape(warning)}")
    console.print(f"Open {escape(str(page))}")
