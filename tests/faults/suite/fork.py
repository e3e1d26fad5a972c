"""Commands in forked processes, which need not import anything again; and the end of such processes."""

import contextlib
import mmap
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

SAID = "said.txt"
"""Where a command's output goes, in the folder where it runs."""
LONGEST = 120.0
"""Seconds after which a command hangs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How a command ended."""

    code: int
    """Exit code; negative for a signal."""
    said: str
    seconds: float

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL

    def wrong(self, *codes: int) -> list[str]:
        """What is wrong with an end that should have one of these codes, and no traceback."""
        last = " ".join(self.said.split())[-300:]
        found = [] if self.code in codes else [f"exit code {self.code} instead of {codes}: {last}"]
        return found + ([f"a traceback: {last}"] if "Traceback" in self.said else [])


class Number:
    """A number that a forked process and its parent share."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8)

    @property
    def value(self) -> int:
        return int.from_bytes(self._memory[:8], "little")

    @value.setter
    def value(self, value: int) -> None:
        self._memory[:8] = value.to_bytes(8, "little")


class Process:
    """A forked process that calls ``act`` in ``folder``, its output going to a file there."""

    def __init__(self, folder: Path, act: Callable[[], Any]) -> None:
        self._folder, self._started = folder, time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        (folder / SAID).touch()  # a process that is killed at once has said nothing
        self._pid = os.fork()
        if self._pid == 0:
            _child(folder, act)

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)

    def wait(self, seconds: float = LONGEST) -> Ran | None:
        """Its end; None if that is not reached in time."""
        deadline = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                said = (self._folder / SAID).read_text(errors="replace")
                code = os.waitstatus_to_exitcode(status)
                return Ran(code=code, said=said, seconds=time.monotonic() - self._started)
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.002)

    def end(self) -> Ran:
        """Waits for its end. A process that hangs is killed, and that is its end."""
        found = self.wait()
        if found is None:
            self.kill()
            found = self.wait()
            assert found is not None
        return found


def run(folder: Path, argv: Sequence[str], *, prepare: Callable[[], None] | None = None) -> Ran:
    """Runs a command of selfdistill in ``folder``, after ``prepare``."""
    return start(folder, argv, prepare=prepare).end()


def start(folder: Path, argv: Sequence[str], *, prepare: Callable[[], None] | None = None) -> Process:
    """As ``run``, without waiting for the end."""

    def act() -> int:
        from selfdistill.cli import main

        if prepare is not None:
            prepare()
        return main(list(argv))

    return Process(folder, act)


def run_and_kill(folder: Path, argv: Sequence[str], after: float) -> Ran:
    """Runs a command and kills it after some seconds, unless it has ended by then."""
    process = start(folder, argv)
    found = process.wait(after)
    if found is None:
        process.kill()
        found = process.end()
    return found


def _child(folder: Path, act: Callable[[], Any]) -> NoReturn:
    code = 1
    try:
        os.chdir(folder)
        output = os.open(SAID, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if "torch" in sys.modules:  # makes a new pool of threads in the first thread that wants it; two might find none
            sys.modules["torch"].set_num_threads(sys.modules["torch"].get_num_threads())
        code = act() or 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        with contextlib.suppress(BaseException):
            traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
