"""``selfdistill learn``."""

from rich.console import Console
from rich.markup import escape

from selfdistill import run_folder
from selfdistill.settings.ledger import LearnOptions

REFUSED_CODE = 3
"""Exit code where the gate refused the new weights."""


def run(options: LearnOptions, console: Console) -> int:
    """Teaches the ledger's model one more skill, says what came of it and writes the report.

    Returns:
        0 where the new weights were promoted, 3 where they were refused.

    Raises:
        UserError: anything the user can mend.
    """
    options.check()

    from selfdistill.ledger.learn import learn  # loads torch
    from selfdistill.ledger.show import show_lost, show_verdicts
    from selfdistill.report.collect import collect
    from selfdistill.report.write import write_files

    found = learn(options, console)
    version, book = found.version, found.book
    show_verdicts(version, console)
    for verdict in version.verdicts:
        if verdict.refused:
            show_lost(verdict, found.after[verdict.skill], found.place / run_folder.EVAL_BEFORE, console)
    page = write_files(collect(found.place), found.place)
    if version.refused:
        lost = ", ".join(verdict.skill for verdict in version.verdicts if verdict.refused)
        kept = f"version {book.current}" if book.current else "the base model"
        console.print(f"[bold red]REFUSED[/bold red]: {escape(lost)} would be lost; {kept} stays current.")
        console.print(f"The candidate is in {escape(str(found.place))}. Open {escape(str(page))}")
        return REFUSED_CODE
    place = escape(str(found.place))
    console.print(f"[bold green]PROMOTED[/bold green]: version {version.number} is current, in {place}.")
    console.print(f"Open {escape(str(page))}")
    return 0
