"""The report of a run that goes on: what has become of it, and the page as its files are."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from selfdistill import run_folder
from selfdistill.checkpoints.lock import is_locked
from selfdistill.checkpoints.owners import is_at_work
from selfdistill.errors import UserError
from selfdistill.report.collect import DEPTH, collect, run_folders
from selfdistill.report.render import to_html
from selfdistill.run_folder import CHECKPOINT, COMPARE, CONTINUAL, EARLIER, METRICS, REPORT_RESULTS, STUDY, WORK

REST = 10.0
"""While a run goes on, the page is made at most in one part of so many of the time: it takes the run's processor."""
Standing = Literal["waiting", "running", "ended", "stopped"]
"""``waiting``: nothing was begun. ``stopped``: nothing runs, and what was begun is not finished."""
_Signature = dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What there is to see of a folder."""

    version: int
    """Number of the page, from 1; 0 while there is none."""
    standing: Standing
    text: str
    """The same in a sentence."""
    problem: str = ""
    """Why the page is not that of the files as they are; empty if it is."""


class LiveReport:
    """The report of a folder. It is kept in memory: nothing is written. Several threads may use it.

    Args:
        folder: of a run or a study; it may be empty.
        clock: gives seconds.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock, self._making = folder, clock, threading.Lock()
        self._signature: _Signature = {}
        self._standing: Standing = "waiting"
        self._not_before = 0.0
        self._problem = ""
        self._version = 0
        self.page = ""
        """The newest page; empty while there is none."""

    def look(self) -> Look:
        """What there is to see."""
        version, problem = self._version, self._problem
        standing, text = standing_of(self._folder)
        return Look(version=version, standing=standing, text=text, problem=problem)

    def refresh(self) -> None:
        """Makes the page anew if files have changed, though not too often while a run goes on; does nothing if another
        thread is about it."""
        if not self._making.acquire(blocking=False):
            return
        try:
            standing, _ = standing_of(self._folder)
            if self._clock() < self._not_before and standing == self._standing:
                return
            self._standing = standing
            if (found := _signature(self._folder)) != self._signature:
                self._make(found)
        finally:
            self._making.release()

    def _make(self, found: _Signature) -> None:
        began = self._clock()
        try:
            page = to_html(collect(self._folder))
        except (UserError, FileNotFoundError) as error:  # a file that is just being written or moved, or nothing yet
            self._problem = str(error) if run_folders(self._folder) else ""
        else:
            self.page, self._problem, self._signature = page, "", found
            self._version += 1
        self._not_before = self._clock() + REST * (self._clock() - began)


def standing_of(folder: Path) -> tuple[Standing, str]:
    """What has become of the run or the study in a folder, and of its newest run, in a sentence."""
    runs = list(run_folders(folder).values())
    changed: dict[Path, os.stat_result] = {}
    for path in runs:
        with contextlib.suppress(FileNotFoundError):  # none yet, or moved meanwhile
            changed[path] = (path / METRICS).stat()
    rows = {path: _last_row(path, stat.st_mtime_ns, stat.st_size) for path, stat in changed.items()}
    newest = max(changed, key=lambda path: changed[path].st_mtime_ns, default=None)
    at = ""
    if newest is not None and "step" in rows[newest]:
        at = f" Step {rows[newest]['step']:,}" + ("." if newest == folder else f" of {newest.name}.")
    if is_at_work(folder) or any(map(is_locked, {folder, *runs})):
        return "running", f"The run goes on.{at}"
    study = (folder / STUDY).is_file()
    if not runs and not study:
        return "waiting", "Nothing was begun here yet."
    whole = any((folder / name).is_file() for name in (COMPARE, CONTINUAL))
    if whole or (not study and all("train_loss" in row for row in rows.values())):
        return "ended", f"The run has ended.{at}"
    return "stopped", f"The run stopped before its end, or died.{at} The same command goes on with it."


@lru_cache(maxsize=256)
def _last_row(folder: Path, time_ns: int, size: int) -> dict[str, Any]:
    """The last line of a run's metrics.jsonl, as it was at a time."""
    return run_folder.last_row(folder / METRICS)


def _signature(folder: Path) -> _Signature:
    """Time and size of every file that the report may read."""
    found: _Signature = {}
    for place, below, names in os.walk(folder, followlinks=True):
        parts = Path(place).relative_to(folder).parts
        depth = len(parts) - 2 * (parts[:1] == (WORK,))
        hidden = (".", CHECKPOINT, EARLIER)
        below[:] = [name for name in below if depth <= DEPTH and (name == WORK or not name.startswith(hidden))]
        for name in names:
            if name.endswith((".json", ".jsonl")) and name != REPORT_RESULTS:
                with contextlib.suppress(OSError):  # deleted meanwhile
                    stat = os.stat(os.path.join(place, name))
                    found[os.path.join(place, name)] = stat.st_mtime_ns, stat.st_size
    return found
