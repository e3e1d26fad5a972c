"""``selfdistill rollback``."""

from pathlib import Path

from rich.console import Console

from selfdistill.ledger import folder as ledger
from selfdistill.ledger.show import show_ledger
from selfdistill.settings.ledger import RollbackOptions


def run(options: RollbackOptions, console: Console) -> None:
    """Makes an earlier version current and prints the ledger.

    Raises:
        UserError: there is no such ledger or version.
    """
    options.check()
    folder = Path(str(options.ledger))
    ledger.read(folder)  # before the lock, whose file would make a folder of a misspelt name
    with ledger.locked(folder):
        show_ledger(ledger.roll_back(ledger.read(folder), options.to), console)
