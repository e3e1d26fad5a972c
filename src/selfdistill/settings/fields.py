"""Declarations of settings: fields with a range, paths, JSON objects; and the check of their values."""

import json
import math
from collections.abc import Sequence
from dataclasses import field, fields
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from tyro.constructors import PrimitiveConstructorSpec

from selfdistill.errors import UserError

SMALL = 1e-12
"""Distance from an end of a range that is itself excluded."""


class Range(NamedTuple):
    """Allowed numbers, ends included."""

    low: float
    high: float
    words: str
    """The range in words; a message puts them after "is not"."""


def number(default: float | None, low: float, high: float, words: str) -> Any:
    """A dataclass field for a number in [low, high]; None is allowed if the field's type allows it.

    ``words`` describe the range in messages, after "is not".
    """
    return field(default=default, metadata={"range": Range(low, high, words)})


def at_least(low: float, default: float | None) -> Any:
    """A dataclass field for a number of at least ``low``; None is allowed if the field's type allows it."""
    return number(default, low, math.inf, f"at least {low:g}")


def path(default: str | None = None) -> Any:
    """A dataclass field for a file or folder: a leading ``~`` stands for the home folder."""
    return field(default=default, metadata={"path": True})


def data() -> Any:
    """A dataclass field for what ``sources`` reads: files, folders, patterns and Hub ids, separated by commas. A
    leading ``~`` of each stands for the home folder."""
    return field(default=None, metadata={"path": True, "sources": True})


def check_fields(settings: Any, of: type | None = None, *, open_choices: Sequence[str] = ()) -> None:
    """Checks the ranges of numbers, and that fields of a Literal type hold one of its values.

    Args:
        settings: a dataclass instance.
        of: class whose fields are checked; by default all fields of ``settings``.
        open_choices: fields of a Literal type that are not checked here, since a table elsewhere lists their choices.

    Raises:
        UserError: a value is not allowed. The message names the first such field, its value and what is allowed.
    """
    hints = get_type_hints(of or type(settings))
    for setting in fields(of or settings):
        name, hint, range_ = setting.name, hints[setting.name], setting.metadata.get("range")
        value = getattr(settings, name)
        if get_origin(hint) is Literal and name not in open_choices:
            _check_choice(name, value, get_args(hint))
        if range_ is None or (value is None and type(None) in get_args(hint)):
            continue
        size = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
        if not range_.low <= size <= range_.high:  # NaN fails every comparison
            raise UserError(f"{name}: {value!r} is not {range_.words}.")


def _check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UserError(f"{name}: {value!r} is not one of {', '.join(choices)}.")


def _json_object(words: list[str]) -> dict[str, Any]:
    try:
        value = json.loads(words[0])
    except ValueError as error:
        raise ValueError(f"{words[0]} is not JSON: write it as '{{\"name\": value}}'") from error
    if not isinstance(value, dict):
        raise ValueError(f"{words[0]} is not a JSON object: write it as '{{\"name\": value}}'")
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
"""A mapping, written as a JSON object on the command line."""


def check_port(port: int) -> None:
    """Raises UserError if ``--port`` names none."""
    if not 0 <= port <= 65535:
        raise UserError(f"--port {port} is no port. Give one from 1 to 65535, or 0 for any free one.")
