"""What ``report`` and the commands that only print a list take."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from selfdistill.settings.fields import path


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Show a run or a study as one page: report.html, with report.md, results.json and tables as CSV."""

    folder: Annotated[str, tyro.conf.Positional] = path("")
    """Folder that train, eval, compare or continual wrote."""
    output: str | None = path()
    """Folder to write to; by default the same."""


@dataclass(frozen=True, kw_only=True)
class TasksOptions:
    """List the tasks."""

    markdown: bool = False
    """Print the table of docs/evaluation.md instead."""


@dataclass(frozen=True, kw_only=True)
class RecipesOptions:
    """List the settings that come with the package."""
