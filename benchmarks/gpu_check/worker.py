"""Runs sections in a process of their own, which is ended and replaced if one hangs, dies or breaks the device."""

import multiprocessing
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpu_check import packages
from gpu_check.report import Report, Section, brief

LEAST_SECONDS = 3.0
"""With less time left a section is skipped."""
START_SECONDS = 180.0
"""Most time that the process may take to import its libraries."""
LOG = "log.txt"
"""What the libraries print, in the folder of the results."""


class StartError(RuntimeError):
    """The process that runs the sections can't start."""


class Worker:
    """A process that runs one section after the other.

    Args:
        device: name of the device; None for the default.
        quick: whether sizes are tiny.
        folder: where results are written.
        seconds: most time that the start may take.

    Raises:
        StartError: it did not start.
    """

    def __init__(self, device: str | None, quick: bool, folder: Path, seconds: float = START_SECONDS) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, device, quick, folder), daemon=True)
        self._process.start()
        theirs.close()
        ready, text = self._answer(seconds) or (False, "it took too long to start")
        if not ready:
            self.stop()
            raise StartError(text)
        self.device: str = text

    def run(self, section: Section, seconds: float) -> tuple[bool, str] | None:
        """Runs a section; returns whether another can follow in this process, and a reason if not. None: time is up."""
        try:
            self._connection.send((section, seconds))
        except OSError:
            return False, f"the process is gone; see {LOG}"
        return self._answer(seconds)

    def stop(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.join()

    def _answer(self, seconds: float) -> tuple[bool, str] | None:
        try:
            return self._connection.recv() if self._connection.poll(seconds) else None
        except EOFError:
            self._process.join()
            return False, f"the process ended with exit code {self._process.exitcode}; see {LOG}"


def run_section(
    section: Section, worker: Worker | None, *, deadline: float, device: str | None, quick: bool, folder: Path
) -> tuple[dict[str, Any], Worker | None]:
    """Runs a section until its time or all time is up; returns what it found, and the worker for the next one.

    Args:
        section: the section.
        worker: the process to run it in; None starts one.
        deadline: when all time is up, by ``time.monotonic``.
        device: name of the device; None for the default.
        quick: whether sizes are tiny; budgets, which are for real sizes on a GPU, do not count then.
        folder: where results are written.

    Raises:
        StartError: the process can't start.
    """
    left = deadline - time.monotonic()
    if worker is None and left >= LEAST_SECONDS:
        worker = Worker(device, quick, folder, min(left, START_SECONDS))
        left = deadline - time.monotonic()
    if worker is None or left < LEAST_SECONDS:
        return Report(folder, section.name, 0.0).end("skipped", "no time was left"), worker
    seconds = left if quick else min(section.seconds, left)
    report = Report(folder, section.name, seconds)
    answer = worker.run(section, seconds)
    if answer is None:
        worker.stop()
        return report.continued().end("stopped", f"stopped after {seconds:.0f} s, which was all its time"), None
    usable, reason = answer
    if not usable:
        worker.stop()
        return report.continued().end("failed", reason), None
    return report.continued().end(), worker


def chosen(sections: Iterable[Section], names: Iterable[str]) -> list[Section]:
    """The sections of these names or groups; all if there are no names.

    Raises:
        ValueError: a name is unknown.
    """
    sections, names = list(sections), list(names)
    known = {each for section in sections for each in (section.name, *section.groups)}
    if odd := [name for name in names if name not in known]:
        raise ValueError(f"no section is called {odd[0]!r}; there are {', '.join(sorted(known))}")
    return [section for section in sections if not names or {section.name, *section.groups} & set(names)]


# -- in the process ----------------------------------------------------------------------------------------------------


def _work(connection: Any, device_name: str | None, quick: bool, folder: Path) -> None:
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        device = _prepare(device_name)
    except Exception as error:
        connection.send((False, brief(error)))
        return
    connection.send((True, str(device)))
    while True:
        section, seconds = connection.recv()
        report = Report(folder, section.name, seconds, device, quick)
        section.run(report)
        report.end()
        connection.send(_usable(device))


def _prepare(device_name: str | None) -> Any:
    """Imports what all sections need and returns the device."""
    packages.stand_in_for_tyro()
    from selfdistill.models.device import device_named
    from selfdistill.models.loading import quiet_libraries

    quiet_libraries()
    return device_named(device_name)


def _usable(device: Any) -> tuple[bool, str]:
    """Frees what the section has left, and tells whether the device still answers."""
    from gpu_check.models import free

    try:
        free(device)
        return True, ""
    except RuntimeError as error:  # after a fault on the device every call in this process fails
        return False, f"the device no longer answers: {brief(error)}"
