"""``selfdistill continual``."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from selfdistill.settings.study import ContinualOptions

TABLES = ("continual", "accuracy_matrix", "normalized", "sequence")
"""Keys of the report's tables that are printed; with several sequences, each table's key ends in a number."""


def run(options: ContinualOptions, console: Console) -> None:
    """Runs the stages that are not done yet, then prints what was gained and lost and writes the report.

    Raises:
        UserError: an option is wrong, or a stage can't be trained or scored.
    """
    options.check()

    from selfdistill.models.loading import quiet_libraries  # loads torch
    from selfdistill.report.collect import collect
    from selfdistill.report.glossary import MEANINGS
    from selfdistill.report.write import print_tables, write_report
    from selfdistill.studies.continual import Sequences

    quiet_libraries()
    Sequences(options, console).run()
    folder = Path(str(options.place.output_dir))
    results = collect(folder)
    print_tables(results, TABLES, console)
    write_report(results, folder, console)
    console.print(escape(f"Forgetting: {MEANINGS['forgetting']}"))
