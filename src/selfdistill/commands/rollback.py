"""``selfdistill rollback``."""

from pathlib import Path

from rich.console import Console

from selfdistill.ledger import folder as ledger
from selfdistill.ledger.sealed import check_version
from selfdistill.ledger.show import show_ledger
from selfdistill.settings.ledger import RollbackOptions


def run(options: RollbackOptions, console: Console) -> None:
    """Makes another version current and prints the ledger.

    Raises:
        UserError: there is no such ledger or version, or the version was refused or is current.
        DamagedFilesError: the version is not as it was committed.
    """
    options.check()
    folder = Path(str(options.ledger))
    ledger.read(folder)  # before the lock, which would create the folder of a misspelt name
    with ledger.locked(folder):
        book = ledger.read(folder)
        after = ledger.rolled_back(book, options.to)
        check_version(after, after.current, weights=True)
        ledger.write(after)
        show_ledger(after, console)
