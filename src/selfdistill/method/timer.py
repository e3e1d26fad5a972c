"""Measures how long each phase of a training step takes."""

import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch.profiler import record_function


class PhaseTimer:
    """Adds up wall-clock seconds by phase. On CUDA it waits for queued kernels, so that each phase includes its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Adds the time spent inside to phase ``name``, which profiler traces show as ``phase/name``."""
        start = self._now()
        try:
            with record_function(f"phase/{name}"):
                yield
        finally:
            self._seconds[name] += self._now() - start

    def drain(self) -> dict[str, float]:
        """Returns the seconds by phase since the last call, and resets them."""
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
