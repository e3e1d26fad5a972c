"""``selfdistill report``."""

from pathlib import Path

from rich.console import Console

from selfdistill.errors import UserError
from selfdistill.settings.report import ReportOptions


def run(options: ReportOptions, console: Console) -> None:
    """Writes report.html, report.md, results.json and tables/*.csv, and prints the verdict.

    Raises:
        UserError: the folder does not exist or has no results to report.
    """
    folder = Path(options.folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Name the --output_dir of a train, eval, compare or continual.")

    from selfdistill.report.collect import collect
    from selfdistill.report.write import write_report  # loads altair

    write_report(collect(folder), Path(options.output) if options.output else folder, console)
