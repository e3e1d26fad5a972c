"""Whether what is going to be written fits on the disk."""

import shutil
from pathlib import Path

from selfdistill.errors import DiskError


def check_space(folder: Path, needed: int, what: str, remedy: str) -> None:
    """Compares free space with what is going to be written.

    Args:
        folder: where it is written; it need not exist yet.
        needed: bytes.
        what: what is written, the beginning of the message.
        remedy: the end of the message.

    Raises:
        DiskError: there is too little.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise DiskError(f"{what} {in_words(needed)}, but {folder} has {in_words(free)} free. {remedy}")


def in_words(size: int) -> str:
    """Bytes in the largest unit that leaves a number of at least 1: ``1.5 GB``."""
    unit = 0
    number = float(size)
    while number >= 1000 and unit < 4:
        number, unit = number / 1000, unit + 1
    return f"{number:.{1 if unit else 0}f} {('bytes', 'kB', 'MB', 'GB', 'TB')[unit]}"
