"""Several processes at one study: who does what, who waits, what is refused, and what is left of those that fail."""

import io
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selfdistill import run_folder
from selfdistill.checkpoints import owners
from selfdistill.checkpoints.leases import LostLeaseError
from selfdistill.errors import TerminatedError, UserError
from selfdistill.studies.sharing import Sharing
from selfdistill.studies.work import Job, Work
from tests.support.mistakes import mistake
from tests.support.study_home import QUIET, SHOWN, comparison, read

SHORT: dict[str, Any] = {"methods": "sft", "max_steps": 1, "checkpoints": 1}
NAMES = [f"arm/lr-0.1/seed-{number}" for number in range(6)]


def sharing(home: Path, console: Console = QUIET, **more: Any) -> Sharing:
    """A process's part in the study ``out``, which looks often at what others do."""
    return Sharing(comparison(home, **SHORT | more).folder, console, poll=0.01)


class Toy:
    """Jobs that take a moment and leave a folder with a file, made in ``folder``."""

    def __init__(self, folder: Path, names: list[str] = NAMES) -> None:
        self.folder, self.names = folder, names
        self.made: list[str] = []
        self.during: Callable[[str, Work], None] = lambda name, work: time.sleep(0.02)

    def jobs(self, done: Mapping[str, str]) -> list[Job[str]]:
        return [
            Job(name=name, title=name, find=partial(self.find, name), make=partial(self.make, name))
            for name in self.names
        ]

    def find(self, name: str) -> str | None:
        file = self.folder / name / "cell.seal.json"
        return file.read_text() if file.is_file() else None

    def make(self, name: str, work: Work) -> str:
        self.made.append(name)
        (work.folder / name).mkdir(parents=True)
        self.during(name, work)
        (work.folder / name / "cell.seal.json").write_text(f"of {name}")
        work.publish(name)
        return f"of {name}"


def together(*bodies: Callable[[], Any]) -> None:
    """Runs bodies at the same time."""
    threads = [threading.Thread(target=body) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def left_behind(home: Path) -> list[str]:
    """What is left of leases and of unfinished work, but for the lease to join under."""
    inside = [path for name in (".work", ".leases") for path in (home / "out" / name).rglob("*") if path.is_file()]
    return [path.name for path in inside if not path.name.startswith("study.")]


# -- sharing out -----------------------------------------------------------------------------------------------------


def test_each_job_is_done_once_and_all_get_all_records(home: Path) -> None:
    toy, found = Toy(home / "out"), list[Any]()
    parts = [sharing(home) for _ in range(3)]

    def work(part: Sharing) -> None:
        with part:
            found.append(part.work_off(toy.jobs))

    together(*(partial(work, part) for part in parts))
    assert sorted(toy.made) == NAMES
    assert found == [{name: f"of {name}" for name in NAMES}] * 3
    assert left_behind(home) == []


def test_jobs_are_asked_for_again_after_each(home: Path) -> None:
    toy = Toy(home / "out")
    with sharing(home) as part:
        part.work_off(lambda done: toy.jobs(done)[: len(done) + 1])
    assert toy.made == NAMES


def test_who_waits_says_for_what_and_for_whom(home: Path) -> None:
    toy, file = Toy(home / "out", NAMES[:1]), io.StringIO()
    waiter = sharing(home, Console(file=file, width=200))
    others = sharing(home)
    begun = threading.Event()

    def slow(name: str, work: Work) -> None:
        begun.set()
        while "Waiting for" not in file.getvalue():
            time.sleep(0.01)

    toy.during = slow

    def wait() -> None:
        begun.wait()
        with waiter:
            waiter.work_off(toy.jobs)

    def make() -> None:
        with others:
            others.work_off(toy.jobs)

    together(make, wait)
    me = owners.Owners(home).me
    assert f"Waiting for {NAMES[0]} (process {me.pid} on {me.host})." in file.getvalue()
    assert f"{NAMES[0]}: done by another process" in file.getvalue()
    assert toy.made == NAMES[:1]


def test_what_a_dead_process_was_at_is_done_by_another_and_its_work_is_deleted(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = Toy(home / "out", NAMES[:2])
    other = sharing(home)
    with sharing(home) as part:
        with monkeypatch.context() as patch:
            patch.setattr(owners, "start_of", lambda pid: "long ago")  # as if its number were another's by now
            dead = sharing(home)
        dead.__enter__()
        lease = dead._leases.take(NAMES[0])
        assert lease is not None
        rest = home / "out" / ".work" / lease.token / NAMES[0] / "half"
        rest.mkdir(parents=True)
        with other:
            other.work_off(toy.jobs)
        assert toy.made == NAMES[:2]
        assert not rest.exists()
        part.work_off(toy.jobs)
        dead._owners.__exit__()
    assert len(toy.made) == 2


# -- failures --------------------------------------------------------------------------------------------------------


def test_a_job_that_fails_is_tried_by_another_process_last_and_by_no_third(home: Path) -> None:
    toy = Toy(home / "out", NAMES[:3])

    def fails(name: str, work: Work) -> None:
        (work.folder / name / "rest").touch()
        if name == NAMES[0]:
            raise UserError("The memory is full.")

    toy.during = fails
    with sharing(home) as third:
        for made in (NAMES[:1], [*NAMES[1:3], NAMES[0]]):
            toy.made.clear()
            with sharing(home) as part, pytest.raises(UserError, match=r"^The memory is full\.$"):
                part.work_off(toy.jobs)
            assert toy.made == made
        assert (home / "out" / NAMES[0] / "rest").is_file()  # to be looked at
        toy.made.clear()
        said = mistake(third.work_off, toy.jobs)
        assert toy.made == []
    assert said == (
        f"{NAMES[0]} failed in 2 processes: The memory is full. Mend that, and give the same command again."
    )
    toy.during = lambda name, work: None
    with sharing(home) as again:  # it is tried again when all have ended
        again.work_off(toy.jobs)
    assert toy.made == NAMES[:1]
    assert left_behind(home) == []


@pytest.mark.parametrize("signal", [TerminatedError, KeyboardInterrupt])
def test_a_process_that_is_told_to_stop_gives_back_what_it_took(home: Path, signal: type[BaseException]) -> None:
    toy = Toy(home / "out", NAMES[:2])

    def stops(name: str, work: Work) -> None:
        if name == NAMES[1]:
            raise signal

    toy.during = stops
    with sharing(home) as other:
        with sharing(home) as part, pytest.raises(signal):
            part.work_off(toy.jobs)
        assert other._leases.holder(NAMES[1]) is None
        toy.during = lambda name, work: None
        other.work_off(toy.jobs)
    assert toy.made == [*NAMES[:2], NAMES[1]]
    assert left_behind(home) == []


# -- a lost lease ----------------------------------------------------------------------------------------------------


def test_who_wakes_and_has_lost_its_lease_stops_and_takes_what_the_other_made(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy, file = Toy(home / "out", NAMES[:1]), io.StringIO()
    heir = sharing(home)
    sleeper = sharing(home, Console(file=file, width=200))

    def overtaken(name: str, work: Work) -> None:
        toy.during = lambda name, work: None
        with monkeypatch.context() as patch:
            patch.setattr(heir._owners, "is_dead", lambda name: True)
            assert heir.work_off(toy.jobs) == {NAMES[0]: f"of {NAMES[0]}"}
        assert not (home / "out" / ".work").is_dir() or not any((home / "out" / ".work").iterdir())
        (home / "out" / NAMES[0] / "of the other").touch()
        (work.folder / name).mkdir(parents=True)  # as a writer that does not know yet would do
        with pytest.raises(LostLeaseError):
            work.check()

    toy.during = overtaken
    with heir, sleeper:
        assert sleeper.work_off(toy.jobs) == {NAMES[0]: f"of {NAMES[0]}"}
    assert toy.made == [NAMES[0], NAMES[0]]
    assert (home / "out" / NAMES[0] / "of the other").is_file()  # it was not written over
    assert "another process took it over while this one was silent" in file.getvalue()
    assert f"{NAMES[0]}: done " in file.getvalue()


def test_a_training_run_whose_lease_is_lost_ends_at_the_next_step(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[int] = []

    def check(self: Work) -> None:
        checked.append(1)
        if len(checked) == 2:
            raise LostLeaseError("a")

    monkeypatch.setattr(Work, "check", check)
    study = comparison(home, methods="sft", max_steps=4, checkpoints=1)
    with Sharing(study.folder, QUIET) as part:
        base = study.runs.base(study.arms, [study.subject])
        (job,) = study._jobs(part.do(base), {})
        checked.clear()
        lease = part._leases.take(job.name)
        assert lease is not None
        work = Work(study.folder, lease, lambda: False)
        with pytest.raises(LostLeaseError):
            job.make(work)
        steps = [row["step"] for row in run_folder.read_jsonl(work.folder / job.name / run_folder.METRICS)]
    assert max(steps, default=0) < 2


def test_a_place_that_another_process_has_just_filled_is_left_as_it_is(home: Path) -> None:
    folder = comparison(home, **SHORT).folder
    for name in ("mine", "out/arm"):
        (home / name).mkdir(parents=True)
        (home / name / "file").write_text(name)
    is_dir = Path.is_dir
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "is_dir", lambda path: path.name != "arm" and is_dir(path))  # it comes after the look
        with pytest.raises(LostLeaseError):
            folder.put(home / "mine", "arm")
    assert (home / "out" / "arm" / "file").read_text() == "out/arm"


# -- what is refused -------------------------------------------------------------------------------------------------


def test_a_study_that_others_work_on_is_not_overwritten(home: Path) -> None:
    with sharing(home):
        said = mistake(sharing(home, overwrite=True).__enter__)
        assert said.startswith("--overwrite: process ")
        assert said.endswith(f"works on the study in {home / 'out'}. Wait until it has finished, or end it.")
        assert (home / "out" / "study.json").is_file()
    (home / "out" / "rest").touch()
    with sharing(home, overwrite=True) as part:
        assert not part.goes_on
        assert not (home / "out" / "rest").exists()
        with sharing(home) as beside:
            assert beside.goes_on


def test_who_works_at_the_same_time_must_have_the_same_seeds_rates_and_arms(home: Path) -> None:
    with sharing(home):
        said = mistake(sharing(home, seeds="0,1").__enter__)
        assert f"works on {home / 'out'} with another seeds: '0', now '0,1'. Start the same command, or wait" in said
        with sharing(home, eval_batch_size=3):
            pass
    with sharing(home, seeds="0,1"):
        pass


def test_settings_that_differ_are_refused_though_both_were_started_at_once(home: Path) -> None:
    first, second = sharing(home), sharing(home, max_steps=2)
    with first:
        assert "holds a study with another max_steps: 1, now 2." in mistake(second.__enter__)


def test_of_a_process_on_another_machine_it_is_waited_to_see_whether_it_lives(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(owners, "this_machine", lambda: "far")
        patch.setattr(owners.socket, "gethostname", lambda: "far")
        far = sharing(home)
    looker = sharing(home, Console(file=file, width=200), seeds="0,1")
    looker._owners._limit = 0.1
    with far:
        with looker:  # it does not beat
            pass
        assert "Waiting to see whether process" in file.getvalue()
        assert "on far still lives ..." in file.getvalue()


def test_a_study_whose_folder_is_deleted_ends_and_does_not_come_back(home: Path) -> None:
    toy = Toy(home / "out", NAMES[:2])
    toy.during = lambda name, work: (home / "out").rename(home / "moved") and None
    said = ""
    with sharing(home) as part:
        said = mistake(part.work_off, toy.jobs)
    assert said.startswith(f"{home / 'out'} was deleted or moved while its study went on.")
    assert not (home / "out" / "study.json").exists()


# -- a real study ----------------------------------------------------------------------------------------------------


def test_nothing_tells_where_a_run_was_made(home: Path) -> None:
    comparison(home, methods="sft,sdft", max_steps=1, checkpoints=1, **SHOWN).run()
    place = home / "out" / "sft" / "lr-0.01" / "seed-0"
    assert read(place, "run_config.json")["settings"]["output_dir"] == str(place)
    files = [path for path in (home / "out").rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if b".work" in path.read_bytes()] == []
