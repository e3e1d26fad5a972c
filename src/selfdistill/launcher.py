"""What a launcher (``torchrun``, ``accelerate launch``) started: this process's place, one voice, one end for all.

A launcher starts the same command several times. Errors can come in one process only, at any moment, while the others
wait for it in an exchange. So all processes watch a key in the launcher's key-value store: the first that fails says
why, and all end with its exit code.
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from typing import Any, NamedTuple

from selfdistill.errors import UserError

EVERY = 0.2
"""Seconds between two looks at the store."""
ARRIVAL = 600.0
"""Seconds in which all processes must have started."""
PATIENCE = 5.0
"""Seconds that a process that failed waits for the others to end, so that all have the same exit code."""


class Place(NamedTuple):
    """A process among those that a launcher started."""

    rank: int
    """Its number, from 0."""
    size: int
    """Number of processes."""


def place() -> Place:
    """This process's place by the environment that a launcher sets; alone without a launcher."""
    rank, size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    if rank.isdecimal() and size.isdecimal():
        return Place(int(rank), int(size))
    return Place(0, 1)


def tell(text: str) -> None:
    """Prints an error message, unless another process has told one."""
    if _together is None or _together.may_speak():
        print(text, file=_voice or sys.stderr, flush=True)


def run_together(body: Callable[[], int]) -> int:
    """Runs a command in this process as one of those that the launcher started, or alone without a launcher.

    Process 0 alone prints. When one process fails, all end with its exit code, and its message is the only one.

    Args:
        body: the command; returns its exit code, 0 for success.

    Returns:
        The exit code.
    """
    here = place()
    if here.size == 1:
        return body()
    try:
        together = _Together(here)
    except UserError as error:
        tell(f"selfdistill: {error}")
        return 2
    with _quiet(here.rank > 0), together.watched():
        try:
            code = body()
        except SystemExit as stop:  # of the parser, which said why: the same in all processes
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except Exception:
            tell(traceback.format_exc())
            code = 1
    sys.stdout.flush()
    if code:
        together.fail(code)
    together.finish()
    return code


_together: "_Together | None" = None
_voice: Any = None
"""Standard error of a process that is otherwise quiet."""


class _Together:
    """The processes of a command, which share a store.

    Raises:
        UserError: the environment names no store, or it can't be reached.
    """

    def __init__(self, here: Place) -> None:
        import torch

        distributed: Any = torch.distributed
        self._here = here
        try:
            store, _, _ = next(distributed.rendezvous("env://", timeout=timedelta(seconds=ARRIVAL)))
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"WORLD_SIZE={here.size}, but the processes don't find each other (MASTER_ADDR, MASTER_PORT). Start "
                "with torchrun or accelerate launch, or unset WORLD_SIZE."
            ) from error
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun may start all anew
        self._store = distributed.PrefixStore(f"selfdistill/{attempt}", store)
        self._spoke: bool | None = None
        self._over = threading.Event()

    def may_speak(self) -> bool:
        """Whether this process is the first that asks. If the store is gone, process 0 was, and told why if it
        could."""
        if self._spoke is None:
            try:
                self._spoke = bool(self._store.add("told", 1) == 1)
            except RuntimeError:
                self._spoke = self._here.rank == 1
        return self._spoke

    @contextmanager
    def watched(self) -> Generator[None]:
        """Context in which this process ends as soon as another one fails."""
        global _together
        _together = self
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            self._over.set()
            watcher.join()

    def _watch(self) -> None:
        while not self._over.wait(EVERY):
            try:
                code = self._failure()
            except RuntimeError:  # the store is gone, and with it the launcher or process 0
                tell("selfdistill: process 0 ended without a message. Give the same command again to go on.")
                code = 1
            if code:
                self._end(code)

    def _failure(self) -> int:
        """The exit code of the process that failed; 0 if none has."""
        return int(self._store.get("failed")) if self._store.check(["failed"]) else 0

    def fail(self, code: int) -> None:
        """Ends this process and all others."""
        try:
            self._store.set("failed", str(self._failure() or code))
        except RuntimeError:
            self._end(code)
        self._end(code)

    def _end(self, code: int) -> None:
        """Ends this process at once, as soon as all are about to, and whatever its main thread waits for."""
        try:
            self._store.add("ended", 1)
            self._wait_for("ended", self._here.size, PATIENCE)
        except RuntimeError:
            pass
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)

    def finish(self) -> None:
        """Waits until every process has finished: one that still writes may yet fail."""
        from torch import distributed

        try:
            self._store.add("finished", 1)
            self._wait_for("finished", self._here.size)
            self._store.add("left", 1)
            if self._here.rank == 0:  # it may hold the store
                self._wait_for("left", self._here.size, PATIENCE)
        except RuntimeError:
            pass
        if distributed.is_initialized():
            distributed.destroy_process_group()

    def _wait_for(self, key: str, count: int, seconds: float = float("inf")) -> None:
        """Waits until ``key`` has been counted up to ``count``, or a process fails, for some seconds at most."""
        end = time.monotonic() + seconds
        while self._store.add(key, 0) < count and time.monotonic() < end:
            if key != "ended" and (code := self._failure()):
                self._end(code)
            time.sleep(EVERY / 4)


@contextmanager
def _quiet(quiet: bool) -> Generator[None]:
    """Context in which this process prints nothing but what it tells."""
    global _voice
    if not quiet:
        yield
        return
    _voice = sys.stderr
    try:
        with open(os.devnull, "w", encoding="utf-8") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
            yield
    finally:
        _voice = None
