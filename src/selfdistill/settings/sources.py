"""What ``--dataset_path`` names: files, folders, patterns and Hub data sets, each with a weight."""

import glob
import os
import re
from typing import NamedTuple

from selfdistill.errors import UserError

_WEIGHT = re.compile(r"(.+):(\d+(?:\.\d*)?|\.\d+)")
_PATTERN = re.compile(r"[*?\[]")


class Source(NamedTuple):
    """One of the sources of a data set."""

    name: str
    """A file, a folder, a pattern or a Hub id."""
    weight: float | None = None
    """What was written behind the name; None if nothing was."""


def sources(text: str) -> list[Source]:
    """The sources in ``a.jsonl:2,b/*.jsonl:1``, in order. A text that is the name of a file or folder is one source,
    whatever commas and colons are in it.

    Raises:
        UserError: a source has no name, or its weight is 0; or there is a weight, but no second source.
    """
    found = [_source(part.strip()) for part in parts(text)]
    for source in found:
        if not source.name:
            raise UserError(f"{text[:80]!r} names a file without a name: write them as a.jsonl,b.jsonl.")
        if source.weight == 0:
            raise UserError(f"{source.name}:0 takes no rows. Give a weight above 0, or leave the source out.")
    if len(found) == 1 and found[0].weight is not None:
        raise UserError(
            f"{text[:80]}: a weight is a source's share beside others. Leave :{found[0].weight:g} out, or name a "
            "second source."
        )
    return found


def parts(text: str) -> list[str]:
    """The text split at its commas, unless it is the name of a file or folder as a whole."""
    return [text] if _exists(text) else text.split(",")


def matching(name: str) -> list[str]:
    """The files and folders that fit a pattern, sorted; a name without ``*``, ``?`` or ``[``, or that is there
    literally, as it is.

    Raises:
        UserError: nothing fits.
    """
    if not _PATTERN.search(name) or _exists(name):
        return [name]
    found = _fitting(name)
    if not found:
        raise UserError(f"No file fits the pattern {name[:80]!r}. Give another, or name the files.")
    return found


def named_paths(text: str) -> list[str]:
    """Everything that the text names, with patterns replaced by what fits them now; for checks of what may be
    deleted."""
    plain = [_source(part.strip()).name for part in parts(text)]
    return [path for name in plain if name for path in (_fitting(name) or [name])]


def _fitting(name: str) -> list[str]:
    return sorted(glob.glob(os.path.expanduser(name), recursive=True)) if _PATTERN.search(name) else []


def _source(part: str) -> Source:
    weighted = None if _exists(part) else _WEIGHT.fullmatch(part)
    return Source(weighted[1], float(weighted[2])) if weighted else Source(part)


def _exists(name: str) -> bool:
    return bool(name) and os.path.exists(os.path.expanduser(name))
