"""``selfdistill compare``."""

from rich.console import Console

from selfdistill.commands import compare_and_report
from selfdistill.settings.study import CompareOptions


def run(options: CompareOptions, console: Console) -> None:
    """Runs the training runs that are not done yet, then prints the comparison and writes the report.

    Raises:
        UserError: an option is wrong, or a run can't be trained or scored.
    """
    compare_and_report(options, console)
