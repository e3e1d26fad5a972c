"""How a setting is declared: with its range, as a path, or as a JSON object."""

import json
import math
from collections.abc import Sequence
from dataclasses import field, fields
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from tyro.constructors import PrimitiveConstructorSpec

from selfdistill.errors import UserError

SMALL = 1e-12
"""Stands for an open end of a range."""


class Range(NamedTuple):
    """The numbers that a setting may be, ends included."""

    low: float
    high: float
    words: str
    """Follows "is not" in a message."""


def number(default: float | None, low: float, high: float, words: str) -> Any:
    """A dataclass field whose value must lie in [low, high], or be None where its type has that."""
    return field(default=default, metadata={"range": Range(low, high, words)})


def at_least(low: float, default: float | None) -> Any:
    """A dataclass field whose value must be ``low`` or more, or None where its type has that."""
    return number(default, low, math.inf, f"at least {low:g}")


def path(default: str | None = None) -> Any:
    """A dataclass field that names a file or folder: ``~`` in it is the home folder."""
    return field(default=default, metadata={"path": True})


def check_fields(settings: Any, of: type | None = None, *, open_choices: Sequence[str] = ()) -> None:
    """Checks ranges, and choices of fields whose type is a Literal.

    Args:
        settings: a dataclass instance.
        of: the dataclass whose fields are checked, by default that of ``settings``.
        open_choices: fields whose choices are a table elsewhere.

    Raises:
        UserError: a field is wrong; the message names the first one, its value and what it may be.
    """
    hints = get_type_hints(of or type(settings))
    for each in fields(of or settings):
        value, range_ = getattr(settings, each.name), each.metadata.get("range")
        if get_origin(hints[each.name]) is Literal and each.name not in open_choices:
            _check_choice(each.name, value, get_args(hints[each.name]))
        if range_ is None or (value is None and type(None) in get_args(hints[each.name])):
            continue
        size = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
        if not range_.low <= size <= range_.high:  # NaN fails every comparison
            raise UserError(f"{each.name}: {value!r} is not {range_.words}.")


def _check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UserError(f"{name}: {value!r} is not one of {', '.join(choices)}.")


def _json_object(words: list[str]) -> dict[str, Any]:
    try:
        value = json.loads(words[0])
    except ValueError as error:
        raise ValueError(f"{words[0]} is not JSON: write it as '{{\"name\": value}}'") from error
    if not isinstance(value, dict):
        raise ValueError(f"{words[0]} is no JSON object: write it as '{{\"name\": value}}'")
    return value


JsonObject = Annotated[
    dict[str, Any],
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=_json_object,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [json.dumps(value)],
    ),
]
"""A mapping that the command line takes as JSON."""
