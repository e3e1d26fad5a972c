"""One file per command: it checks the options, calls the other packages and prints."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from selfdistill.settings.study import CompareOptions

COMPARISON_TABLES = ("compare", "tests", "equal_skill")
"""Keys of the tables of a comparison's report that are printed."""


def compare_and_report(options: "CompareOptions", console: Console) -> None:
    """Runs the training runs of a comparison that are not done yet, then prints it and writes the report.

    Raises:
        UserError: an option is wrong, or a run can't be trained or scored.
    """
    options.check()

    from selfdistill.models.loading import quiet_libraries  # loads torch
    from selfdistill.records.studies import QUESTION
    from selfdistill.report.collect import collect
    from selfdistill.report.write import print_tables, write_report
    from selfdistill.studies.compare import Comparison

    quiet_libraries()
    comparison = Comparison(options, console).run()
    folder = Path(str(options.place.output_dir))
    results = collect(folder)
    print_tables(results, COMPARISON_TABLES, console)
    console.print(f"[bold]{QUESTION}[/bold] {comparison.verdict}")
    write_report(results, folder, console)
