"""Disks that fail, and the codes with which a command ends."""

import errno
import os
from pathlib import Path

from tests.faults.suite.operations import Operation, Watch

REFUSED, DISK, DAMAGED = 2, 5, 6
"""Exit codes of a command that another one is in the way of, of a disk, and of damaged files."""
WRITES = ("create", "open", "write", "serialize", "fsync", "replace")
"""Operations that fail; on a read-only disk all do."""
LASTING = (errno.ENOSPC, errno.EROFS)
"""Errors that every later write meets, too."""


def fail_at(folder: Path, at: int, number: int, *, half: bool = False) -> None:
    """Has operation ``at`` (from 0) of this process on files in ``folder`` fail, after half of its write if ``half``;
    later ones too, where the error is one that lasts."""
    done = -1

    def before(operation: Operation) -> None:
        nonlocal done
        done += 1
        affected = number == errno.EROFS or operation.name in WRITES
        if not affected or done < at or (done > at and number not in LASTING):
            return
        if half and done == at:
            operation.tear()
        _fail(operation, number)

    Watch(folder, before=before).start()


def _fail(operation: Operation, number: int) -> None:
    from safetensors import SafetensorError

    if operation.name == "serialize":
        text = f"{os.strerror(number)} (os error {number})"
        raise SafetensorError(f"Error while serializing: I/O error: {text}")
    raise OSError(number, os.strerror(number), operation.path)
