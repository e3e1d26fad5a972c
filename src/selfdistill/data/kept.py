"""Sequences that may be too long for memory: beyond a number of items they are kept in a temporary file."""

import mmap
import operator
import pickle
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, TypeVar, overload

from selfdistill.errors import DiskError

MANY = 50_000
"""Most items that are kept in memory."""

T = TypeVar("T")


def keep(items: Iterable[T]) -> Sequence[T]:
    """The items in order: as a list if there are at most MANY, else in a temporary file (``Kept``). What is a list, or
    kept already, is returned as it is.

    Raises:
        DiskError: the file can't be written.
    """
    if isinstance(items, list | Kept):
        return items
    iterator = iter(items)
    first = list(islice(iterator, MANY + 1))
    return first if len(first) <= MANY else Kept(chain(first, iterator))


class Kept(Sequence[T]):
    """Items in a file without a name in the folder for temporary files (``TMPDIR``), which ends with this object.

    An item is read anew each time, so two of them may be equal and not the same. Memory is taken by what is read
    last, and 8 bytes an item.

    Args:
        items: can be pickled; at least one.

    Raises:
        DiskError: the file can't be written.
    """

    def __init__(self, items: Iterable[T]) -> None:
        self._ends = array("Q", [0])
        try:
            with tempfile.TemporaryFile(prefix="selfdistill-") as file:
                for item in items:
                    self._ends.append(self._ends[-1] + file.write(pickle.dumps(item, pickle.HIGHEST_PROTOCOL)))
                file.flush()
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise DiskError(
                f"{tempfile.gettempdir()}: {len(self._ends) - 1:,} rows are written, no more ({error.strerror}). Free "
                "some space, or name another folder in TMPDIR."
            ) from error

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...

    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        places = range(len(self))[index]
        if isinstance(places, range):
            return self if places == range(len(self)) else keep(map(self._read, places))
        return self._read(places)

    def __iter__(self) -> Iterator[T]:
        return map(self._read, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(operator.eq, self, other))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (list(self),)  # for a process that does not share this one's memory

    def _read(self, place: int) -> T:
        return pickle.loads(self._bytes[self._ends[place] : self._ends[place + 1]])
