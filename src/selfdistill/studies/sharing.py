"""One study, several processes: each takes jobs that are still to do, and whoever is left concludes.

Who takes a job (see ``work``) has its lease, makes it in a folder of its own (``.work``) and moves the whole into the
study's folder. So a process that died leaves nothing half made in its place, and one that was taken for dead, and
wakes, finds the lease lost or the place taken, and stops. A process may have its jobs made elsewhere, several at a
time, by an ``Executor``; their leases are still its own.
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape

from selfdistill import run_folder
from selfdistill.checkpoints.leases import Leases, LostLeaseError
from selfdistill.checkpoints.owners import Owner, Owners
from selfdistill.errors import DiskError, UserError, brief, quoted
from selfdistill.studies.folder import StudyFolder
from selfdistill.studies.work import Executor, Job, Work

Record = TypeVar("Record")
ENTRY = "study"
"""Name of the lease under which a process joins. No job is called so: each has a dot or a slash in its name."""
FAILURES = 2
"""Processes that may fail at a job before no other one tries."""
POLL = 2.0
"""Seconds between two looks at what others do."""
PATIENCE = 2.0
"""Most seconds that a process which ends waits to tidy. What it leaves then, the next one clears away."""
NAMED = 3
"""Most jobs that are named while this process waits."""


class Sharing:
    """This process's part in a study. Use as a context: there it may work on the study.

    Args:
        folder: the study's.
        console: for messages.
        poll: seconds between two looks at what others do.
        executor: makes the jobs that have an order; by default this process makes all.

    Raises:
        UserError: on entry: others work on the study, and it is to be overwritten or their seeds, rates or arms are
            others; the study in the folder has other settings; or the executor can't start.
        DiskError: on entry: the folder can't be written.
    """

    def __init__(
        self, folder: StudyFolder, console: Console, poll: float = POLL, executor: Executor | None = None
    ) -> None:
        self._folder, self._console, self._poll, self._executor = folder, console, poll, executor
        place = folder.path / run_folder.LEASES
        self._owners = Owners(place / run_folder.OWNERS)
        self._leases = Leases(place, self._owners)
        self._stack = ExitStack()
        self._awaited: set[str] = set()  # jobs that others were seen at
        self._begun: dict[str, tuple[Job[Any], Work]] = {}  # what the executor is at
        self._brought: dict[str, Any] = {}  # records that it brought
        self._said = ""
        self.goes_on = False
        """Whether the study was begun before."""

    def __enter__(self) -> "Sharing":
        with ExitStack() as stack:
            if self._executor is not None:
                stack.enter_context(self._executor)
            try:
                stack.enter_context(self._owners)
            except OSError as error:
                where = f"--output_dir {self._folder.path}"
                raise DiskError(f"{where} can't be written ({error.strerror}). Name another folder.") from error
            with self._alone():
                self._join()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack, contextlib.suppress(OSError):  # the folder may be gone
            if self._executor is not None and self._begun:
                self._executor.cancel()
            for begun in self._begun.values():
                begun[1].end()
            self._owners.part()  # first: of several that end in the same moment, the last one tidies
            end = time.monotonic() + PATIENCE
            while (lease := self._leases.take(ENTRY)) is None and time.monotonic() < end:
                time.sleep(min(self._poll, 0.05))
            if lease is not None:
                self._tidy()
                lease.release()

    def work_off(self, jobs: Callable[[Mapping[str, Record]], Sequence[Job[Record]]]) -> dict[str, Record]:
        """Does jobs until all are done, by this process or another one.

        Args:
            jobs: all jobs that are known, given the records of those that are done by name. It is asked again after
                each.

        Returns:
            The records by name.

        Raises:
            UserError: a job can't be done, here or in two other processes, or the folder is gone.
        """
        done: dict[str, Record] = {}
        while left := [job for job in jobs(done) if job.name not in done]:
            self._check_folder()
            left.sort(key=self._failures)  # what failed elsewhere comes last
            if not any(self._is_done(job, done) for job in left):
                self._wait(left)
        return done

    def do(self, job: Job[Record]) -> Record:
        """Does one job, or waits until another process has. Raises UserError as ``work_off``."""
        return self.work_off(lambda _: [job])[job.name]

    # -- joining -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _alone(self) -> Generator[None]:
        """Context that one process at a time is in."""
        while (lease := self._leases.take(ENTRY)) is None:
            time.sleep(min(self._poll, 0.2))
        try:
            yield
        finally:
            lease.release()

    def _join(self) -> None:
        """Opens the study, if what others do allows it."""
        while objections := [(owner, why) for owner in self._workers() if (why := self._objection(owner))]:
            for owner, why in objections:
                if self._owners.is_alive(owner):
                    raise UserError(why)
            self._say(f"Waiting to see whether {objections[0][0]} still lives ...")
            time.sleep(self._poll)
        self._tidy()
        self.goes_on = self._folder.open()
        self._owners.join(self._folder.wants)

    def _tidy(self) -> None:
        """Deletes what is left of leases and of unfinished work if no other process works on the study. Be alone."""
        if not self._workers():
            self._owners.forget_dead()
            self._leases.forget(but=ENTRY)
            shutil.rmtree(self._folder.path / run_folder.WORK, ignore_errors=True)

    def _workers(self) -> list[Owner]:
        return [owner for owner in self._owners.others() if owner.joined]

    def _objection(self, owner: Owner) -> str:
        """Why this process can't work beside another one; empty if it can."""
        path = self._folder.path
        if self._folder.overwrites:
            return f"--overwrite: {owner} works on the study in {path}. Wait until it has finished, or end it."
        for name, ours in self._folder.wants.items():
            if (theirs := owner.wants.get(name)) != ours:
                return (
                    f"{owner} works on {path} with another {name}: {quoted(theirs, 40)}, now {quoted(ours, 40)}. Start "
                    "the same command, or wait until it has finished."
                )
        return ""

    # -- jobs --------------------------------------------------------------------------------------------------------

    def _is_done(self, job: Job[Record], done: dict[str, Record]) -> bool:
        """Does a job if nobody else is at it. If it is done, its record is added to ``done``."""
        if job.name in self._begun:
            return False
        if self._leases.holder(job.name) is not None:  # what it writes may not be whole yet
            self._awaited.add(job.name)
            return False
        brought = self._brought.pop(job.name, None)
        record = job.find() if brought is None else brought
        if record is None:
            record = self._make(job)
        elif brought is None and job.announced:
            by = "done by another process" if job.name in self._awaited else "done before"
            self._console.print(f"[bold]{escape(job.title)}[/bold]: {by}")
        if record is None:
            return False
        if job.then is not None:
            job.then(record)
        done[job.name] = record
        return True

    def _make(self, job: Job[Record]) -> Record | None:
        """Does a job; None if another process has it, or takes it over, or the executor is at it."""
        lease = None if self._failures(job) >= FAILURES else self._leases.take(job.name)
        if lease is None:
            return None
        if lease.of_dead is not None:
            shutil.rmtree(self._folder.path / run_folder.WORK / lease.of_dead.token, ignore_errors=True)
        work = Work(self._folder, lease, lambda: job.find() is not None)
        if self._executor is None or job.order is None:
            return self._finish(job, work, partial(self._make_here, job, work))
        self._begun[job.name] = job, work
        run_folder.make_folder(work.folder)
        self._executor.begin(job.name, job.title, job.order, work.folder)
        return None

    def _make_here(self, job: Job[Record], work: Work) -> Record:
        if (record := job.find()) is not None:  # in this very moment
            return record
        if job.announced:
            self._console.print(f"[bold]{escape(job.title)}[/bold]")
        return self._put(job, work, job.make(work))

    def _put(self, job: Job[Record], work: Work, record: Record) -> Record:
        """Moves what was made to its place. Returns the record as the others read it: all conclude the same, byte by
        byte."""
        if job.put is not None:
            job.put(work, record)
        return job.find() or record

    def _finish(self, job: Job[Record], work: Work, make: Callable[[], Record]) -> Record | None:
        """The job's record, by ``make``; None if another process has taken it over. Gives the job back."""
        failed = ""
        try:
            return make()
        except BaseException as error:
            is_lost = isinstance(error, LostLeaseError) or not work.is_held()
            if is_lost and isinstance(error, Exception):
                self._check_folder()
                self._awaited.add(job.name)
                self._console.print(f"{escape(job.title)}: another process took it over while this one was silent")
                return None
            work.leave(job.name)
            failed = brief(error) if isinstance(error, Exception) else ""
            raise
        finally:
            work.end(failed)

    def _fetch(self, executor: Executor, job: Job[Record], work: Work) -> Record:
        return self._put(job, work, executor.result(job.name))

    def _collect(self, executor: Executor) -> None:
        """Waits for a moment for the jobs that the executor is at. One that fails is told; it is tried once more."""
        for name in executor.ended(self._poll):
            job, work = self._begun.pop(name)
            try:
                record = self._finish(job, work, partial(self._fetch, executor, job, work))
            except Exception as error:
                self._console.print(f"[red]{escape(job.title)} failed:[/red] {escape(brief(error, 40))}")
                continue
            if record is not None:
                self._brought[name] = record

    def _failures(self, job: Job[Any]) -> int:
        claim = self._leases.find(job.name)
        return claim.failures if claim is not None else 0

    def _wait(self, left: Sequence[Job[Any]]) -> None:
        """Waits for a moment, if others are at some of the jobs that are left.

        Raises:
            UserError: too many processes have failed at each of them.
        """
        if self._executor is not None and self._begun:
            self._collect(self._executor)
            return
        claims = [(job.title, claim) for job in left if (claim := self._leases.find(job.name)) is not None]
        failed = [(title, claim) for title, claim in claims if claim.failures >= FAILURES and not claim.held]
        if len(failed) == len(left):
            title, claim = failed[0]
            raise UserError(
                f"{title} failed in {claim.failures} processes: {claim.why.rstrip('.')}. Mend that, and give the "
                "same command again."
            )
        held = [(job.title, owner) for job in left if (owner := self._leases.holder(job.name)) is not None]
        names = [f"{title} ({owner})" for title, owner in held]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        if names:
            self._say(f"Waiting for {'; '.join(names[:NAMED])}{more}.")
        time.sleep(self._poll)

    def _check_folder(self) -> None:
        if not (self._folder.path / run_folder.STUDY).is_file():
            raise UserError(f"{self._folder.path} was deleted or moved while its study went on. Start the study again.")

    def _say(self, text: str) -> None:
        """Prints what has not just been printed."""
        if text != self._said:
            self._console.print(f"[dim]{escape(text)}[/dim]")
        self._said = text
