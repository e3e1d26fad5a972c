"""``selfdistill continual``."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from selfdistill.settings.study import ContinualOptions

TABLES = ("continual", "accuracy_matrix", "normalized", "sequence")
"""Tables of the report that are printed; of several sequences each has a number behind its name."""


def run(options: ContinualOptions, console: Console) -> None:
    """Runs every stage that isn't done, then says what the sequences gained and lost.

    Raises:
        UserError: anything the user can mend.
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
