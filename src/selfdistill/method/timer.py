"""Measures how long each phase of a training step takes."""

import time
from collections import defaultdict, deque
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import record_function


class PhaseTimer:
    """Adds up seconds by phase; each phase includes the work that it queued on an accelerator.

    On CUDA the GPU itself records when it reaches a phase's beginning and end, so that the program need not wait for
    it. Other accelerators are waited for at both.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = defaultdict(float)
        self._queued: deque[tuple[str, Any, Any]] = deque()  # CUDA: name, and the events of beginning and end

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Adds the time spent inside to phase ``name``, which profiler traces show as ``phase/name``."""
        start = self._mark()
        try:
            with record_function(f"phase/{name}"):
                yield
        finally:
            end = self._mark()
            if self._device.type == "cuda":
                self._queued.append((name, start, end))
                self._add_finished()
            else:
                self._seconds[name] += end - start

    def so_far(self) -> dict[str, float]:
        """Returns the seconds by phase since they were reset. Waits for the phases' queued work."""
        if self._queued:
            self._queued[-1][2].synchronize()
            self._add_finished()
        return dict(self._seconds)

    def drain(self) -> dict[str, float]:
        """Returns what ``so_far`` returns, and resets it."""
        seconds = self.so_far()
        self.reset()
        return seconds

    def reset(self, seconds: Mapping[str, float] | None = None) -> None:
        """Goes on from these seconds by phase; by default from none."""
        self._queued.clear()
        self._seconds = defaultdict(float, seconds or {})

    def _mark(self) -> Any:
        """The time in seconds; on CUDA an event, put at the end of what is queued."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            return event
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        return time.perf_counter()

    def _add_finished(self) -> None:
        """Adds up the phases whose end the GPU has reached. It reaches them in order."""
        while self._queued and self._queued[0][2].query():
            name, start, end = self._queued.popleft()
            self._seconds[name] += start.elapsed_time(end) / 1000  # of milliseconds
