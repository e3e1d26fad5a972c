"""The ledger's folder: a model's memory of its skills, the weights that hold them, and where each version came from.

``ledger.json`` holds the state. A version's folder is complete before it is renamed into place, and it counts only
once ``ledger.json`` is replaced, so a crash leaves either the old state or the new one. Versions form a tree: each
names its parent. The skills held are those learned by the versions on the path from the base to the current one.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from selfdistill import run_folder
from selfdistill.checkpoints import lock
from selfdistill.checkpoints.commit import place, tidy
from selfdistill.errors import DamagedFilesError, UserError, quoted
from selfdistill.records.ledger import LedgerRecord, Skill, Version
from selfdistill.run_folder import LEDGER, REFUSED, SKILL, SKILL_ITEMS, STAGING, VERSIONS
from selfdistill.settings.ledger import NAME
from selfdistill.types import Example

BASE = 0
"""Version number of the base model, whose weights are not copied into the ledger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The state of a ledger's folder."""

    folder: Path
    base: str
    """The base model's name, or its absolute path."""
    current: int = BASE
    versions: tuple[Version, ...] = field(default=())
    """All versions ever made, refused ones included, by rising number."""

    def version(self, number: int) -> Version:
        """The version of that number. Raises UserError if there is none."""
        for version in self.versions:
            if version.number == number:
                return version
        known = ", ".join(str(v.number) for v in self.versions[-10:]) or "none yet"
        raise UserError(f"{self.folder} has no version {number}. Its versions: 0 (the base model), {known}.")

    def place(self, number: int) -> Path:
        """The folder of a version's weights and records. Raises UserError if there is no such version."""
        return self.folder / (REFUSED if self.version(number).refused else VERSIONS) / f"{number:04d}"

    def model_name(self, number: int) -> str:
        """The name or path from which a version's model is loaded. Raises UserError if its weights are gone."""
        if number == BASE:
            return self.base
        path = self.place(number)
        if not any(path.glob("*.safetensors")):
            raise UserError(f"{path} holds no weights. Put them back, or roll back to another version.")
        return str(path)

    def lineage(self) -> list[Version]:
        """The versions whose skills are held: from the first to the current one, each the parent of the next."""
        newest_first: list[Version] = []
        number = self.current
        while number != BASE:
            newest_first.append(self.version(number))
            number = newest_first[-1].parent
        return newest_first[::-1]

    def status(self, number: int) -> str:
        """One of: current, previous (an ancestor of the current version), refused, rolled back."""
        if number == self.current:
            return "current"
        if number == BASE or number in [version.number for version in self.lineage()]:
            return "previous"
        return "refused" if self.version(number).refused else "rolled back"

    def next_number(self) -> int:
        """A number above that of every version and of every folder, recorded or not."""
        folders = [path.name for kind in (VERSIONS, REFUSED) for path in (self.folder / kind).glob("*")]
        return 1 + max([v.number for v in self.versions] + [int(n) for n in folders if n.isdecimal()], default=BASE)

    def unrecorded(self) -> list[Path]:
        """Folders that look like versions but are not recorded: left by a crash, or put there by somebody."""
        known = [self.place(version.number) for version in self.versions]
        folders = [path for kind in (VERSIONS, REFUSED) for path in sorted((self.folder / kind).glob("*"))]
        return [path for path in folders if path not in known]


@contextlib.contextmanager
def locked(folder: Path) -> Generator[None]:
    """Holds the lock of a ledger; creates the folder if there is none, and clears away what a crash left half-written.

    Raises:
        UserError: the folder holds something other than a ledger, or another process holds the lock.
        DiskError: something can't be deleted.
    """
    if folder.is_file():
        raise UserError(f"--ledger {folder} is a file. Name a folder.")
    foreign = [path for path in folder.glob("*") if not path.name.startswith(".")]
    if foreign and not (folder / LEDGER).is_file():
        raise UserError(f"--ledger {folder} is not empty and holds no {LEDGER}. Name a new folder, or a ledger.")
    with lock.locked(folder, "--ledger"):
        tidy(folder)
        yield


def read(folder: Path) -> Ledger:
    """The ledger in ``folder``.

    Raises:
        UserError: there is none, its file is broken or has another format, or a version that it needs is missing.
    """
    path = folder / LEDGER
    if not path.is_file():
        raise UserError(f"{folder} holds no {LEDGER}. Begin a ledger with `selfdistill learn --ledger {folder}`.")
    remedy = "Put back a copy of it."
    record = run_folder.read_record(path, LedgerRecord, remedy)
    versions = tuple(replace(version, status="") for version in record.versions)  # `Ledger.status` computes it
    ledger = Ledger(folder=folder, base=record.base, current=record.current, versions=versions)
    if any(version.parent >= version.number for version in ledger.versions):
        raise UserError(f"{path} is broken: a version is older than its parent. {remedy}")
    if odd := next((v.skill.name for v in ledger.versions if not NAME.fullmatch(v.skill.name)), None):
        raise UserError(f"{path} is broken: {quoted(odd)} is no name of a skill. {remedy}")
    ledger.lineage()  # raises if an ancestor is missing
    return ledger


def write(ledger: Ledger) -> None:
    """Replaces ``ledger.json``, which is the moment from which the new state counts."""
    record = LedgerRecord(
        base=ledger.base,
        current=ledger.current,
        held=[version.skill.name for version in ledger.lineage()],
        versions=tuple(replace(version, status=ledger.status(version.number)) for version in ledger.versions),
    )
    run_folder.write_json(ledger.folder / LEDGER, record)


def begin(folder: Path, model_name: str | None, default: str) -> Ledger:
    """The ledger in ``folder``, or a new one that is not yet written.

    Args:
        folder: the ledger's folder.
        model_name: the base model that the user named, if any.
        default: the base model of a new ledger if none was named.

    Raises:
        UserError: the ledger has versions, and its base model is not the one named.
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
        f"--model_name {model_name}: the base model of {folder} is {ledger.base}, and learning continues from its "
        "current version. Leave --model_name out."
    )


def stage(ledger: Ledger) -> Path:
    """Creates an empty staging folder for the next version and returns it; deletes what a crash left in staging."""
    write(ledger)  # from now on the folder is recognised as a ledger
    shutil.rmtree(ledger.folder / STAGING, ignore_errors=True)
    folder = ledger.folder / STAGING / f"{ledger.next_number():04d}"
    folder.mkdir(parents=True)
    return folder


def commit(ledger: Ledger, staged: Path, version: Version) -> Ledger:
    """Moves the staged folder, which is sealed, to its final place and records the version, which becomes current
    unless it is refused.

    Returns:
        The new state of the ledger.
    """
    current = ledger.current if version.refused else version.number
    after = replace(ledger, current=current, versions=(*ledger.versions, version))
    run_folder.make_folder(after.place(version.number).parent)
    place(staged, after.place(version.number))
    write(after)
    return after


def rolled_back(ledger: Ledger, to: int | None) -> Ledger:
    """The ledger with version ``to`` as the current one; by default the parent of the current version. Nothing is
    deleted, and nothing written.

    Raises:
        UserError: the version was refused, is current already, does not exist, or has lost its weights.
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
    return replace(ledger, current=to)


def fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 of the rows without their ids, in hex; it does not depend on their order."""
    lines = sorted(json.dumps(row | {"id": ""}, sort_keys=True, default=str) for row in map(_row, examples))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def write_items(folder: Path, examples: Sequence[Example]) -> None:
    """Copies evaluation items into a version's folder, so that later versions are scored on exactly these."""
    run_folder.write_jsonl(folder / SKILL / SKILL_ITEMS, map(_row, examples))


def read_items(folder: Path, skill: Skill) -> list[Example]:
    """The evaluation items of the skill that the version in ``folder`` learned.

    Raises:
        UserError: the file can't be read, or the items were changed.
    """
    path = folder / SKILL / SKILL_ITEMS
    try:
        rows = list(run_folder.read_jsonl(path))
        examples = [Example(**row | {name: tuple(row.get(name, ())) for name in _TURNS}) for row in rows]
    except (OSError, ValueError, TypeError) as error:
        raise DamagedFilesError(f"{path} can't be read ({type(error).__name__}). Put back a copy of it.") from error
    if fingerprint(examples) != skill.items_sha256:
        raise DamagedFilesError(f"{path} was changed since {skill.name} was learned. Put back a copy of it.")
    return examples


_TURNS = ("prompt", "demonstration", "tools")


def _row(example: Example) -> dict[str, Any]:
    """The example without empty fields, in columns that ``eval --dataset_path`` can read."""
    return {name: value for name, value in asdict(example).items() if value not in (None, "", ())}
