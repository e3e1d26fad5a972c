"""One run at a time in an output folder.

The lock is the system's (``flock``) on a file in the folder. It ends with the process that holds it, however that ends;
the file stays and does no harm.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from selfdistill import run_folder
from selfdistill.errors import DiskError, UserError
from selfdistill.run_folder import LOCK


@contextmanager
def locked(folder: Path, setting: str = "--output_dir") -> Generator[None]:
    """Holds the lock of a folder, which is created if it is not there. A thread may take a lock that it holds.

    Args:
        folder: the folder.
        setting: what named it, for the message.

    Raises:
        UserError: another process or thread holds the lock.
        DiskError: the folder can't be written.
    """
    from filelock import FileLock, Timeout

    try:
        run_folder.make_folder(folder)
        lock = FileLock(folder.resolve() / LOCK, blocking=False, is_singleton=True)
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{setting} {folder}: another command is using it. Wait until it has finished, or name another folder."
        ) from error
    except OSError as error:
        raise DiskError(f"{setting} {folder} can't be written ({error.strerror}). Name another folder.") from error
    try:
        yield
    finally:
        lock.release()


def check_unlocked(folder: Path, setting: str = "--output_dir") -> None:
    """Raises UserError if another process holds the lock of a folder. Changes nothing."""
    if (folder / LOCK).is_file():
        with locked(folder, setting):
            pass


def is_locked(folder: Path) -> bool:
    """Whether something holds the lock of a folder, as far as can be told. Changes nothing."""
    from filelock import FileLock, Timeout

    if not (folder / LOCK).is_file():
        return False
    try:
        FileLock(folder.resolve() / LOCK, blocking=False).acquire().lock.release()
    except Timeout:
        return True
    except OSError:  # another user's folder
        return False
    return False
