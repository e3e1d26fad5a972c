"""What a power cut can leave of operations on files.

A disk keeps what was synced: a file's bytes by a sync of the file, a name in a folder by a sync of that folder. Of
everything else any part may be there: of names that were made, moved or removed any selection, of bytes that were
written none, some, all, or zeros in their place. A move is done or not done; it never leaves both names, or none.
"""

import os
import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.faults.suite.operations import DELETE, MAKE, MOVE, Operation

ROOT = 0
"""Number of the folder that is recorded."""
MODES = ("kept", "lost", "beginning", "any")
"""Which names that were not synced are there: all, none, those up to some moment, or any."""
BYTES = ("kept", "lost", "torn", "zeros")

Mode = Literal["kept", "lost", "beginning", "any"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A change of a file or folder, which has a number for its life."""

    kind: Literal["make", "write", "sync", "move", "remove"]
    number: int
    folder: int = -1
    """Where a name is made or removed, or moved to."""
    name: str = ""
    source: int = -1
    """Folder that something is moved from."""
    old: str = ""
    """The name there."""
    data: bytes = b""
    is_folder: bool = False


class Recorder:
    """Notes what happens in a folder: moves, removals and syncs as they are told, files and bytes by looking at the
    folder before each of these."""

    def __init__(self, folder: Path) -> None:
        self.events: list[Event] = []
        self.start = 0
        """Number of the first event; those before it made what was there."""
        self._folder = folder
        self._names: dict[int, dict[str, int]] = {ROOT: {}}
        self._seen: dict[int, tuple[int, ...]] = {}
        self._bytes: dict[int, bytes] = {}
        self._next = ROOT + 1
        if folder.is_dir():
            self.look()
            for number in [*self._bytes, *self._names]:
                self._add(Event(kind="sync", number=number))
        self.start = len(self.events)

    def before(self, operation: Operation) -> None:
        """To be called ahead of an operation."""
        if operation.name in (*MAKE, *MOVE, *DELETE, "fsync"):
            self.look()

    def after(self, operation: Operation) -> None:
        """To be called when an operation has succeeded."""
        if operation.path == "." and operation.name != "fsync":
            return
        if operation.name == "fsync":
            self._add(Event(kind="sync", number=self._number(operation.path)))
        elif operation.name in MAKE:
            self.look()
        elif operation.name in DELETE:
            folder, name = self._place(operation.path)
            self._add(Event(kind="remove", number=self._names[folder][name], folder=folder, name=name))
        elif operation.name in MOVE and operation.target is not None:
            (source, old), (folder, name) = self._place(operation.path), self._place(operation.target)
            number = self._names[source][old]
            self._add(Event(kind="move", number=number, folder=folder, name=name, source=source, old=old))

    def look(self) -> None:
        """Notes what was made and written since it was last called."""
        if self._folder.is_dir():
            self._look(ROOT, str(self._folder))

    def _look(self, folder: int, path: str) -> None:
        there = {entry.name: entry for entry in os.scandir(path)}
        known = self._names[folder]
        for name in [name for name in known if name not in there]:
            self._add(Event(kind="remove", number=known[name], folder=folder, name=name))
        for name, entry in sorted(there.items()):
            is_folder = entry.is_dir(follow_symlinks=False)
            stat = os.stat(f"{path}/{name}")
            if name in known and not is_folder and self._seen[known[name]][0] != stat.st_ino:
                self._add(Event(kind="remove", number=known[name], folder=folder, name=name))
            if name not in known:
                self._add(Event(kind="make", number=self._next, folder=folder, name=name, is_folder=is_folder))
                self._next += 1
            number = known[name]
            seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if is_folder:
                self._look(number, f"{path}/{name}")
            elif self._seen.get(number) != seen:
                self._seen[number] = seen
                data = Path(path, name).read_bytes()
                if data != self._bytes.get(number, b""):
                    self._add(Event(kind="write", number=number, data=data))

    def _add(self, event: Event) -> None:
        self.events.append(event)
        apply(event, self._names, self._bytes)

    def _number(self, path: str) -> int:
        if path == ".":
            return ROOT
        folder, name = self._place(path)
        return self._names[folder][name]

    def _place(self, path: str) -> tuple[int, str]:
        *folders, name = path.split("/")
        number = ROOT
        for folder in folders:
            number = self._names[number][folder]
        return number, name


def apply(event: Event, names: dict[int, dict[str, int]], contents: dict[int, bytes]) -> None:
    """Does an event. What it needs may be missing, where something before it was lost."""
    if event.kind == "make":
        names[event.folder][event.name] = event.number
        if event.is_folder:
            names.setdefault(event.number, {})
        else:
            contents.setdefault(event.number, b"")
    elif event.kind == "write":
        contents[event.number] = event.data
    elif event.kind == "remove" and names[event.folder].get(event.name) == event.number:
        del names[event.folder][event.name]
    elif event.kind == "move":
        if names[event.source].get(event.old) == event.number:
            del names[event.source][event.old]
        names[event.folder][event.name] = event.number


Tree = dict[str, bytes | None]
"""Files by path, with their bytes; folders, with None."""


def state(events: Iterable[Event]) -> Tree:
    """What a folder holds after events of which nothing is lost."""
    names: dict[int, dict[str, int]] = defaultdict(dict)
    contents: dict[int, bytes] = {}
    for event in events:
        apply(event, names, contents)
    return _tree(names, contents)


def after_power_cut(events: list[Event], mode: Mode, chance: random.Random) -> Tree:
    """What a disk can hold if the power is cut after these events."""
    waiting: dict[int, list[int]] = defaultdict(list)
    kept: set[int] = set()
    written: dict[int, bytes] = {}
    synced: dict[int, bytes] = {}
    for position, event in enumerate(events):
        if event.kind == "write":
            written[event.number] = event.data
        elif event.kind == "sync":
            kept.update(waiting.pop(event.number, ()))
            if event.number in written:
                synced[event.number] = written[event.number]
        else:
            waiting[event.folder].append(position)
    loose = sorted(position for positions in waiting.values() for position in positions)
    if mode == "kept":
        kept.update(loose)
    elif mode == "beginning":
        kept.update(loose[: chance.randint(0, len(loose))])
    elif mode == "any":
        kept.update(position for position in loose if chance.random() < 0.5)
    names: dict[int, dict[str, int]] = defaultdict(dict)
    for position in sorted(kept):
        apply(events[position], names, {})
    contents = {
        number: data if synced.get(number) == data else _torn(synced.get(number, b""), data, chance)
        for number, data in written.items()
    }
    folders = {event.number for event in events if event.is_folder}
    return _tree(names, contents, folders)


def _torn(old: bytes, new: bytes, chance: random.Random) -> bytes:
    """What may be there of bytes that were not synced."""
    kind = chance.choice(BYTES)
    if kind == "lost":
        return old
    if kind == "kept":
        return new
    start = len(old) if new.startswith(old) else 0
    end = chance.randint(start, len(new))
    return new[:end] if kind == "torn" else new[:start] + bytes(end - start)


def _tree(names: dict[int, dict[str, int]], contents: dict[int, bytes], folders: Iterable[int] = ()) -> Tree:
    known = {ROOT, *folders, *names}
    found: Tree = {}

    def walk(folder: int, path: str) -> None:
        for name, number in names.get(folder, {}).items():
            if number in known:
                found[f"{path}{name}"] = None
                walk(number, f"{path}{name}/")
            else:
                found[f"{path}{name}"] = contents.get(number, b"")

    walk(ROOT, "")
    return found


def build(tree: Tree, folder: Path) -> None:
    """Makes a folder that holds a tree."""
    folder.mkdir(parents=True)
    for path, data in sorted(tree.items()):
        if data is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(data)
