"""``selfdistill export``."""

from rich.console import Console

from selfdistill.settings.export import ExportOptions


def run(options: ExportOptions, console: Console) -> None:
    """Writes a model as what other programs load. Raises UserError as ``export``."""
    options.check()

    from selfdistill.export.run import export  # loads torch

    export(options, console)
