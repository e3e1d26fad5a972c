"""What every training of a test would wait for."""

import gc
import os

sync_to_disk = os.fsync


def is_open(descriptor: int) -> None:
    """In place of ``os.fsync``, which waits for a disk some fifty times a run; fails as that does on what isn't open.

    No test cuts the power. The commands that tests start, and ``tests/checkpoints``, have the real one.
    """
    os.fstat(descriptor)


def leave_libraries_out() -> None:
    """Each training begins with a collection of garbage, which would look at a million objects of the libraries."""
    gc.collect()
    gc.freeze()
