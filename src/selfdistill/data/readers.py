"""Finds what a name stands for, a file, a folder or a Hub data set, and reads its rows."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from selfdistill.data.files import READERS, RawRow
from selfdistill.data.folders import EVAL_SPLITS, TRAIN, arrow_rows, folder_rows, folder_splits, split_in
from selfdistill.data.rows import examples_from_rows
from selfdistill.errors import MissingDataError, UserError, brief, did_you_mean
from selfdistill.types import Example

Rows = list[dict[str, Any]]

_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::([\w.+ -]+))?(?:@([\w./-]+))?")
_OTHER_FILES = {".txt", ".tsv", ".arrow", ".gz", ".zip"}
"""Endings of files that are not read, so that a missing one is not taken for a Hub id."""


class HubId(NamedTuple):
    """A data set of the Hub, as ``owner/name:config@revision``."""

    name: str
    config: str | None
    revision: str | None


def load_rows(name: str, *, split: str = TRAIN) -> tuple[Rows, str]:
    """All rows of a file, a folder or a Hub data set.

    Args:
        name: the path, or the Hub id.
        split: the split to read if there are several.

    Returns:
        The rows, and the name by which error messages call them, such as ``my.jsonl``.

    Raises:
        UserError: there is nothing to read, or a row can't be read.
    """
    rows: Rows = []
    place = find(name)
    for row in read_rows(name, (split,)):
        if row.error is not None:
            raise row.error
        rows.append(row.columns)
    return rows, place.name


def read_rows(name: str, splits: Sequence[str], *, asked: bool = False) -> Iterator[RawRow]:
    """The rows of one file, folder or Hub data set, read as they are asked for.

    Args:
        name: the path, or the Hub id.
        splits: of several splits the first of these that is there is read.
        asked: whether the person asked for the split. Then data without splits are an error.

    Raises:
        UserError: there is nothing to read, or it can't be read as a whole. A row that can't be read is one with an
            error.
    """
    place = find(name)
    if isinstance(place, HubId):
        return _hub_rows(place, name, splits)
    if place.is_dir():
        return folder_rows(place, splits, asked=asked)
    if asked:
        raise UserError(f"--split {splits[0]}: {place.name} is a file, which has no splits. Leave it out.")
    return READERS[place.suffix.lower()](place)


def has_evaluation_split(name: str) -> bool:
    """Whether it is a folder with a split for evaluation. Raises UserError if there is nothing of that name."""
    place = find(name)
    return isinstance(place, Path) and place.is_dir() and split_in(folder_splits(place), EVAL_SPLITS) is not None


def load_split(
    data_dir: Path | None,
    folder: str,
    *,
    prefix: str,
    reference: str | None = None,
    convert: Callable[[Mapping[str, Any], str], dict[str, Any]] | None = None,
) -> Sequence[Example]:
    """Examples of a benchmark's Arrow folder ``<data_dir>/<folder>``, in the order of the data.

    Args:
        data_dir: the folder of all benchmarks' data; None if there is none.
        folder: one split's folder in it.
        prefix: beginning of the examples' ids, such as ``tooluse/train``.
        reference: the column that every row of an evaluation split must have. Without it the split is for training,
            and every row must have a demonstration.
        convert: turns a row, and its name for error messages, into columns that ``example_from_row`` knows.

    Raises:
        MissingDataError: there is no such folder.
        UserError: it can't be read, or a row is wrong.
    """
    path = (data_dir or Path()) / folder
    if data_dir is None or not path.is_dir():
        missing = f"There is no folder {path}" if data_dir else f"No data folder holds {folder}"
        raise MissingDataError(f"{missing}: name the folder that holds {folder} with --data_dir or SELFDISTILL_DATA.")
    rows = [row.columns for row in arrow_rows(path, folder)]
    if convert is not None:
        rows = [convert(row, f"{folder} row {number}") for number, row in enumerate(rows, start=1)]
    examples = examples_from_rows(rows, source=folder, prefix=prefix, need_demonstration=reference is None)
    for number, example in enumerate(examples, start=1):
        if reference is not None and example.reference is None:
            raise UserError(f"{folder} row {number} has no {reference}: every row needs one.")
    return examples


def find(name: str) -> Path | HubId:
    """The file or folder of that name, or else the Hub data set. ``folder:part`` is the folder ``part`` in a folder, as
    a configuration is in a copy of a Hub data set.

    Raises UserError if there is nothing of that name, and for a file whose ending is not one of ``READERS``.
    """
    if not name.strip():
        raise UserError("No file was named: give a file, a folder or a Hub id.")
    path = _path(name)
    if path.is_file() and path.suffix.lower() not in READERS:
        raise UserError(
            f"{name} ends in {path.suffix or 'no ending'!r}: give a file ending in {', '.join(READERS)}, or a folder."
        )
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"{name} is a pipe or a device. Give a file or a folder.")
    if path.exists():
        return path
    folder, colon, part = name.rpartition(":")
    if colon and part and (inner := _path(folder)).is_dir():
        if (inner / part).is_dir():
            return inner / part
        parts = ", ".join(sorted(item.name for item in inner.iterdir() if item.is_dir())[:5])
        raise UserError(f"The folder {folder} has no {part!r} but {parts or 'no folder in it'}. Name one of these.")
    hub = _HUB_ID.fullmatch(name)
    if hub and path.suffix.lower() not in {*READERS, *_OTHER_FILES}:
        return HubId(hub[1], hub[2], hub[3])
    hint = _sibling_hint(path) or f" Give a file ({', '.join(READERS)}), a folder or a Hub id."
    raise UserError(f"No such file: {name!r}.{hint}")


def _path(name: str) -> Path:
    """The path, which may not exist. Raises UserError if the system takes no such path."""
    try:
        path = Path(name).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, a NUL in it, links in a circle, ~nobody
        raise UserError(f"{name[:80]} can't be read: {brief(error, 8)}. Give another path.") from error
    return path


def _sibling_hint(path: Path) -> str:
    siblings = (item.name for item in path.parent.iterdir()) if path.parent.is_dir() else ()
    return did_you_mean(path.name, siblings)


def _hub_rows(hub: HubId, named: str, splits: Sequence[str]) -> Iterator[RawRow]:
    """The rows of the first of the splits that the data set has."""
    for split in splits:
        data = _hub_split(hub, named, split)
        if data is not None:
            for number, row in enumerate(data, start=1):
                yield RawRow(dict(row), f"{hub.name}:{split}", "row", number)
            return
    raise UserError(f"Hub dataset {hub.name} has no split {splits[0]!r}: name one of its splits with --split.")


def _hub_split(hub: HubId, named: str, split: str) -> Any:
    """A split of a Hub data set; None if it has none of that name. Raises UserError if it can't be loaded."""
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        return datasets.load_dataset(hub.name, hub.config, split=split, revision=hub.revision)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        said = str(error)
        if isinstance(error, ValueError) and ("Config name is missing" in said or "BuilderConfig" in said):
            listed = brief(" ".join(re.findall(r"'([^']+)'", said.partition("[")[2])), 12) or "see its page"
            raise UserError(
                f"Hub dataset {hub.name}: name one of its configurations ({listed}), as in {hub.name}:CONFIG."
            ) from error
        if isinstance(error, ValueError) and "split" in said:
            return None
        hint = _sibling_hint(Path(named)) or " Check the name and the network."
        raise UserError(
            f"{named!r} is not a local file and can't be loaded from the Hub ({brief(error, 12)}).{hint}"
        ) from error
