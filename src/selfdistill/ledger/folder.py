"""The ledger: a folder that is a model's memory, of skills, the weights that hold them, and where these came from.

``ledger.json`` is its state. A version's folder is complete before it is renamed into place, and only replacing
``ledger.json`` makes it count, so that a crash leaves the old state or the new one. Versions form a tree: each
names its parent, and what is held is what the versions from the base to the current one learned.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from selfdistill import run_folder
from selfdistill.errors import UserError
from selfdistill.records.ledger import LedgerRecord, Skill, Version
from selfdistill.run_folder import LEDGER, LEDGER_LOCK, REFUSED, SKILL, SKILL_ITEMS, STAGING, VERSIONS
from selfdistill.types import Example

BASE = 0
"""Number of the base model, whose weights stay where they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The state of a ledger's folder."""

    folder: Path
    base: str
    """The base model's name, or its absolute path."""
    current: int = BASE
    versions: tuple[Version, ...] = field(default=())
    """All that were ever made, refused ones too, by number."""

    def version(self, number: int) -> Version:
        """Raises UserError where there is none of that number."""
        for version in self.versions:
            if version.number == number:
                return version
        known = ", ".join(str(v.number) for v in self.versions[-10:]) or "none yet"
        raise UserError(f"{self.folder} has no version {number}. Its versions: 0 (the base model), {known}.")

    def place(self, number: int) -> Path:
        """Folder of a version's weights and records."""
        return self.folder / (REFUSED if self.version(number).refused else VERSIONS) / f"{number:04d}"

    def model_name(self, number: int) -> str:
        """What loads a version's model. Raises UserError where its weights are gone."""
        if number == BASE:
            return self.base
        path = self.place(number)
        if not any(path.glob("*.safetensors")):
            raise UserError(f"{path} holds no weights. Put them back, or roll back to another version.")
        return str(path)

    def lineage(self) -> list[Version]:
        """The versions from the first to the current one, each the parent of the next: their skills are held."""
        found: list[Version] = []
        number = self.current
        while number != BASE:
            found.append(self.version(number))
            number = found[-1].parent
        return found[::-1]

    def status(self, number: int) -> str:
        """current, previous (an ancestor of it), refused or rolled back."""
        if number == self.current:
            return "current"
        if number == BASE or number in [version.number for version in self.lineage()]:
            return "previous"
        return "refused" if self.version(number).refused else "rolled back"

    def next_number(self) -> int:
        """Above every version, also above folders of versions that a crash kept from being recorded."""
        folders = [path.name for kind in (VERSIONS, REFUSED) for path in (self.folder / kind).glob("*")]
        return 1 + max([v.number for v in self.versions] + [int(n) for n in folders if n.isdecimal()], default=BASE)

    def unrecorded(self) -> list[Path]:
        """Folders of versions that the ledger doesn't know: left by a crash, or put there by somebody."""
        known = [self.place(version.number) for version in self.versions]
        folders = [path for kind in (VERSIONS, REFUSED) for path in sorted((self.folder / kind).glob("*"))]
        return [path for path in folders if path not in known]


@contextlib.contextmanager
def locked(folder: Path) -> Generator[None]:
    """Holds the lock of a ledger, whose folder is made where there is none.

    Raises:
        UserError: the folder is something else's, or another process holds the lock.
    """
    from filelock import FileLock, Timeout

    if folder.is_file():
        raise UserError(f"--ledger {folder} is a file. Name a folder.")
    foreign = [path for path in folder.glob("*") if not path.name.startswith(".")]
    if foreign and not (folder / LEDGER).is_file():
        raise UserError(f"--ledger {folder} is not empty and holds no {LEDGER}. Name a new folder or a ledger's.")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LEDGER_LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(f"--ledger {folder}: another command is at work in it. Wait until it is done.") from error
    try:
        yield
    finally:
        lock.release()


def read(folder: Path) -> Ledger:
    """The ledger in ``folder``.

    Raises:
        UserError: there is none, or its file is of another format or broken.
    """
    path = folder / LEDGER
    if not path.is_file():
        raise UserError(f"{folder} holds no {LEDGER}. Begin a ledger with `selfdistill learn --ledger {folder}`.")
    remedy = "Put back a copy of it."
    found = run_folder.read_record(path, LedgerRecord, remedy)
    versions = tuple(replace(version, status="") for version in found.versions)  # `Ledger.status` tells it
    ledger = Ledger(folder=folder, base=found.base, current=found.current, versions=versions)
    if any(version.parent >= version.number for version in ledger.versions):
        raise UserError(f"{path} is broken: a version is older than its parent. {remedy}")
    ledger.lineage()
    return ledger


def write(ledger: Ledger) -> None:
    """Replaces ``ledger.json``: the moment at which a new state counts."""
    record = LedgerRecord(
        base=ledger.base,
        current=ledger.current,
        held=[version.skill.name for version in ledger.lineage()],
        versions=tuple(replace(version, status=ledger.status(version.number)) for version in ledger.versions),
    )
    run_folder.write_json(ledger.folder / LEDGER, record)


def begin(folder: Path, model_name: str | None, default: str) -> Ledger:
    """The ledger in ``folder``, a new one where there is none yet; its base is ``model_name`` or ``default``.

    Raises:
        UserError: another base is named than that of the ledger, which has versions.
    """
    base = model_name or default
    if Path(base).expanduser().exists():
        base = str(Path(base).expanduser().resolve())
    ledger = read(folder) if (folder / LEDGER).is_file() else Ledger(folder=folder, base=base)
    if not ledger.versions:
        return replace(ledger, base=base)
    if model_name is None or base == ledger.base:
        return ledger
    raise UserError(
        f"--model_name {model_name}: the base of {folder} is {ledger.base}, and learning goes on from its current "
        "version. Leave --model_name out."
    )


def stage(ledger: Ledger) -> Path:
    """An empty folder for the next version, where nothing counts yet; what a crash left there is deleted."""
    write(ledger)  # so that the folder is known as a ledger's from now on
    shutil.rmtree(ledger.folder / STAGING, ignore_errors=True)
    folder = ledger.folder / STAGING / f"{ledger.next_number():04d}"
    folder.mkdir(parents=True)
    return folder


def commit(ledger: Ledger, staged: Path, version: Version) -> Ledger:
    """Moves the staged folder to its place and records the version, as the current one unless it is refused."""
    current = ledger.current if version.refused else version.number
    after = replace(ledger, current=current, versions=(*ledger.versions, version))
    _flush(staged)
    place = after.place(version.number)
    place.parent.mkdir(exist_ok=True)
    staged.rename(place)
    write(after)
    return after


def roll_back(ledger: Ledger, to: int | None) -> Ledger:
    """Makes version ``to``, by default the current one's parent, the current one. Nothing is deleted.

    Raises:
        UserError: it was refused, is current, is not there, or has lost its weights.
    """
    if to is None:
        if ledger.current == BASE:
            raise UserError(f"{ledger.folder}: the base model is current, and nothing came before it.")
        to = ledger.version(ledger.current).parent
    if to != BASE and ledger.version(to).refused:
        raise UserError(f"--to {to}: version {to} was refused. Name one that was promoted.")
    if to == ledger.current:
        raise UserError(f"--to {to}: version {to} is current already.")
    ledger.model_name(to)
    after = replace(ledger, current=to)
    write(after)
    return after


def fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 of the rows' content, ids aside, whatever their order."""
    lines = sorted(json.dumps(row | {"id": ""}, sort_keys=True, default=str) for row in map(_row, examples))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def write_items(folder: Path, examples: Sequence[Example]) -> None:
    """Copies evaluation items into a version's folder, so that later the very same are scored."""
    run_folder.write_jsonl(folder / SKILL / SKILL_ITEMS, map(_row, examples))


def read_items(folder: Path, skill: Skill) -> list[Example]:
    """The items of the skill that the version in ``folder`` learned. Raises UserError where they were changed."""
    path = folder / SKILL / SKILL_ITEMS
    try:
        rows = list(run_folder.read_jsonl(path))
        examples = [Example(**row | {name: tuple(row.get(name, ())) for name in _TURNS}) for row in rows]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} can't be read ({type(error).__name__}). Put back a copy of it.") from error
    if fingerprint(examples) != skill.items_sha256:
        raise UserError(f"{path} was changed since {skill.name} was learned. Put back a copy of it.")
    return examples


_TURNS = ("prompt", "demonstration")


def _row(example: Example) -> dict[str, Any]:
    """The example without what it lacks, in columns that ``eval --dataset_path`` reads, too."""
    return {name: value for name, value in asdict(example).items() if value not in (None, "", ())}


def _flush(folder: Path) -> None:
    """Every file of the folder onto the disk, so that no power cut leaves a recorded version without weights."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
