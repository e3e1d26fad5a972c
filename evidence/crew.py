"""Several processes at once that work on a list of studies: for a GPU, or many cores, that one run does not fill."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import psutil


@dataclass(frozen=True, slots=True)
class Errand:
    """Something to be done by a process, or by several that share it out among themselves."""

    name: str
    do: Callable[[TextIO | None], int]
    """Does it, or what is left of it; prints to the file, or the screen, and returns the exit code."""
    several: bool = field(kw_only=True)
    """Whether several may be at it."""


@dataclass(slots=True)
class Crew:
    """Does errands. Each worker takes the one that the fewest are at; one that has ended, well or not, is not taken
    again.

    Args:
        errands: in order.
        logs: folder of a file for each worker, with what its processes print.
    """

    errands: Sequence[Errand]
    logs: Path
    _left: list[Errand] = field(init=False)
    _at: Counter[str] = field(init=False, default_factory=Counter)
    _codes: list[int] = field(init=False, default_factory=list)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._left = list(self.errands)

    def work(self, workers: int) -> int:
        """Has as many workers do all; returns the exit code of the first errand that failed, or 0."""
        self.logs.mkdir(parents=True, exist_ok=True)
        threads = [threading.Thread(target=self._worker, args=(number,)) for number in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return next((code for code in self._codes if code), 0)

    def stop(self) -> None:
        """Sends SIGTERM to all processes and has no other begin."""
        with self._lock:
            self._left.clear()
        for process in psutil.Process().children():
            process.terminate()

    def _worker(self, number: int) -> None:
        with (self.logs / f"worker-{number}.log").open("a", encoding="utf-8") as log:
            while (errand := self._take()) is not None:
                code = errand.do(log)
                print(f"{errand.name}: ended with exit code {code}", flush=True)
                self._ended(errand, code)

    def _take(self) -> Errand | None:
        with self._lock:
            free = [errand for errand in self._left if errand.several or not self._at[errand.name]]
            errand = min(free, key=lambda one: self._at[one.name], default=None)
            if errand is not None:
                self._at[errand.name] += 1
            return errand

    def _ended(self, errand: Errand, code: int) -> None:
        with self._lock:
            self._codes.append(code)
            if errand in self._left:
                self._left.remove(errand)
