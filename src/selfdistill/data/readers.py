"""Reads rows from files, Arrow folders and Hub datasets."""

import contextlib
import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from selfdistill.data.rows import KNOWN_COLUMNS, examples_from_rows, unknown_columns
from selfdistill.errors import MissingDataError, UserError, brief, did_you_mean, quoted
from selfdistill.types import Example

Rows = list[dict[str, Any]]

_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::([\w.+:%\[\]-]+))?")
NEWLINE = b"\n"
# Longest CSV cell in characters; the csv module's default limit is shorter than a long document.
_CSV_CELL = 2**31 - 1


def load_rows(path_or_id: str, *, split: str = "train", hub_config: str | None = None) -> tuple[Rows, str]:
    """Rows of a JSONL, JSON, CSV or Parquet file, an Arrow folder or a Hub dataset.

    Args:
        path_or_id: the path, or a Hub id: ``owner/name`` or ``owner/name:split``.
        split: the split to read if there are several and the Hub id names none.
        hub_config: the configuration to read of a Hub dataset that has several.

    Returns:
        The rows, and the name by which error messages call them, such as ``my.jsonl``.

    Raises:
        UserError: there is nothing to read, or it can't be read.
    """
    path = find_file(path_or_id)
    if path is None:
        return _hub_rows(path_or_id, split, hub_config)
    if path.is_dir():
        return arrow_rows(path, split), path.name
    return _READERS[path.suffix.lower()](path), path.name


def load_split(
    data_dir: Path | None,
    folder: str,
    *,
    prefix: str,
    reference: str | None = None,
    convert: Callable[[Mapping[str, Any], str], dict[str, Any]] | None = None,
) -> list[Example]:
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
    rows = arrow_rows(path)
    if convert is not None:
        rows = [convert(row, f"{folder} row {number}") for number, row in enumerate(rows, start=1)]
    examples = examples_from_rows(rows, source=folder, prefix=prefix, need_demonstration=reference is None)
    for number, example in enumerate(examples, start=1):
        if reference is not None and example.reference is None:
            raise UserError(f"{folder} row {number} has no {reference}: every row needs one.")
    return examples


def find_file(path_or_id: str) -> Path | None:
    """The file or folder of that name, or None for a Hub id (``owner/name``).

    Raises UserError if it is neither, and for a file whose ending is not one of ``_READERS``.
    """
    if not path_or_id.strip():
        raise UserError("No file was named: give a file, an Arrow folder or a Hub id.")
    try:
        path = Path(path_or_id).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, a NUL in it, links in a circle, ~nobody
        raise UserError(f"{path_or_id[:80]} can't be read: {brief(error, 8)}. Give another path.") from error
    endings = ", ".join(_READERS)
    if path.is_file() and path.suffix.lower() not in _READERS:
        raise UserError(
            f"{path_or_id} ends in {path.suffix or 'no ending'!r}: give a file ending in {endings}, or an Arrow folder."
        )
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"{path_or_id} is a pipe or a device. Give a file or an Arrow folder.")
    if path.exists():
        return path
    is_file_name = path.suffix.lower() in {*_READERS, ".txt", ".tsv", ".arrow", ".gz", ".zip"}
    if _HUB_ID.fullmatch(path_or_id) and not is_file_name:
        return None
    hint = _sibling_hint(path) or f" Give a file ({endings}), an Arrow folder or a Hub id."
    raise UserError(f"No such file: {path_or_id!r}.{hint}")


def _sibling_hint(path: Path) -> str:
    siblings = (item.name for item in path.parent.iterdir()) if path.parent.is_dir() else ()
    return did_you_mean(path.name, siblings)


def arrow_rows(folder: Path, split: str = "train") -> Rows:
    """Rows of a folder written by ``save_to_disk``; those of ``split`` if it holds several. Raises UserError."""
    import datasets  # takes a second

    try:
        data = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} is not a readable Arrow folder (one written by datasets' save_to_disk): "
            "give such a folder, or one of its files if it holds JSONL, JSON, CSV or Parquet."
        ) from error
    if isinstance(data, datasets.DatasetDict):
        names = [str(name) for name in data]
        if split not in names:
            raise UserError(
                f"{folder} has no split {split!r} but {', '.join(names[:5])}: give one split's folder, "
                f"such as {folder.joinpath(*names[:1])}."
            )
        data = data[split]
    return [dict(row) for row in data]


def _hub_rows(hub_id: str, split: str, config: str | None) -> tuple[Rows, str]:
    import datasets
    from datasets.exceptions import DatasetsError

    match = _HUB_ID.fullmatch(hub_id)
    assert match is not None  # find_file let it through
    name, split = match[1], match[2] or split
    try:
        data = datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        if isinstance(error, ValueError) and "split" in str(error):
            raise UserError(
                f"Hub dataset {name} has no split {split!r}: name one of its splits, as in {name}:train."
            ) from error
        hint = _sibling_hint(Path(hub_id)) or " Check the name and the network."
        raise UserError(
            f"{hub_id!r} is not a local file and can't be loaded from the Hub ({brief(error, 12)}).{hint}"
        ) from error
    return [dict(row) for row in data], f"{name}:{split}"


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark. Raises UserError if it can't be read or is not UTF-8."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from error
    return _decoded(data, path.name)


def _decoded(data: bytes, where: str, encoding: str = "utf-8-sig") -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = f" line {data.count(NEWLINE, 0, error.start) + 1}" if NEWLINE in data else ""
        raise UserError(
            f"{where}{line} is not UTF-8 (byte 0x{data[error.start]:02x}): save the file as UTF-8."
        ) from error


def _jsonl_rows(path: Path) -> Rows:
    rows: Rows = []
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            row = _json(line, f"{path.name} line {number}", "write one JSON object per line")
            rows.append(_object(row, f"{path.name} line {number}", "write one JSON object per line"))
    return rows


def _lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, read one at a time, so that a long file is not held as text beside its rows.

    Lines end at line feeds alone: JSON allows U+2028 inside a string. Raises UserError as ``read_text``.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                encoding = "utf-8-sig" if number == 1 else "utf-8"
                yield _decoded(line.removesuffix(NEWLINE), f"{path.name} line {number}", encoding)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from error


def _json_rows(path: Path) -> Rows:
    data = _json(read_text(path), path.name, "it must hold one list; a file with one object per line ends in .jsonl")
    if not isinstance(data, list):
        raise UserError(f"{path.name} holds a {_kind(data)}: it must be one list of objects.")
    return [
        _object(row, f"{path.name} row {number}", "each entry of the list must be an object")
        for number, row in enumerate(data, start=1)
    ]


def _json(text: str, where: str, remedy: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)
    except _NotPlainError as error:
        raise UserError(f"{where} {error}.") from error
    except json.JSONDecodeError as error:
        # A .jsonl error names its line by ``where``; a .json file needs the parser's line number.
        line = f" line {error.lineno}" if "\n" in text.strip() else ""
        raise UserError(f"{where}{line} column {error.colno} is not valid JSON ({error.msg}): {remedy}.") from error
    except (ValueError, RecursionError) as error:  # an integer with too many digits, or brackets nested too deep
        raise UserError(f"{where} holds JSON too large to read ({type(error).__name__}).") from error


class _NotPlainError(ValueError):
    """JSON that can be parsed, and yet does not say one thing."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise _NotPlainError(f"has the key {quoted(twice)} twice: keep one")
    return made


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _NotPlainError(f"holds {text[:20]}, which is no finite number: give one, or null")
    return value


def _object(row: Any, where: str, remedy: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{where} is a {_kind(row)}, not an object: {remedy}.")
    return row


def _kind(value: Any) -> str:
    return {list: "list", str: "text", dict: "single object"}.get(type(value), "number or constant")


def _csv_rows(path: Path) -> Rows:
    csv.field_size_limit(_CSV_CELL)
    # strict: an unclosed quote is an error; otherwise it would swallow the rest of the file.
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    rows: Rows = []
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(header, path.name)
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{path.name} row {len(rows) + 1} has {len(cells)} cells, its header "
                    f"{len(header)}: put text with commas or line breaks into double quotes."
                )
            rows.append(dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise UserError(f"{path.name} line {reader.line_num} is not valid CSV ({error}): check its quotes.") from error
    return rows


def _check_header(header: list[str], name: str) -> None:
    if not any(header):
        raise UserError(f"{name} has no header: its first line must name the columns.")
    if not set(header) & set(KNOWN_COLUMNS):
        raise unknown_columns(header, f"{name} header")
    twice = next((column for column in header if header.count(column) > 1), None)
    if twice is not None:
        raise UserError(f"{name} header names the column {twice!r} twice: keep one.")


def _parquet_rows(path: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:  # such as a date after year 9999
        raise UserError(f"{path} is not a readable Parquet file: write it again.") from error


_READERS = {
    ".jsonl": _jsonl_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
