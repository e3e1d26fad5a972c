"""Whether a ledger's versions are as they were committed.

A version's folder has a manifest of all its files, and ``ledger.json`` has the manifest's hash: answers, items, scorer
and weights can't be changed, and limits and verdicts in ``ledger.json`` not either, without it being noticed.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

from selfdistill import run_folder
from selfdistill.checkpoints import commit
from selfdistill.checkpoints.manifest import DamagedError, verify
from selfdistill.errors import DamagedFilesError, DiskError, UserError, brief
from selfdistill.ledger.folder import BASE, Ledger
from selfdistill.records.ledger import Version

WEIGHTS = ".safetensors"


def seal(staged: Path) -> str:
    """Writes the manifest of a version's folder and forces everything to disk; returns the manifest's hash, in hex.

    Raises:
        DiskError: the folder can't be written.
    """
    try:
        commit.seal(staged)
        return _hash(staged)
    except (OSError, DamagedError) as error:
        raise DiskError(f"{staged} can't be written: {brief(error)}. The ledger is as before.") from error


def check_held(book: Ledger) -> None:
    """Checks the versions whose skills are held, with the weights of the current one.

    Raises:
        DamagedFilesError: a file was changed or is gone, or ``ledger.json`` differs from what a version records.
    """
    for version in book.lineage():
        check_version(book, version.number, weights=version.number == book.current)


def check_version(book: Ledger, number: int, *, weights: bool) -> None:
    """Checks a version. ``weights``: also its weights, which may be large; otherwise only their size.

    Raises:
        DamagedFilesError: as ``check_held``.
    """
    if number == BASE:
        return
    version, folder = book.version(number), book.place(number)
    try:
        if not (folder / run_folder.MANIFEST).is_file():
            raise DamagedError(f"it has no {run_folder.MANIFEST}")
        if _hash(folder) != version.manifest:
            raise DamagedError(f"its {run_folder.MANIFEST} was changed")
        verify(folder, others=True, unread=None if weights else WEIGHTS)
        kept = run_folder.read_record(folder / run_folder.GATE, Version)
        if kept != replace(version, manifest="", status=""):
            raise DamagedError(f"{run_folder.LEDGER} says something else of it")
    except (DamagedError, UserError) as error:
        raise DamagedFilesError(
            f"{folder}: {str(error).removesuffix('.')}. Put back a copy of it, or roll back to a version before it."
        ) from error


def _hash(folder: Path) -> str:
    return hashlib.sha256((folder / run_folder.MANIFEST).read_bytes()).hexdigest()
