"""Values as people read them."""

from selfdistill.report.contents import Estimate
from selfdistill.report.table import Value

MINUS = "\N{MINUS SIGN}"


def main_text(kind: str, value: Value) -> str:
    """A cell without its interval; empty where there is no value."""
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
    """The interval of a cell in brackets; empty where there is none."""
    if not isinstance(value, Estimate) or value.value is None or value.low is None or value.high is None:
        return ""
    write = signed if kind == "points" else "{:.1f}".format
    return f"[{write(100 * value.low)}, {write(100 * value.high)}]"


def cell_text(kind: str, value: Value) -> str:
    """A whole cell in one line."""
    return f"{main_text(kind, value)} {interval_text(kind, value)}".strip()


def sort_key(value: Value) -> float | str:
    """What a column is sorted by; empty where there is no value."""
    number = value.value if isinstance(value, Estimate) else value
    return "" if number is None else number


def signed(points: float) -> str:
    """``+4.0`` or ``−4.0``; zero without a sign."""
    text = f"{abs(points):.1f}"
    return text if float(text) == 0 else f"{'+' if points > 0 else MINUS}{text}"


def p_text(p_value: float) -> str:
    """A p-value: four digits, or a bound."""
    return "<0.0001" if p_value < 0.0001 else f"{p_value:.4f}"


def rate_text(rate: float) -> str:
    """A learning rate: ``1e-4``, ``3e-5``."""
    digits, exponent = f"{rate:.2e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def number_text(value: float) -> str:
    """Three significant digits, whole numbers whole."""
    if value == int(value) and abs(value) < 1e15:
        return f"{value:,.0f}".replace("-", MINUS)
    digits = ",.0f" if abs(value) >= 100 else ".3f" if 0.001 <= abs(value) < 1 else "#.3g"
    return f"{value:{digits}}".replace("-", MINUS)
