"""``selfdistill compare``."""

from pathlib import Path

from rich.console import Console

from selfdistill.records.studies import QUESTION
from selfdistill.settings.study import CompareOptions

TABLES = ("compare", "tests", "equal_skill")
"""Tables of the report that are printed."""


def run(options: CompareOptions, console: Console) -> None:
    """Runs every cell that isn't done, then says how the arms compare.

    Raises:
        UserError: anything the user can mend.
    """
    options.check()

    from selfdistill.models.loading import quiet_libraries  # loads torch
    from selfdistill.report.collect import collect
    from selfdistill.report.write import print_tables, write_report
    from selfdistill.studies.compare import Comparison

    quiet_libraries()
    found = Comparison(options, console).run()
    folder = Path(str(options.place.output_dir))
    results = collect(folder)
    print_tables(results, TABLES, console)
    console.print(f"[bold]{QUESTION}[/bold] {found.verdict}")
    write_report(results, folder, console)
