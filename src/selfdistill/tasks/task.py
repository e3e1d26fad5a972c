"""The record that describes a task. One benchmark is one file that ends in one of these."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from selfdistill.types import Example

Scorer = Callable[[str, Example], float | None]
"""Completion text and example to a score in [0, 1], or None where the sample can't be graded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A benchmark: where its rows come from and how a completion is scored."""

    name: str
    description: str
    """One line for people."""
    source: str
    """Where the data come from."""
    licence: str
    revision: str
    """Changes whenever rows or scoring change, so that results of two revisions are never compared."""
    load_train: Callable[[Path | None], list[Example]]
    """Training rows, given the data folder (None for a task whose data ship in the package)."""
    load_eval: Callable[[Path | None], list[Example]]
    """Evaluation rows, in a fixed order."""
    scorers: Mapping[str, Scorer]
    """By name; the first is the headline."""
    max_new_tokens: int
    """Longest completion in evaluation, in tokens."""
    needs_data_dir: bool = True
    """False where the data ship in the package."""
