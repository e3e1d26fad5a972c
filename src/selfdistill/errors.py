"""The errors that users see, and helpers for their messages."""

import difflib
import re
import reprlib
from collections.abc import Iterable
from itertools import islice
from typing import Any

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters, but for tab and line feed."""


class _ShortRepr(reprlib.Repr):
    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        """As in Repr, but in the dict's own order."""
        if level <= 0:
            return "{...}"
        shown = [f"{self.repr1(key, level - 1)}: {self.repr1(x[key], level - 1)}" for key in islice(x, self.maxdict)]
        return "{" + ", ".join([*shown, "..."] if len(x) > self.maxdict else shown) + "}"


_SHORT = _ShortRepr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 200, 200, 200
"""The ``repr`` of a value without its deeper and later parts, which may be many even in a small file."""


class UserError(ValueError):
    """Something the user can fix. The message says what was wrong, where, and what to do, in at most 40 words. The
    command line prints it without a traceback and exits with ``exit_code``."""

    exit_code = 2


class NumbersError(UserError):
    """Numbers that training can't go on with, since they are not finite."""

    exit_code = 4


class DiskError(UserError):
    """Something that can't be written or deleted."""

    exit_code = 5


class DamagedFilesError(UserError):
    """Files that are not as they were written."""

    exit_code = 6


class EngineError(UserError):
    """A rollout engine or a teacher's server that failed while it was used, or an engine that samples from other
    weights than it was given."""

    exit_code = 7


class StoppedError(UserError):
    """A command that was told to stop, and has kept what is done.

    Args:
        message: what was kept, and how to go on.
        number: of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class TerminatedError(BaseException):
    """SIGTERM: as KeyboardInterrupt, it ends a command wherever it is."""


class MissingDataError(UserError):
    """Data that a task or command can use were not found."""


class EmptyRowError(UserError):
    """A row has no prompt or no demonstration, though it has a place for it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the computer or of a GPU is full."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


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
    try:
        text = _SHORT.repr(value)
    except ValueError:  # an integer of too many digits
        text = f"a {type(value).__name__} too long to show"
    return text if len(text) <= length else text[: length - 3] + "..."


def printable(text: str) -> str:
    """The text with a replacement character for each control character that a terminal would obey."""
    return CONTROL.sub("\ufffd", text.replace("\r\n", "\n"))
