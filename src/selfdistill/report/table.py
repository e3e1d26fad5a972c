"""What a table of the report is."""

from dataclasses import dataclass

from selfdistill.records.evaluations import DriftRecord
from selfdistill.report.contents import Estimate

Value = str | float | Estimate | None


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


DRIFT = ("kl_per_token", "reference_nll", "format_leak_rate")
"""Fields of DriftRecord that ``DRIFT_COLUMNS`` show."""
DRIFT_COLUMNS = (
    Column(title="KL a token", kind="number", meaning="kl_per_token"),
    Column(title="reference loss", kind="number", meaning="reference_nll"),
    Column(title="format leak %", kind="percent", meaning="format_leak_rate"),
)
COST_COLUMNS = (
    Column(title="tokens", kind="count", meaning="tokens"),
    Column(title="seconds", kind="count", meaning="seconds"),
)


def drift_cells(drift: DriftRecord | None) -> list[Value]:
    """Values of ``DRIFT_COLUMNS``."""
    return [None if drift is None else getattr(drift, name) for name in DRIFT]
