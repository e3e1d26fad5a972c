"""``selfdistill compare``."""

from pathlib import Path

from rich.console import Console

from selfdistill.records.studies import QUESTION
from selfdistill.settings.study import CompareOptions

TABLES = ("compare", "tests", "equal_skill")
"""Keys of the report's tables that are printed."""


def run(options: CompareOptions, console: Console) -> None:
    """Runs the training runs that are not done yet, then prints the comparison and writes the report.

    Raises:
        UserError: an option is wrong, or a run can't be trained or scored.
    """
    options.check()

    from selfdistill.models.loading import quiet_libraries  # loads torch
    from selfdistill.report.collect import collect
    from selfdistill.report.write import print_tables, write_report
    from selfdistill.studies.compare import Comparison

    quiet_libraries()
    comparison = Comparison(options, console).run()
    folder = Path(str(options.place.output_dir))
    results = collect(folder)
    print_tables(results, TABLES, console)
    console.print(f"[bold]{QUESTION}[/bold] {comparison.verdict}")
    write_report(results, folder, console)
