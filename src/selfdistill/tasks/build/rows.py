"""What a builder is, and how its rows are written to disk."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from selfdistill.errors import UserError
from selfdistill.settings.build import BuildOptions
from selfdistill.types import Message

TRAIN, EVALUATION = "train_data", "eval_data"

Row = dict[str, str]
Ask = Callable[[Sequence[tuple[Message, ...]]], list[str]]
"""From chats that end with a user's turn to a model's answers."""
Say = Callable[[str], None]
"""Shows a person a line about progress."""
Build = Callable[[BuildOptions, Ask, Say], tuple[list[Row], list[Row]]]
"""From options to training and evaluation rows."""


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Checks that data may be written into ``folder``.

    Raises:
        UserError: it exists and ``overwrite`` is not given, it holds something other than data, or it can't be made
            because a file is in the way.
    """
    if blocking := next((parent for parent in folder.parents if parent.is_file()), None):
        raise UserError(f"--output_dir: {blocking} is a file. Name a folder.")
    if folder.exists() and not overwrite:
        raise UserError(f"{folder} exists. Name another --output_dir or give --overwrite.")
    if not folder.exists():
        return
    if not folder.is_dir() or {path.name for path in folder.iterdir()} - {TRAIN, EVALUATION}:
        raise UserError(
            f"--overwrite: {folder} holds something other than {TRAIN} and {EVALUATION}. Empty it yourself."
        )


def write_rows(folder: Path, train: list[Row], evaluation: list[Row]) -> None:
    """Writes both Arrow folders to a temporary folder and moves it to ``folder``, replacing what was there."""
    import datasets

    datasets.disable_progress_bars()
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, rows in ((TRAIN, train), (EVALUATION, evaluation)):
            datasets.Dataset.from_list(rows).save_to_disk(str(scratch / name))
        scratch.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
