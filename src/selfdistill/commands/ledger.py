"""``selfdistill ledger``."""

from pathlib import Path

from rich.console import Console

from selfdistill.ledger import folder as ledger
from selfdistill.ledger.show import show_ledger
from selfdistill.settings.ledger import LedgerOptions


def run(options: LedgerOptions, console: Console) -> None:
    """Prints the ledger in a folder. Raises UserError if there is none."""
    show_ledger(ledger.read(Path(options.folder)), console)
