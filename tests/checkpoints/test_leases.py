"""Leases: one of many takes them, a living owner keeps them, a dead one does not, and who lost one knows."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfdistill import run_folder
from selfdistill.checkpoints.leases import Leases, LostLeaseError
from selfdistill.checkpoints.owners import LIMIT, Owners, is_at_work, is_running, start_of

FOLDER = run_folder.LEASES


class Clock:
    """Stands still unless it is told to go."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Process:
    """A process as the others see it, whose heart beats when it is told to."""

    def __init__(self, folder: Path, stack: ExitStack, clock: Clock | None = None, **facts: Any) -> None:
        place = folder / FOLDER
        self.owners = Owners(place / run_folder.OWNERS, every=3600, clock=clock or Clock())
        self.owners.me = replace(self.owners.me, **facts)
        stack.enter_context(self.owners)
        self.leases = Leases(place, self.owners)


@contextmanager
def ended() -> Generator[dict[str, Any]]:
    """Facts of a process of this machine that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        started = start_of(process.pid)
    yield {"pid": process.pid, "started": started}


@pytest.fixture
def stack() -> Generator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / FOLDER).iterdir() if path.is_file())


# -- taking and giving back ------------------------------------------------------------------------------------------


def test_one_of_many_gets_a_lease_and_the_next_one_when_it_is_given_back(tmp_path: Path, stack: ExitStack) -> None:
    processes = [Process(tmp_path, stack) for _ in range(8)]
    for number in range(1, 6):
        start = threading.Barrier(len(processes))
        taken: list[Any] = []

        def try_it(process: Process, start: threading.Barrier = start, taken: list[Any] = taken) -> None:
            start.wait()
            taken.append(process.leases.take("sft/lr-0.01/seed-0"))

        threads = [threading.Thread(target=try_it, args=(process,)) for process in processes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (lease,) = filter(None, taken)
        assert len(taken) == len(processes)
        assert lease.is_held()
        assert lease.of_dead is None
        assert processes[0].leases.take("sft/lr-0.01/seed-0") is None
        assert files(tmp_path) == [f"sft~lr-0.01~seed-0.{number}"]
        lease.release()


def test_names_that_begin_alike_are_different_leases(tmp_path: Path, stack: ExitStack) -> None:
    process = Process(tmp_path, stack)
    leases = [process.leases.take(name) for name in ("a", "a.1", "a/1", "a.1.2")]
    assert all(lease is not None and lease.is_held() for lease in leases)


def test_what_failed_is_known_to_who_takes_it_next(tmp_path: Path, stack: ExitStack) -> None:
    one, other = Process(tmp_path, stack), Process(tmp_path, stack)
    for process, why in ((one, "no memory"), (other, "no disk")):
        lease = process.leases.take("a")
        assert lease is not None
        lease.release(why)
    claim = one.leases.find("a")
    assert claim is not None
    assert (claim.held, claim.failures, claim.why) == (False, 2, "no disk")


def test_all_leases_but_one_are_forgotten(tmp_path: Path, stack: ExitStack) -> None:
    process = Process(tmp_path, stack)
    for name in ("study", "a", "b/c"):
        process.leases.take(name)
    process.leases.forget(but="study")
    assert files(tmp_path) == ["study.1"]


# -- the dead --------------------------------------------------------------------------------------------------------


def test_on_the_same_machine_an_owner_is_dead_at_once_when_its_process_is_gone(
    tmp_path: Path, stack: ExitStack
) -> None:
    with ended() as facts:
        dead = Process(tmp_path, stack, **facts)
    lease = dead.leases.take("a")
    assert lease is not None
    heir = Process(tmp_path, stack)
    assert heir.leases.holder("a") is None
    taken = heir.leases.take("a")
    assert taken is not None
    assert taken.of_dead is not None
    assert taken.of_dead.token == lease.token
    assert [owner.id for owner in heir.owners.others()] == []


def test_a_number_that_another_process_has_by_now_does_not_keep_an_owner_alive(
    tmp_path: Path, stack: ExitStack
) -> None:
    reused = Process(tmp_path, stack, pid=os.getpid(), started="1")
    elsewhere = Process(tmp_path, stack, pid=os.getpid(), started="1", machine="another")
    looker = Process(tmp_path, stack)
    assert looker.owners.is_dead(reused.owners.me.id)
    assert not looker.owners.is_dead(elsewhere.owners.me.id)


def test_a_process_that_was_killed_and_not_waited_for_does_not_run() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = start_of(process.pid)
        assert started is not None
        assert is_running(process.pid, started)
        assert not is_running(process.pid, started + "1")
        process.send_signal(signal.SIGKILL)
        end = time.monotonic() + 10
        while is_running(process.pid, started) and time.monotonic() < end:
            time.sleep(0.01)
        assert process.returncode is None  # its number is still taken
        assert not is_running(process.pid, started)


def test_on_another_machine_an_owner_is_dead_when_it_has_not_beaten_for_a_while(
    tmp_path: Path, stack: ExitStack
) -> None:
    clock = Clock()
    far = Process(tmp_path, stack, host="far", machine="far")
    lease = far.leases.take("a")
    assert lease is not None
    looker = Process(tmp_path, stack, clock)
    assert looker.leases.take("a") is None
    assert not looker.owners.is_alive(far.owners.me)  # nor known to be dead
    clock.now += LIMIT - 1
    far.owners.beat()
    assert looker.leases.take("a") is None
    assert looker.owners.is_alive(far.owners.me)
    clock.now += LIMIT
    holder = looker.leases.holder("a")
    assert str(holder) == f"process {os.getpid()} on far"
    clock.now += 1
    assert looker.leases.holder("a") is None
    taken = looker.leases.take("a")
    assert taken is not None
    # it wakes: it has lost the lease, and what it does about it changes nothing
    far.owners.beat()
    assert not lease.is_held()
    with pytest.raises(LostLeaseError):
        lease.check()
    lease.release("failed")
    assert taken.is_held()
    assert files(tmp_path) == ["a.2"]


def test_an_owner_that_left_keeps_nothing(tmp_path: Path, stack: ExitStack) -> None:
    with ExitStack() as inner:
        assert Process(tmp_path, inner).leases.take("a") is not None
    assert Process(tmp_path, stack).leases.take("a") is not None


def test_who_was_slow_to_take_a_dead_ones_lease_does_not_get_that_of_a_later_owner(
    tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ended() as facts:
        assert Process(tmp_path, stack, **facts).leases.take("a") is not None
        slow = Process(tmp_path, stack)
        seen = slow.leases._newest("a")
        assert Process(tmp_path, stack, **facts).leases.take("a") is not None
    last = Process(tmp_path, stack).leases.take("a")
    assert last is not None
    assert files(tmp_path) == ["a.3"]
    with monkeypatch.context() as patch:
        patch.setattr(slow.leases, "_newest", lambda name: seen)
        assert slow.leases.take("a") is None
    assert last.is_held()
    assert files(tmp_path) == ["a.3"]


def test_a_lease_that_nobody_finished_writing_is_waited_for_and_then_taken(tmp_path: Path, stack: ExitStack) -> None:
    clock = Clock()
    process = Process(tmp_path, stack, clock)
    (tmp_path / FOLDER / "a.1").touch()
    assert process.leases.take("a") is None
    clock.now += LIMIT
    assert process.leases.take("a") is None
    clock.now += 1
    assert process.leases.take("a") is not None


def test_a_lease_in_a_folder_that_is_gone_is_not_held(tmp_path: Path, stack: ExitStack) -> None:
    lease = Process(tmp_path, stack).leases.take("a")
    assert lease is not None
    (tmp_path / FOLDER).rename(tmp_path / "moved")
    assert not lease.is_held()


# -- the heart -------------------------------------------------------------------------------------------------------


def test_the_heart_beats_as_long_as_the_context_lasts(tmp_path: Path, stack: ExitStack) -> None:
    looker = Owners(tmp_path / "owners", clock=Clock())
    with Owners(tmp_path / "owners", every=0.01) as owners:
        owners.join({"seeds": "0"})
        name = owners.me.id
        assert not looker.is_dead(name)
        end = time.monotonic() + 10
        while not looker.watch.moved(name) and time.monotonic() < end:
            time.sleep(0.01)
            looker.is_dead(name)
        assert looker.watch.moved(name)
        found = looker.find(name)
        assert found is not None
        assert (found.joined, found.wants) == (True, {"seeds": "0"})
    assert looker.is_dead(name)
    assert list((tmp_path / "owners").iterdir()) == []


def test_the_heart_makes_no_folder_that_was_deleted(tmp_path: Path) -> None:
    with Owners(tmp_path / "owners", every=0.01) as owners:
        (tmp_path / "owners").rename(tmp_path / "moved")
        beat = owners.me.beat
        end = time.monotonic() + 10
        while owners.me.beat < beat + 3 and time.monotonic() < end:
            time.sleep(0.01)
        assert owners.me.beat >= beat + 3
        assert not (tmp_path / "owners").exists()


def test_whether_somebody_works_in_a_folder_shows_at_a_look(tmp_path: Path, stack: ExitStack) -> None:
    assert not is_at_work(tmp_path)
    assert not list(tmp_path.iterdir())
    with ended() as facts:
        Process(tmp_path, stack, **facts)
    assert not is_at_work(tmp_path)
    far = Process(tmp_path, stack, machine="far")
    assert is_at_work(tmp_path)
    file = tmp_path / FOLDER / run_folder.OWNERS / f"{far.owners.me.id}.json"
    old = time.time() - LIMIT - 1
    os.utime(file, (old, old))
    assert not is_at_work(tmp_path)
    Process(tmp_path, stack)
    assert is_at_work(tmp_path)
