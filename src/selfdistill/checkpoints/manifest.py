"""``manifest.json``: size and hash of every file of a folder, by which a damaged folder is recognised."""

import hashlib
import os
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from selfdistill import run_folder
from selfdistill.errors import UserError
from selfdistill.run_folder import FORMAT, MANIFEST

PIECE = 64 * 2**20
"""Bytes that are hashed as one piece."""
BLOCK = 2**20
"""Bytes that are read at once."""
THREADS = min(16, os.cpu_count() or 1)


class DamagedError(Exception):
    """A folder is not as it was committed. The message says which file is wrong and how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file as it was written."""

    bytes: int
    blake2b: str
    """See ``digests``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """``manifest.json``."""

    files: dict[str, File]
    """By path inside the folder, with ``/`` between its parts. The manifest itself and hidden files are not listed."""
    format: int = FORMAT


def files_in(folder: Path) -> list[str]:
    """Paths of the files in a folder and its subfolders, sorted, without the manifest and whatever is hidden.

    Raises:
        DamagedError: there is a link, or something else that is neither file nor folder.
        OSError: the folder can't be read.
    """
    found: list[str] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if any(part.startswith(".") for part in name.split("/")) or name == MANIFEST:
            continue
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            found.append(name)
        elif not stat.S_ISDIR(mode):
            raise DamagedError(f"{name} is no regular file")
    return found


def digests(folder: Path, names: Iterable[str], *, from_disk: bool = False) -> dict[str, File]:
    """Sizes and hashes of files.

    A file is hashed in pieces of 64 MiB, several at a time: its hash is the BLAKE2b, of 32 bytes and in hex, of the
    BLAKE2b hashes of its pieces, each of 32 bytes.

    Args:
        folder: the folder.
        names: paths inside it.
        from_disk: let the system drop what it holds of the files in memory first. They must have been synced.

    Raises:
        OSError: a file can't be read.
    """
    sizes = {name: (folder / name).stat().st_size for name in names}
    pieces = [(name, start) for name, size in sizes.items() for start in range(0, size, PIECE)]
    with ThreadPoolExecutor(THREADS) as pool:
        waiting = [pool.submit(_piece_digest, folder / name, start, from_disk) for name, start in pieces]
        hashed = [one.result() for one in waiting]
    by_name = {
        name: b"".join(digest for _, digest in group)
        for name, group in groupby(zip((name for name, _ in pieces), hashed, strict=True), key=lambda pair: pair[0])
    }
    return {
        name: File(bytes=size, blake2b=hashlib.blake2b(by_name.get(name, b""), digest_size=32).hexdigest())
        for name, size in sizes.items()
    }


def verify(folder: Path, *, others: bool = False, from_disk: bool = False, unread: str | None = None) -> Manifest:
    """Checks that a folder holds what its manifest lists, byte for byte, and nothing else, and that the manifest itself
    is as it was written.

    Args:
        folder: the folder.
        others: allow files that the manifest does not list.
        from_disk: see ``digests``.
        unread: how the names of files end of which only the size is compared.

    Returns:
        The manifest.

    Raises:
        DamagedError: it does not.
    """
    try:
        manifest = run_folder.read_record(folder / MANIFEST, Manifest)
        _compare(folder, manifest, others=others, from_disk=from_disk, unread=unread)
        if (folder / MANIFEST).read_text(encoding="utf-8") != run_folder.json_text(manifest):
            raise DamagedError(f"its {MANIFEST} was changed")
    except UserError as error:
        missing = not (folder / MANIFEST).is_file()
        raise DamagedError(f"it has no {MANIFEST}" if missing else f"its {MANIFEST} can't be read") from error
    except OSError as error:
        raise DamagedError(f"{error.filename or folder} can't be read ({error.strerror})") from error
    return manifest


def _compare(folder: Path, manifest: Manifest, *, others: bool, from_disk: bool, unread: str | None) -> None:
    listed = manifest.files
    there = [name for name in listed if (folder / name).is_file()] if others else files_in(folder)
    if missing := sorted(listed.keys() - set(there)):
        raise DamagedError(f"{missing[0]} is missing")
    if added := sorted(set(there) - listed.keys()):
        raise DamagedError(f"{added[0]} does not belong to it")
    for name, file in listed.items():  # before anything is hashed
        size = (folder / name).stat().st_size
        if size != file.bytes:
            raise DamagedError(f"{name} has {size:,} bytes, not {file.bytes:,}")
    read = [name for name in listed if unread is None or not name.endswith(unread)]
    for name, found in digests(folder, read, from_disk=from_disk).items():
        if found != listed[name]:
            raise DamagedError(f"{name} was changed")


def _piece_digest(path: Path, start: int, from_disk: bool) -> bytes:
    """BLAKE2b of a file's bytes from ``start`` to ``start + PIECE``."""
    digest = hashlib.blake2b(digest_size=32)
    with path.open("rb", buffering=0) as file:
        if from_disk and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), start, PIECE, os.POSIX_FADV_DONTNEED)
        file.seek(start)
        left = PIECE
        while left and (block := file.read(min(BLOCK, left))):
            digest.update(block)
            left -= len(block)
    return digest.digest()
