"""Options of ``report``, ``watch``, ``tasks`` and ``recipes``."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from selfdistill.settings.fields import check_fields, check_port, path

WATCH_PORT = 7870


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Write a report on a run or a study: report.html, report.md, results.json and tables as CSV."""

    folder: Annotated[str, tyro.conf.Positional] = path(".")
    """output_dir of a train, eval, compare or continual."""
    output: str | None = path()
    """Folder to write to; by default the same folder."""


@dataclass(frozen=True, kw_only=True)
class FolderWatchOptions:
    """Show the report of a run or a study in the browser while it grows, on a page on 127.0.0.1."""

    folder: Annotated[str, tyro.conf.Positional] = path(".")
    """output_dir of a train, compare or continual; it may be empty yet."""
    port: int = WATCH_PORT
    """Port of the page; 0 takes any free port."""
    no_browser: bool = False
    """Print the page's address, and open no browser."""

    def check(self) -> None:
        """Raises UserError if the port is none."""
        check_fields(self)
        check_port(self.port)


@dataclass(frozen=True, kw_only=True)
class TasksOptions:
    """List the tasks: scorers, number of rows, licence and source."""

    markdown: bool = False
    """Print them as the Markdown table of docs/evaluation.md instead."""


@dataclass(frozen=True, kw_only=True)
class RecipesOptions:
    """List the recipes: files with settings, for --config."""
