"""Disks that fill up and processes that are killed, at every operation in turn."""

import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

OPERATIONS = ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir")


class KilledError(BaseException):
    """The process is gone: nothing after it is done, not even in an ``except``."""


class Disk:
    """A file system on which operation number ``at`` (from 0) fails: the disk is full, or the process is killed, so
    that no later operation is done either."""

    def __init__(self, at: int, *, killed: bool, operations: tuple[str, ...] = OPERATIONS) -> None:
        self.at, self.killed, self.done = at, killed, 0
        self._operations = operations

    @property
    def failed(self) -> bool:
        """Whether it came to that."""
        return self.done > self.at

    def __enter__(self) -> "Disk":
        self._patch = pytest.MonkeyPatch()
        for name in self._operations:
            self._patch.setattr(os, name, self._operation(getattr(os, name)))
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def _operation(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            self.done += 1
            if self.killed and self.failed:
                raise KilledError
            if self.done == self.at + 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **options)

        return operation


def faults(killed: bool) -> Iterator[Disk]:
    """Disks that fail at the first operation, the second, and so on, until one did not come to fail."""
    at = 0
    while True:
        disk = Disk(at, killed=killed)
        yield disk
        if not disk.failed:
            return
        at += 1
