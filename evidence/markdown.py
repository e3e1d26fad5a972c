"""Formats figures and tables for the page."""

from collections.abc import Callable, Sequence

from selfdistill.report.formats import MINUS, signed
from selfdistill.stats.seeds import over_seeds


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, empty lines around it; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|--:" * (len(heads) - 1) + "|"]
    return ["", *lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def percent(values: Sequence[float]) -> str:
    """Mean of shares in percent, and over several seeds their deviation: ``62.5 ± 3.1``."""
    return _spread(values, lambda value: f"{100 * value:.1f}")


def number(values: Sequence[float], digits: int = 3) -> str:
    """Mean, and over several seeds the deviation, with ``digits`` decimal places."""
    return _spread(values, lambda value: f"{value:.{digits}f}".replace("-", MINUS))


def points(values: Sequence[float]) -> str:
    """Mean of differences of shares in percentage points with its sign, and over several seeds the deviation."""
    found = over_seeds(values)
    several = f" ± {100 * found.deviation:.1f}" if len(values) > 1 else ""
    return signed(100 * found.mean) + several


def _spread(values: Sequence[float], write: Callable[[float], str]) -> str:
    found = over_seeds(values)
    return write(found.mean) + (f" ± {write(found.deviation)}" if len(values) > 1 else "")
