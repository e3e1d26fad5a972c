"""Formats values for people. ``kind`` is a column's, see ``report.table.Column``."""

from selfdistill.report.contents import Estimate
from selfdistill.report.table import Value

MINUS = "\N{MINUS SIGN}"


def main_text(kind: str, value: Value) -> str:
    """A cell without its interval: ``unscored`` for a mean of nothing, empty if there is no value."""
    number = value.value if isinstance(value, Estimate) else value
    if number is None:
        return "unscored" if isinstance(value, Estimate) else ""
    if isinstance(number, str):
        return number
    if kind in ("percent", "heat"):
        return f"{100 * number:.1f}".replace("-", MINUS)
    if kind == "points":
        return signed(100 * number)
    if kind == "p":
        return p_text(number)
    if kind == "rate":
        return rate_text(number)
    if kind == "count":
        return f"{number:,.0f}"
    return number_text(number)


def interval_text(kind: str, value: Value) -> str:
    """A cell's interval in brackets; empty if it has none."""
    if not isinstance(value, Estimate) or value.value is None or value.low is None or value.high is None:
        return ""
    write = signed if kind == "points" else "{:.1f}".format
    return f"[{write(100 * value.low)}, {write(100 * value.high)}]"


def cell_text(kind: str, value: Value) -> str:
    """A cell with its interval."""
    return f"{main_text(kind, value)} {interval_text(kind, value)}".strip()


def sort_key(value: Value) -> float | str:
    """The value by which a column is sorted; empty if there is none."""
    number = value.value if isinstance(value, Estimate) else value
    return "" if number is None else number


def signed(points: float) -> str:
    """Percentage points with a sign, such as ``+4.0`` or ``−4.0``; zero has none."""
    text = f"{abs(points):.1f}"
    return text if float(text) == 0 else f"{'+' if points > 0 else MINUS}{text}"


def p_text(p_value: float) -> str:
    """A p-value with four decimal places, or ``<0.0001``."""
    return "<0.0001" if p_value < 0.0001 else f"{p_value:.4f}"


def rate_text(rate: float) -> str:
    """A learning rate, such as ``1e-4`` or ``2.5e-5``."""
    digits, exponent = f"{rate:.2e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def number_text(value: float) -> str:
    """A number with three significant digits; whole numbers and those from 100 have no decimal places."""
    if value == int(value) and abs(value) < 1e15:
        return f"{value:,.0f}".replace("-", MINUS)
    digits = ",.0f" if abs(value) >= 100 else ".3f" if 0.001 <= abs(value) < 1 else "#.3g"
    return f"{value:{digits}}".replace("-", MINUS)
