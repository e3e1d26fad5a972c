"""What a table of the report is."""

from dataclasses import dataclass

from selfdistill.report.contents import Measure

Value = str | float | Measure | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column: its title, how its values are written, and what they mean."""

    title: str
    kind: str = "text"
    """text, count, number, rate, percent, points, p, or heat (a percentage on a shaded cell)."""
    meaning: str = ""
    """Key of the glossary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table: its file name, title, columns and rows of values."""

    name: str
    section: str
    """Heading of the page it stands under."""
    title: str
    columns: list[Column]
    rows: list[list[Value]]
