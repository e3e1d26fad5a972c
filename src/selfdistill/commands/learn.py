"""``selfdistill learn``."""

from rich.console import Console
from rich.markup import escape

from selfdistill import run_folder
from selfdistill.settings.ledger import LearnOptions

REFUSED_CODE = 3
"""Exit code if the new weights were refused."""


def run(options: LearnOptions, console: Console) -> int:
    """Trains the ledger's model on one more skill, prints whether it was promoted and writes the report.

    Returns:
        The exit code: 0 if the new weights were promoted, 3 if they were refused.

    Raises:
        UserError: an option is wrong, or the skill can't be trained or scored.
    """
    options.check()

    from selfdistill.ledger.learn import learn  # loads torch
    from selfdistill.ledger.show import show_lost, show_verdicts
    from selfdistill.report.collect import collect
    from selfdistill.report.write import write_files

    lesson = learn(options, console)
    version, book = lesson.version, lesson.book
    show_verdicts(version, console)
    for verdict in version.verdicts:
        if verdict.refused:
            show_lost(verdict, lesson.after[verdict.skill], lesson.place / run_folder.EVAL_BEFORE, console)
    page = write_files(collect(lesson.place), lesson.place)
    if version.refused:
        lost = ", ".join(verdict.skill for verdict in version.verdicts if verdict.refused)
        kept = f"version {book.current}" if book.current else "the base model"
        console.print(f"[bold red]REFUSED[/bold red]: {escape(lost)} would be lost; {kept} stays current.")
        console.print(f"The candidate is in {escape(str(lesson.place))}. Open {escape(str(page))}")
        return REFUSED_CODE
    place = escape(str(lesson.place))
    console.print(f"[bold green]PROMOTED[/bold green]: version {version.number} is current, in {place}.")
    console.print(f"Open {escape(str(page))}")
    return 0
