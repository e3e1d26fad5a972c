"""What the processes of the sandbox tell each other: values as JSON, between a program and its tests.

Only plain data pass, so that no code and no method of the program, such as an ``__eq__`` that is always true, reaches
the tests.

Only the standard library is imported, since the processes run without any other package.
"""

import math
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from typing import Any

NO_WALL = 73
"""Exit code of a process that could not build its wall, and therefore ran nothing."""
MOST_ITEMS = 100_000
"""Items read of an iterator, which may have no end."""


class Other:
    """A value of some type that does not pass. It equals nothing; it can be iterated over if the value could be."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, kind: str, items: list[Any] | None) -> None:
        self.kind = kind
        self.items = items

    def __eq__(self, other: object) -> bool:
        return False

    def __iter__(self) -> Any:
        if self.items is None:
            raise TypeError(f"'{self.kind}' object is not iterable")
        return iter(self.items)

    def __repr__(self) -> str:
        return f"<{self.kind}>"


def encoded(value: Any) -> Any:
    """A value as something that JSON holds: itself, or a list of a tag and its parts."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return ["int", hex(value)]  # decimal digits would take quadratic time
    if isinstance(value, float):
        return ["float", "nan" if math.isnan(value) else float.hex(value)]
    if isinstance(value, complex):
        return ["complex", encoded(value.real), encoded(value.imag)]
    if isinstance(value, bytes | bytearray):
        return ["bytes", value.hex()]
    if isinstance(value, Decimal):
        return ["Decimal", str(value)]
    if isinstance(value, Fraction):
        return ["Fraction", hex(value.numerator), hex(value.denominator)]
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return [kind.__name__, [encoded(item) for item in value]]
    if isinstance(value, dict):
        return ["dict", [[encoded(key), encoded(item)] for key, item in value.items()]]
    try:
        items = [encoded(item) for item in islice(iter(value), MOST_ITEMS)]
    except TypeError:
        items = None
    return ["other", type(value).__name__, items]


def decoded(data: Any) -> Any:
    """The value of what ``encoded`` made. Raises ValueError, TypeError or KeyError for anything else."""
    if data is None or isinstance(data, bool | str):
        return data
    kind, *parts = data
    if kind == "other":
        name, items = parts
        return Other(str(name)[:100], None if items is None else [decoded(item) for item in items])
    if kind == "complex":
        return complex(*map(decoded, parts))
    if kind == "Fraction":
        return Fraction(int(parts[0], 16), int(parts[1], 16))
    if kind == "dict":
        return {decoded(key): decoded(item) for key, item in parts[0]}
    if kind in ("list", "tuple", "set", "frozenset"):
        make = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind]
        return make([decoded(item) for item in parts[0]])
    scalar = {"int": _integer, "float": float.fromhex, "bytes": bytes.fromhex, "Decimal": Decimal}
    return scalar[kind](parts[0])


def _integer(digits: str) -> int:
    return int(digits, 16)
