"""Who works in a folder that several machines may share, and who of them is dead.

Every process keeps a file of its own and writes it anew every few seconds. It is dead when that file is gone; when it
ran on this machine, and the system says that it has ended, or that another process has its number by now; or when its
file has stayed the same for a while. That while is measured by whoever looks, so that no two machines' clocks are
compared. File locks, which not every shared folder has, are not used.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from selfdistill import run_folder
from selfdistill.run_folder import FORMAT

EVERY = 10.0
"""Seconds between two beats of a process."""
LIMIT = 120.0
"""Seconds without a beat after which a process is dead. Shared folders show others' files up to a minute late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The file of a process."""

    id: str
    """Of this process alone, whatever its number."""
    host: str
    """Name of its machine, for people."""
    machine: str
    """See ``this_machine``."""
    pid: int
    started: str
    """See ``start_of``."""
    beat: int = 0
    """Counts up as long as it lives."""
    joined: bool = False
    """False until it may work here."""
    wants: dict[str, Any] = field(default_factory=dict[str, Any])
    """What must be the same for all who work here."""
    format: int = FORMAT

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Watch:
    """For how long a text has stayed the same.

    Args:
        clock: gives seconds; only differences count.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[str, float, bool]] = {}

    def still(self, name: str, text: str) -> float:
        """Seconds since ``name`` was first seen with the text that it has now."""
        now = self._clock()
        before = self._seen.get(name)
        if before is None or before[0] != text:
            self._seen[name] = (text, now, before is not None)
            return 0.0
        return now - before[1]

    def moved(self, name: str) -> bool:
        """Whether another text of ``name`` was seen before the last one."""
        return name in self._seen and self._seen[name][2]


class Owners:
    """The processes that use a folder: this one, as long as the context lasts, and the others.

    Args:
        folder: for their files; it is created.
        every: seconds between two beats.
        limit: seconds without a beat after which a process is dead.
        clock: gives seconds; only differences count.
    """

    def __init__(
        self, folder: Path, *, every: float = EVERY, limit: float = LIMIT, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder, self._every, self._limit = folder, every, limit
        self.watch = Watch(clock)
        self.me = Owner(
            id=uuid.uuid4().hex[:12],
            host=socket.gethostname(),
            machine=this_machine(),
            pid=os.getpid(),
            started=start_of(os.getpid()) or "",
        )
        self._writing = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, name="heartbeat", daemon=True)

    def __enter__(self) -> "Owners":
        run_folder.make_folder(self._folder)
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._file(self.me.id).unlink(missing_ok=True)

    def join(self, wants: dict[str, Any]) -> None:
        """Lets the others know that this process works here.

        Args:
            wants: what must be the same for all who do.
        """
        with self._writing:
            self._write(joined=True, wants=wants)

    def part(self) -> None:
        """Lets the others know that this process no longer works here, although it lives."""
        with self._writing:
            self._write(joined=False)

    def beat(self) -> None:
        """Lets the others know that this process lives."""
        with self._writing:
            self._write(beat=self.me.beat + 1)

    def find(self, name: str) -> Owner | None:
        """The owner of an id; None if it has left, or its file can't be read now."""
        try:
            return run_folder.as_record(json.loads(self._file(name).read_text(encoding="utf-8")), Owner)
        except (OSError, ValueError):
            return None

    def others(self) -> list[Owner]:
        """The other processes that are not dead, as far as is known."""
        names = sorted(path.stem for path in self._folder.glob("*.json"))
        found = [self.find(name) for name in names if name != self.me.id and not self.is_dead(name)]
        return [owner for owner in found if owner is not None]

    def is_dead(self, name: str) -> bool:
        """Whether the process of an id has left, ended, or been silent for too long."""
        if name == self.me.id:
            return False
        try:
            text = self._file(name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return True
        except OSError:  # it is just being replaced
            return False
        owner = self.find(name)
        if owner is not None and self._is_here(owner) and not is_running(owner.pid, owner.started):
            return True
        return self.is_still(name, text)

    def is_still(self, name: str, text: str) -> bool:
        """Whether what only a living process would change has been the same for too long."""
        return self.watch.still(name, text) > self._limit

    def is_alive(self, owner: Owner) -> bool:
        """Whether a process is known to live: it runs on this machine, or was seen to beat. Another may live, too."""
        return not self.is_dead(owner.id) and (self._is_here(owner) or self.watch.moved(owner.id))

    def forget_dead(self) -> None:
        """Deletes the files of the dead."""
        for path in self._folder.glob("*.json"):
            if self.is_dead(path.stem):
                path.unlink(missing_ok=True)

    def _is_here(self, owner: Owner) -> bool:
        return owner.machine == self.me.machine

    def _live(self) -> None:
        while not self._over.wait(self._every):
            with contextlib.suppress(OSError):  # a full disk, or no folder any more; who looks will notice
                self.beat()

    def _write(self, **changes: Any) -> None:
        self.me = replace(self.me, **changes)
        file = self._file(self.me.id)
        new = file.with_suffix(".new")  # in a folder that is gone it fails, and does not make another
        new.write_text(run_folder.json_text(self.me), encoding="utf-8")
        os.replace(new, file)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def this_machine() -> str:
    """What two processes have in common if each can tell whether the other runs: machine, boot, and on Linux the
    namespace of process numbers, as a container has its own."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts)


def start_of(pid: int) -> str | None:
    """When a process of this machine started, as its system counts; ``ended`` if nothing but its number is left; None
    if that can't be told."""
    try:  # Linux: the state, and clock ticks since the machine booted
        facts = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return "ended" if facts[0] in "ZX" else facts[19]
    except OSError:
        pass
    try:
        process = psutil.Process(pid)
        return "ended" if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.Error:
        return None


def is_running(pid: int, started: str) -> bool:
    """Whether the process of a number runs on this machine, and is the one that started then."""
    return psutil.pid_exists(pid) and start_of(pid) in (started, None)


def is_at_work(folder: Path) -> bool:
    """Whether somebody works in a folder, by a single look at its owners' files. Changes nothing."""
    for path in (folder / run_folder.LEASES / run_folder.OWNERS).glob("*.json"):
        try:
            owner = run_folder.as_record(json.loads(path.read_text(encoding="utf-8")), Owner)
            is_fresh = time.time() - path.stat().st_mtime < LIMIT
        except (OSError, ValueError):
            continue
        if is_fresh and (owner.machine != this_machine() or is_running(owner.pid, owner.started)):
            return True
    return False
