"""Where the time of a step goes."""

import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch.profiler import record_function


class PhaseTimer:
    """Adds up wall seconds by phase. On an accelerator it waits for queued work, so that phases are true."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Counts the time inside towards ``name``; a profiler's trace shows it as ``phase/name``."""
        start = self._now()
        try:
            with record_function(f"phase/{name}"):
                yield
        finally:
            self._seconds[name] += self._now() - start

    def drain(self) -> dict[str, float]:
        """Seconds by phase since the last call."""
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
