"""The checkpoints of a run: the newest good one, and which of them may go."""

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from selfdistill import run_folder
from selfdistill.checkpoints.commit import remove
from selfdistill.checkpoints.manifest import DamagedError, verify
from selfdistill.run_folder import CHECKPOINT, EARLIER, sync

FEWEST = 2
"""Checkpoints that are always kept, so that one that turns out to be damaged has one before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The outcome of a search."""

    newest: Path | None
    """The newest good checkpoint."""
    damaged: tuple[str, ...]
    """What is wrong with each newer one, newest first: ``checkpoint-4: optimizer.json was changed``."""


def number_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was made; -1 if the name is not that of a checkpoint."""
    number = checkpoint.name.removeprefix(CHECKPOINT)
    is_one = checkpoint.name.startswith(CHECKPOINT) and number.isascii() and number.isdecimal()
    return int(number) if is_one else -1


def checkpoints_in(folder: Path) -> list[Path]:
    """The folders ``checkpoint-N``, by rising N."""
    found = [path for path in folder.glob(f"{CHECKPOINT}*") if path.is_dir() and number_of(path) >= 0]
    return sorted(found, key=number_of)


def newest_valid(folder: Path) -> Found:
    """Looks for the newest checkpoint that is as it was committed."""
    damaged: list[str] = []
    for checkpoint in reversed(checkpoints_in(folder)):
        try:
            verify(checkpoint)
        except DamagedError as error:
            damaged.append(f"{checkpoint.name}: {error}")
        else:
            return Found(newest=checkpoint, damaged=tuple(damaged))
    return Found(newest=None, damaged=tuple(damaged))


def retain(folder: Path, limit: int, *, best: Path | None = None, verified: Collection[str] = ()) -> None:
    """Deletes checkpoints older than the last ``limit`` good ones, of which at least two are kept.

    Args:
        folder: the run's folder.
        limit: good checkpoints to keep; damaged ones do not count.
        best: a checkpoint that is kept besides.
        verified: names of checkpoints that are known to be good, and are not hashed again.

    Raises:
        OSError: one can't be deleted.
    """
    good = 0
    for checkpoint in reversed(checkpoints_in(folder)):
        if good >= max(limit, FEWEST):
            if best is None or checkpoint.name != best.name:
                remove(checkpoint)
            continue
        try:
            if checkpoint.name not in verified:
                verify(checkpoint)
            good += 1
        except DamagedError:
            continue


def set_aside(folder: Path, step: int, records: Collection[str] = (), *, beside: Collection[str] = ()) -> Path | None:
    """Moves what another training of a run left into a new folder ``earlier-N``, so that nothing of it is lost or mixed
    with what comes.

    Args:
        folder: the run's folder.
        step: checkpoints of later steps are moved.
        records: names of files that are copied if they are there and not empty.
        beside: names of files that are copied along if anything else is moved or copied.

    Returns:
        The new folder; None if there was nothing to move.
    """
    later = [checkpoint for checkpoint in checkpoints_in(folder) if number_of(checkpoint) > step]
    there = [folder / name for name in records if (folder / name).is_file() and (folder / name).stat().st_size]
    if not later and not there:
        return None
    there += [folder / name for name in beside if (folder / name).is_file()]
    number = 1
    while (folder / f"{EARLIER}{number}").exists():
        number += 1
    target = folder / f"{EARLIER}{number}"
    run_folder.make_folder(target)
    for path in there:
        shutil.copy2(path, target / path.name)
        sync(target / path.name)
    for path in later:
        path.rename(target / path.name)
    sync(target)
    sync(folder)
    return target
