"""Time that other work on the machine lengthens little."""

import os
import time
from collections.abc import Generator
from contextlib import contextmanager

SHARE = 1 / 6
"""Least share of a processor that a test is taken to have."""


@contextmanager
def within(seconds: float) -> Generator[None]:
    """Asserts that what is done inside takes less processor time, its ended children's included, and by the clock no
    more than a process with ``SHARE`` of a processor would need for it."""
    spent, started = _spent(), time.monotonic()
    yield
    assert _spent() - spent < seconds
    assert time.monotonic() - started < seconds / SHARE


def _spent() -> float:
    return sum(os.times()[:4])
