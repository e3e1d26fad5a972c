"""``selfdistill watch``."""

from pathlib import Path

from rich.console import Console

from selfdistill.errors import UserError
from selfdistill.settings.report import FolderWatchOptions


def run(options: FolderWatchOptions, console: Console) -> None:
    """Serves the report of a folder, which grows with its files, until the user leaves.

    Raises:
        UserError: the folder does not exist, or the port can't be used.
    """
    options.check()
    folder = Path(options.folder)
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder. Name the --output_dir of a train, compare or continual that was begun."
        )

    from selfdistill.report.page_live import ReportServer  # loads altair

    ReportServer(folder, options.port).serve(console, browser=not options.no_browser)
