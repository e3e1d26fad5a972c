"""Options of ``report``, ``tasks`` and ``recipes``."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from selfdistill.settings.fields import path


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Write a report on a run or a study: report.html, report.md, results.json and tables as CSV."""

    folder: Annotated[str, tyro.conf.Positional] = path(".")
    """output_dir of a train, eval, compare or continual."""
    output: str | None = path()
    """Folder to write to; by default the same folder."""


@dataclass(frozen=True, kw_only=True)
class TasksOptions:
    """List the tasks: scorers, number of rows, licence and source."""

    markdown: bool = False
    """Print them as the Markdown table of docs/evaluation.md instead."""


@dataclass(frozen=True, kw_only=True)
class RecipesOptions:
    """List the recipes: files with settings, for --config."""
