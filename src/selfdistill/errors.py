"""The one error that a user sees, and how messages are worded."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can mend. The message says what was wrong, where, and what to do next,
    in at most 40 words; the command line prints it without a traceback and exits with 2."""


class MissingDataError(UserError):
    """Rows that a task or command could have are not at hand."""


def brief(error: object, words: int = 15) -> str:
    """The first ``words`` words of a library's message, so that ours stays short."""
    parts = str(error).split()
    return " ".join(parts[:words]) + (" ..." if len(parts) > words else "")


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` with the closest of ``choices``, or nothing where none is close."""
    close = difflib.get_close_matches(name, list(choices), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def quoted(value: object, length: int = 30) -> str:
    """The value as a message quotes it: its ``repr``, cut at ``length`` characters."""
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."
