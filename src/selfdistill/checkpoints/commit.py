"""Writes a folder, or the files of one, so that a crash at any moment leaves either the old state or the new one."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from selfdistill import run_folder
from selfdistill.checkpoints.manifest import DamagedError, Manifest, digests, files_in, verify
from selfdistill.errors import DiskError, UserError
from selfdistill.run_folder import MANIFEST, STAGING, TRASH, sync

LAST = ("adapter_config.json", "config.json")
"""Files by which programs recognise a model: they come after its weights, in this order."""


def commit(folder: Path, write: Callable[[Path], None]) -> Manifest:
    """Writes a folder in one go. An earlier folder of that name is replaced.

    Args:
        folder: the folder to write. The one that it lies in must be there: it is the run's, and locked.
        write: writes the files into the empty folder that it is given.

    Raises:
        OSError: it can't be written; an earlier folder is as it was.
        DamagedError: what was read back is not what was written.
    """
    staging = folder.with_name(f"{STAGING}-{folder.name}")
    try:
        if staging.exists():
            shutil.rmtree(staging)
        staging.mkdir()
        sync(staging.parent)
        manifest = _written(staging, write)
        place(staging, folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return manifest


def install(folder: Path, write: Callable[[Path], None]) -> Manifest:
    """Replaces the files that a manifest lists in a folder which holds other files, too.

    The folder has no manifest while files are being moved; so a crash in between is seen. A model's config is moved
    after its weights.

    Args:
        folder: the folder; created if it is not there.
        write: writes the new files into the empty folder that it is given.

    Raises:
        OSError: they can't be written; before the first file is moved, the folder is as it was.
        DamagedError: what was read back is not what was written.
    """
    staging = folder / f"{STAGING}-model"
    try:
        if staging.exists():
            shutil.rmtree(staging)
        run_folder.make_folder(staging)
        manifest = _written(staging, write)
        earlier = _listed(folder)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(folder / MANIFEST)
        sync(folder)
        for name in sorted(manifest.files, key=lambda name: (LAST.index(name) if name in LAST else -1, name)):
            run_folder.make_folder((folder / name).parent)
            os.replace(staging / name, folder / name)
        for name in earlier - manifest.files.keys():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(folder / name)
        for parent in {(folder / name).parent for name in manifest.files}:
            sync(parent)
        os.replace(staging / MANIFEST, folder / MANIFEST)
        sync(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest


def seal(folder: Path) -> Manifest:
    """Forces a folder's files to disk, writes its manifest and reads everything back.

    Raises:
        OSError: a file can't be written.
        DamagedError: what was read back is not what was written.
    """
    written = Manifest(files=digests(folder, files_in(folder)))
    sync_tree(folder)
    run_folder.write_json(folder / MANIFEST, written)
    if verify(folder, from_disk=True) != written:
        raise DamagedError(f"its {MANIFEST} was changed")
    return written


def sync_tree(folder: Path) -> None:
    """Forces every file and folder below a folder, and the folder itself, to disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if not path.is_symlink():
            sync(path)
    sync(folder)


def place(staging: Path, folder: Path) -> None:
    """Renames a complete folder to its final name; an earlier folder of that name is deleted afterwards."""
    trash = folder.with_name(f"{TRASH}-{folder.name}")
    if folder.is_dir():
        shutil.rmtree(trash, ignore_errors=True)
        os.replace(folder, trash)
    try:
        os.replace(staging, folder)
    except OSError:
        if trash.is_dir():
            os.replace(trash, folder)
        raise
    sync(folder.parent)
    shutil.rmtree(trash, ignore_errors=True)


def remove(folder: Path) -> None:
    """Deletes a folder: it is renamed first, so that no half of it can be taken for the whole."""
    trash = folder.with_name(f"{TRASH}-{folder.name}")
    shutil.rmtree(trash, ignore_errors=True)
    os.replace(folder, trash)
    sync(folder.parent)
    shutil.rmtree(trash)


def tidy(parent: Path) -> None:
    """Clears away what a crash left: half-written files and folders, and folders on their way out. Hold the folder's
    lock.

    A folder that was to be replaced, and whose successor had not arrived, is put back.

    Raises:
        UserError: something can't be deleted.
    """
    try:
        for trash in parent.glob(f"{TRASH}-*"):
            folder = trash.with_name(trash.name.removeprefix(f"{TRASH}-"))
            if not folder.exists() and _is_whole(trash):
                os.replace(trash, folder)
            else:
                shutil.rmtree(trash)
        for staging in parent.glob(f"{STAGING}-*"):
            if staging.is_dir():
                shutil.rmtree(staging)
            else:
                staging.unlink()
    except OSError as error:
        raise DiskError(f"{error.filename} can't be deleted ({error.strerror}). Delete it yourself.") from error


def _written(staging: Path, write: Callable[[Path], None]) -> Manifest:
    """Writes files into an empty folder and seals it.

    Raises:
        FileNotFoundError: the folder was deleted or moved meanwhile; what was written later may have made another one.
        OSError, DamagedError: as ``seal``.
    """
    mask = os.umask(0o077)
    os.umask(mask)
    held = os.open(staging, os.O_RDONLY)  # while it is open, no other folder gets its number
    try:
        try:
            write(staging)
        except SafetensorError as error:
            if (number := re.search(r"\(os error (\d+)\)", str(error))) is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(staging)) from error
        for name in files_in(staging):
            (staging / name).chmod(0o666 & ~mask)  # some libraries write for their owner alone
        if not os.path.samestat(os.fstat(held), os.stat(staging)):
            raise FileNotFoundError(errno.ENOENT, "It was deleted or moved while it was written", str(staging))
    finally:
        os.close(held)
    return seal(staging)


def _listed(folder: Path) -> set[str]:
    """Files of the manifest in a folder; none if there is no manifest, or it can't be read."""
    try:
        return set(run_folder.read_record(folder / MANIFEST, Manifest).files)
    except UserError:
        return set()


def _is_whole(folder: Path) -> bool:
    try:
        verify(folder)
    except DamagedError:
        return False
    return True
