"""Process settings for computing on a CPU: the size of torch's kernel caches, and when the heap shrinks."""

import ctypes
import os

KERNELS_KEPT = "100"
"""Capacity of each of torch's two caches of kernels."""
LARGEST_INT = 2**31 - 1
LARGEST_BLOCK = 64 * 2**20
"""In bytes. Larger blocks are mapped and freed one by one; in the heap they would leave holes that make it grow."""
TOP_PAD, TRIM_THRESHOLD, MMAP_THRESHOLD = -2, -1, -3
"""Parameter numbers of mallopt(3)."""


def prepare_cpu() -> None:
    """Bounds torch's caches of CPU kernels and makes the process keep the memory that it frees.

    May be called more than once. Environment variables that are already set take precedence.
    """
    _bound_kernel_caches()
    _keep_freed_memory()


def _bound_kernel_caches() -> None:
    """Limits the caches: every new batch shape adds kernels, and the default of 1,024 can take gigabytes.

    Has an effect only before the first matrix product of the process.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, KERNELS_KEPT)


def _keep_freed_memory() -> None:
    """Keeps the heap from shrinking between the phases of a step.

    By default glibc returns memory to the system once 64 MB (often less) are free at the heap's end. The system then
    zeroes the same pages again and again, which takes a considerable part of a step.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:  # only glibc has it
        mallopt(MMAP_THRESHOLD, LARGEST_BLOCK)
        mallopt(TRIM_THRESHOLD, LARGEST_INT)
        mallopt(TOP_PAD, LARGEST_BLOCK)
