"""A study's job that is made in another process, on this machine or another: what that is told, and what comes back."""

import io
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO, cast

from rich.console import Console

from selfdistill.checkpoints.manifest import File, digests
from selfdistill.errors import DamagedFilesError, UserError
from selfdistill.progress import PlainConsole
from selfdistill.settings import flat
from selfdistill.settings.study import StudyOptions
from selfdistill.studies.arms import Arm
from selfdistill.studies.folder import StudyFolder
from selfdistill.studies.measures import Meter
from selfdistill.studies.runs import StudyRuns
from selfdistill.studies.work import Bench
from selfdistill.tasks import DATA_VARIABLE

WIDTH = 1000
"""Columns of a console whose lines are sent away: none is wrapped before it is shown."""


class Study(Protocol):
    """A comparison, or sequences of tasks."""

    options: Any
    arms: list[Arm]
    folder: StudyFolder
    runs: StudyRuns
    meter: Meter

    def check(self) -> None:
        """Prepares every arm once. Raises UserError if one can't be trained here."""
        ...


@dataclass(frozen=True, slots=True)
class Apart:
    """Where a job is made by a process that shares no leases."""

    folder: Path

    def check(self) -> None:
        """Does nothing: whoever has the lease ends the process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What another process needs to make a job: it reads the rows and loads the model itself."""

    study: Callable[[Any, Console], Study]
    """The study's class, which is made of options and a console."""
    options: StudyOptions
    data: dict[str, str]
    """``identity`` of the study of whoever gives the order."""
    data_dir: str
    """Folder of the tasks' data by the environment there; empty if it names none."""
    job: Callable[..., Any]
    """A method of the study's class: makes the job, and returns its record."""
    arguments: tuple[Any, ...]
    """Of the job; the bench comes after them."""
    quiet: bool
    """Whether the arms' settings were printed before."""
    needs_folder: bool
    """Whether the job can only be made where the study's folder is."""

    def __call__(self, bench: Bench, console: Console) -> Any:
        """Makes the job. Raises UserError: it can't be made here, or the rows here are others."""
        if self.data_dir and Path(self.data_dir).is_dir():
            os.environ.setdefault(DATA_VARIABLE, self.data_dir)
        nowhere = str(bench.folder / "study")  # it is not there, and is not made
        own = {"output_dir": nowhere, "overwrite": False, "executor": "process", "ray_address": None, "ray_cpus": 1}
        study = self.study(flat.changed(self.options, own), console)
        here = identity(study)
        for what in self.data | here:
            if self.data.get(what) != here.get(what):
                raise UserError(
                    f"{socket.gethostname()} has another {what} than the study. Give all machines the same files."
                )
        study.check()
        if self.quiet:
            study.runs.announced.update(arm.name for arm in study.arms)
        return self.job(study, *self.arguments, bench)


def order(
    study: Study, job: Callable[..., Any], *arguments: Any, quiet: bool = False, needs_folder: bool = False
) -> Order:
    """The order to make a job of a study elsewhere; see ``Order``."""
    kind: Any = type(study)
    return Order(
        study=kind,
        options=study.options,
        data=identity(study),
        data_dir=os.environ.get(DATA_VARIABLE, ""),
        job=job,
        arguments=arguments,
        quiet=quiet,
        needs_folder=needs_folder,
    )


def identity(study: Study) -> dict[str, str]:
    """What must be the same wherever runs of a study are made, by description."""
    return {**study.folder.data, "number of prior questions": str(study.meter.num_questions)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A job that was made elsewhere."""

    record: Any
    files: dict[str, File]
    """Hashes of all files, by name inside the folder of the job's work."""
    attempt: str
    """Folder in that of the work in which they lie; empty if they came along."""
    contents: dict[str, bytes]
    """The files themselves, if they came along."""

    def put(self, folder: Path) -> None:
        """Moves or writes the files into the folder of the work, and reads them back.

        Raises:
            DamagedFilesError: a file is missing, or is not as it was made.
        """
        for name, content in self.contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        if self.attempt:
            for path in (folder / self.attempt).iterdir():
                os.replace(path, folder / path.name)
            (folder / self.attempt).rmdir()
        try:
            there = digests(folder, self.files)
        except OSError as error:
            raise DamagedFilesError(f"{error.filename} was made elsewhere and did not arrive.") from error
        for name, file in self.files.items():
            if there[name] != file:
                raise DamagedFilesError(f"{folder / name} is not as it was made elsewhere.")


def make(job: Order, folder: Path, tell: Callable[[str], None]) -> Made:
    """Makes a job in this process. It may be the second that does, after one that was lost in the middle.

    Args:
        job: the order.
        folder: the folder of the job's work as whoever gives the order knows it. Its name is of this work alone: if
            it is there, the file system is shared, and the files are left in it; otherwise they are part of what is
            returned.
        tell: called with each line that is printed.

    Raises:
        UserError: it can't be made here.
    """
    is_shared = folder.is_dir()
    if job.needs_folder and not is_shared:
        raise UserError(
            f"{socket.gethostname()} does not see {folder.parent.parent}, where the stage before is: share it among "
            "all machines."
        )
    attempt = f"attempt-{uuid.uuid4().hex[:12]}"
    root = folder / attempt if is_shared else Path(tempfile.mkdtemp(prefix="selfdistill-"))
    try:
        record = job(Apart(root), sent_away(tell))
        names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
        contents = {} if is_shared else {name: (root / name).read_bytes() for name in names}
        files = digests(root, names)
        return Made(record=record, files=files, attempt=attempt if is_shared and files else "", contents=contents)
    finally:
        if not is_shared:
            shutil.rmtree(root, ignore_errors=True)


def sent_away(tell: Callable[[str], None]) -> Console:
    """A console whose lines are handed on, as in ``Lines``."""
    return PlainConsole(file=cast(TextIO, Lines(tell)), width=WIDTH, highlight=False)


class Lines(io.TextIOBase):
    """A text stream that hands on whole lines, without empty ones.

    Args:
        tell: called with each.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell, self._rest = tell, ""

    def write(self, text: str) -> int:
        """Hands on what has become whole. Returns the text's length."""
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            if line.strip():
                self._tell(line.rstrip())
        return len(text)
