"""Tables of the report as data: columns, rows and values."""

from dataclasses import dataclass

from selfdistill.records.evaluations import DriftRecord
from selfdistill.report.contents import Estimate

Value = str | float | Estimate | None
"""A cell. Shares and differences of shares are in [0, 1] and [-1, 1]; None is an empty cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column: its title, the format of its values, and their meaning."""

    title: str
    kind: str = "text"
    """text, count, number, rate, percent, points, p, or heat (a percentage on a shaded cell)."""
    meaning: str = ""
    """Key of the glossary; empty for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table: its name, title, columns and rows of values."""

    name: str
    """Names its CSV file."""
    section: str
    """Section of the page that shows it."""
    title: str
    columns: list[Column]
    rows: list[list[Value]]


DRIFT_FIELDS = ("kl_per_token", "reference_nll", "format_leak_rate")
"""Fields of DriftRecord, in the order of ``DRIFT_COLUMNS``."""
DRIFT_COLUMNS = (
    Column(title="KL per token", kind="number", meaning="kl_per_token"),
    Column(title="reference loss", kind="number", meaning="reference_nll"),
    Column(title="format leak %", kind="percent", meaning="format_leak_rate"),
)
COST_COLUMNS = (
    Column(title="tokens", kind="count", meaning="tokens"),
    Column(title="seconds", kind="count", meaning="seconds"),
)


def drift_cells(drift: DriftRecord | None) -> list[Value]:
    """The values of ``DRIFT_COLUMNS``; None for each if there is no drift."""
    return [None if drift is None else getattr(drift, name) for name in DRIFT_FIELDS]
