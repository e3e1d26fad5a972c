"""``selfdistill ledger``: the versions and skills of a ledger."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from selfdistill.ledger import folder as ledger
from selfdistill.ledger.folder import BASE, Ledger, Verdict
from selfdistill.ledger.forgetting_test import smallest_loss_refused
from selfdistill.settings.ledger import LedgerOptions


def run(options: LedgerOptions, console: Console) -> None:
    """Prints the ledger in a folder. Raises UserError where there is none."""
    show(ledger.read(Path(options.folder).expanduser()), console)


def show(book: Ledger, console: Console) -> None:
    """Versions with their lineage, the skills held with their scores, and where the current model is."""
    console.print(_versions(book))
    if book.lineage():
        console.print(_skills(book))
    for path in book.unrecorded():
        console.print(f"[dim]{escape(str(path))} is no version: an interrupted learn left it. It may be deleted.[/dim]")
    console.print(f"Current model: {escape(book.model_name(book.current))}")


def _versions(book: Ledger) -> Table:
    table = Table(title=f"versions in {escape(str(book.folder))}", title_justify="left")
    for name in ("version", "from", "status", "skill", "rows", "method", "created"):
        table.add_column(name, justify="right" if name in ("version", "from", "rows") else "left", overflow="fold")
    table.add_row(str(BASE), "", book.status(BASE), f"[dim]base: {escape(book.base)}[/dim]")
    for version in book.versions:
        status = book.status(version.number)
        table.add_row(
            str(version.number),
            str(version.parent),
            f"[bold]{status}[/bold]" if status == "current" else status,
            escape(version.skill.name),
            f"{version.skill.num_rows:,}",
            f"{version.method.get('method')}, lr {version.method.get('learning_rate')}",
            version.created[:16].replace("T", " "),
        )
    return table


def _skills(book: Ledger) -> Table:
    """The skills held: when they were learned, how they are scored, and what became of them."""
    table = Table(title="skills held", title_justify="left")
    for name in ("skill", "since", "scorer", "items", "before", "learned", "now", "gate sees from"):
        table.add_column(name, justify="left" if name in ("skill", "scorer") else "right", overflow="fold")
    lineage = book.lineage()
    current = lineage[-1]
    latest = {verdict.skill: verdict for verdict in current.verdicts}
    for version in lineage:
        learned: Verdict = version.verdicts[-1]
        sees = smallest_loss_refused(learned.num_items, current.max_forgetting, current.confidence)
        table.add_row(
            escape(version.skill.name),
            str(version.number),
            escape(version.skill.metric),
            str(learned.num_items),
            f"{learned.then:.1%}",
            f"{learned.now:.1%}",
            f"{latest[version.skill.name].now:.1%}",
            "nothing" if sees is None else f"{-100 * sees:.1f} points",
        )
    return table
