"""The errors that users see, and helpers for their messages."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can fix. The message says what was wrong, where, and what to do, in at most 40 words. The
    command line prints it without a traceback and exits with code 2."""


class MissingDataError(UserError):
    """Data that a task or command can use were not found."""


def brief(error: object, words: int = 15) -> str:
    """The first ``words`` words of a message, for quoting a library's error."""
    parts = str(error).split()
    return " ".join(parts[:words]) + (" ..." if len(parts) > words else "")


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` with the closest of ``choices``, or an empty string if none is close."""
    close = difflib.get_close_matches(name, list(choices), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def quoted(value: object, length: int = 30) -> str:
    """The ``repr`` of a value for a message, at most ``length`` characters long."""
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."
