"""Folders of rows: what datasets' ``save_to_disk`` wrote, and folders of files, with the splits that are in them."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from selfdistill.data.files import READERS, RawRow
from selfdistill.errors import UserError

TRAIN = "train"
EVAL_SPLITS = ("test", "validation", "valid", "val", "eval", "dev")
"""Names of a split to evaluate on; of several the first."""
UNSPLIT = ""
"""Stands for the rows of a folder whose files are of no split."""
_SPLIT = re.compile(rf"(?:^|[-_.])({'|'.join((TRAIN, *EVAL_SPLITS))})(?=$|[-_.])", re.IGNORECASE)
_DATA = "data"
"""Folder in which a copy of a Hub data set has its files."""
_ARROW = ("state.json", "dataset_dict.json", "dataset_info.json")
"""Files by which a folder of ``save_to_disk`` is known."""


def folder_splits(folder: Path) -> dict[str, list[Path]]:
    """The splits of a folder by name, each with its files or, for Arrow, its folder; UNSPLIT if there are none.

    A file is of the split whose name is a part of its own, such as ``train-00000-of-00002.parquet``, or that of the
    folder it is in. Read are the folder's own files, and those in a folder called ``data`` or as a split.

    Raises:
        UserError: the folder holds no rows.
    """
    if (folder / "dataset_dict.json").is_file():
        return {item.name: [item] for item in sorted(folder.iterdir()) if (item / "state.json").is_file()}
    if any((folder / name).is_file() for name in _ARROW):
        return {UNSPLIT: [folder]}
    found: dict[str, list[Path]] = {}
    for file in _files(folder):
        found.setdefault(_split_of(file, folder), []).append(file)
    if not found:
        raise _no_rows(folder)
    return found


def folder_rows(folder: Path, splits: Sequence[str], *, asked: bool = False) -> Iterator[RawRow]:
    """The rows of a folder, of the first of ``splits`` that it has; of a folder without splits all rows.

    Args:
        folder: the folder.
        splits: names of splits.
        asked: whether the person asked for the split. Then a folder without splits is an error.

    Raises:
        UserError: the folder can't be read, or has none of the splits.
    """
    found = folder_splits(folder)
    if set(found) == {UNSPLIT}:
        if asked:
            raise UserError(f"--split {splits[0]}: {folder} has no splits. Leave it out.")
        split: str | None = UNSPLIT
    else:
        split = split_in(found, splits)
    if split is None:
        there = ", ".join(name or "files of no split" for name in list(found)[:5])
        raise UserError(f"{folder} has no split {splits[0]!r} but {there}: name one with --split.")
    for place in found[split]:
        if place.is_dir():
            yield from arrow_rows(place, folder.name)
        else:
            yield from READERS[place.suffix.lower()](place)


def split_in(there: Iterable[str], splits: Sequence[str]) -> str | None:
    """The first of ``splits`` that is there; None if none is."""
    names = list(there)
    return next((split for split in splits if split in names), None)


def _files(folder: Path) -> list[Path]:
    inner = [item for item in folder.iterdir() if item.is_dir() and (item.name == _DATA or _is_split(item.name))]
    places = [folder, *inner, *(item for data in inner for item in data.iterdir() if item.is_dir())]
    files = [file for place in places for file in place.iterdir() if file.is_file() and not file.name.startswith(".")]
    return sorted(file for file in files if file.suffix.lower() in READERS)


def _is_split(name: str) -> bool:
    return name in (TRAIN, *EVAL_SPLITS)


def _split_of(file: Path, folder: Path) -> str:
    """The split of a file: the one in its name, or else the folder that it is in."""
    named = _SPLIT.search(file.stem)
    if named:
        return named[1].lower()
    return next((part for part in file.relative_to(folder).parts[:-1] if _is_split(part)), UNSPLIT)


def _no_rows(folder: Path) -> UserError:
    inner = sorted(item.name for item in folder.iterdir() if item.is_dir() and _files(item))
    if inner:
        return UserError(
            f"{folder} holds no rows of its own but those of {', '.join(inner[:5])}: name one of these, as in "
            f"{folder}:{inner[0]}"
        )
    return UserError(
        f"{folder} holds no rows: give a folder with files ending in {', '.join(READERS)}, or one that datasets' "
        "save_to_disk wrote."
    )


def arrow_rows(folder: Path, name: str) -> Iterator[RawRow]:
    """The rows of one split's folder, written by ``save_to_disk``; messages call it ``name``. Raises UserError if it
    can't be read."""
    import datasets  # takes a second

    try:
        data = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} is not a readable Arrow folder (one written by datasets' save_to_disk): write it again."
        ) from error
    if isinstance(data, datasets.DatasetDict):
        raise UserError(f"{folder} holds the splits {', '.join(map(str, list(data)[:5]))}: name one split's folder.")
    for number, row in enumerate(data, start=1):
        assert isinstance(row, dict)
        yield RawRow(row, name, "row", number)
