"""What a process sets before it computes on a CPU: the size of torch's kernel caches, and when the heap shrinks."""

import ctypes
import os

KERNELS_KEPT = "100"
"""Kernels that torch's two caches of them keep."""
LARGEST_INT = 2**31 - 1
LARGEST_BLOCK = 64 * 2**20
"""Bytes; larger blocks are mapped one by one and given back, or holes of odd sizes would make the heap grow."""
TOP_PAD, TRIM_THRESHOLD, MMAP_THRESHOLD = -2, -1, -3
"""Names of mallopt(3)."""


def prepare_cpu() -> None:
    """Bounds torch's caches of CPU kernels and lets the process keep the memory that it frees.

    It may be called more than once. The environment goes first where it says how.
    """
    _bound_kernel_caches()
    _keep_freed_memory()


def _bound_kernel_caches() -> None:
    """Every length of a batch makes new kernels, and by default 1,024 stay, which add up to gigabytes.

    It counts only where nothing was multiplied yet.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, KERNELS_KEPT)


def _keep_freed_memory() -> None:
    """The heap doesn't shrink between phases of a step.

    By default glibc gives memory back once 64 MB (often less) are free at the heap's end. The system then zeroes
    the same pages again and again, which takes a good part of the time of a step.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:  # glibc's alone
        mallopt(MMAP_THRESHOLD, LARGEST_BLOCK)
        mallopt(TRIM_THRESHOLD, LARGEST_INT)
        mallopt(TOP_PAD, 64 * 2**20)
