"""A job of a study: one training run, or the scores of the base model; where it is made, and by whom."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from rich.console import Console
from transformers import TrainerCallback

from selfdistill import run_folder
from selfdistill.checkpoints.leases import Lease, LostLeaseError
from selfdistill.studies.folder import StudyFolder

Record = TypeVar("Record")


class Bench(Protocol):
    """Where a job is made."""

    @property
    def folder(self) -> Path:
        """Its files lie in here as in the study's folder, under the same names."""
        ...

    def check(self) -> None:
        """Raises an error if the job is not to be made here any more."""


class Executor(Protocol):
    """Makes jobs elsewhere than in this process. A context: at its end it makes none any more."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *_: object) -> None: ...

    def begin(self, name: str, title: str, order: Callable[[Bench, Console], Any], folder: Path) -> None:
        """Has a job made, as soon as there is room, by calling ``order``. Its files will be in ``folder``."""
        ...

    def ended(self, seconds: float) -> list[str]:
        """Names of jobs that have ended, well or not; waits for the first for some seconds at most."""
        ...

    def result(self, name: str) -> Any:
        """The record of a job that has ended; its files are in place. Raises UserError: it failed, or was lost."""
        ...

    def cancel(self) -> None:
        """Ends all jobs that were begun."""
        ...


class Work:
    """A job that this process has taken.

    Args:
        study: the study's folder.
        lease: of the job.
        is_made: whether the job was done, by anybody.
    """

    def __init__(self, study: StudyFolder, lease: Lease, is_made: Callable[[], bool]) -> None:
        self._study, self._lease, self._is_made = study, lease, is_made
        self._folder = study.path / run_folder.WORK / lease.token

    @property
    def folder(self) -> Path:
        """Where it is made: as in the study's folder, under the same names."""
        return self._folder

    def check(self) -> None:
        """Raises LostLeaseError if another process has taken the job over."""
        self._lease.check()

    def publish(self, place: str) -> None:
        """Moves the folder ``place`` from where it was made to the study's folder.

        Raises:
            LostLeaseError: another process has taken the job over, or done it.
        """
        self.check()
        if self._is_made():
            raise LostLeaseError(place)
        self._move(place)

    def leave(self, place: str) -> None:
        """Moves what there is of the folder ``place`` to the study's, to be looked at, if no whole one is there."""
        whole = any((self._study.path / place).glob(f"*{run_folder.SEAL}"))
        if self._lease.is_held() and (self.folder / place).is_dir() and not whole:
            self._move(place)

    def is_held(self) -> bool:
        """False if another process has taken the job over."""
        return self._lease.is_held()

    def end(self, failed: str = "") -> None:
        """Deletes what is left of the work and gives the job back; ``failed``: what went wrong, if it is not done."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lease.release(failed)  # last: whoever waits for it may conclude

    def _move(self, place: str) -> None:
        config = self.folder / place / run_folder.RUN_CONFIG
        if config.is_file():
            facts = json.loads(config.read_text(encoding="utf-8"))
            facts["settings"]["output_dir"] = str(self._study.path / place)
            run_folder.write_json(config, facts)
        self._study.put(self.folder / place, place)


class StopIfLost(TrainerCallback):
    """Ends a training run whose job another process has taken over."""

    def __init__(self, work: Bench) -> None:
        self._work = work

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Raises LostLeaseError if it has."""
        self._work.check()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Generic[Record]):
    """Something to do that has a record."""

    name: str
    """Path, in the study's folder, of what it makes."""
    title: str
    """Its name in messages."""
    find: Callable[[], Record | None]
    """Its record if it was done, otherwise None."""
    make: Callable[[Work], Record]
    """Does it, in the work's folder."""
    put: Callable[[Work, Record], None] | None = None
    """Moves what was made to its place, if ``make`` does not."""
    order: Callable[[Bench, Console], Record] | None = None
    """What does as ``make`` in another process, on this machine or another, to which it is pickled."""
    then: Callable[[Record], None] | None = None
    """Called once with its record, whoever has done it."""
    announced: bool = True
    """Whether its title is printed when it begins."""
