"""Reads rows from files, a row at a time, each with its place in the file."""

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from selfdistill.errors import UserError, quoted

NEWLINE = b"\n"
# Longest CSV cell in characters; the csv module's default limit is shorter than a long document.
_CSV_CELL = 2**31 - 1
# Behind a carriage return that ends a line by itself.
_AFTER_RETURN = re.compile(r"(?<=\r)(?!\n)")
_DEEPEST = 200
"""Levels of lists and objects in each other that are read from JSON."""
_BATCH = 1_000
"""Rows of a Parquet file that are held at a time."""


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as it stands in its file."""

    columns: dict[str, Any]
    """Empty if the row can't be read."""
    file: str
    """Name of the file, folder or data set, for messages."""
    unit: Literal["line", "row"]
    number: int
    """Of the line or row, counted from 1."""
    error: UserError | None = None
    """Why the row can't be read."""

    @property
    def where(self) -> str:
        """The row's place, such as ``my.jsonl line 3``."""
        return f"{self.file} {self.unit} {self.number}"


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


# -- JSON lines ---------------------------------------------------------------------------------------------------


def _jsonl_rows(path: Path) -> Iterator[RawRow]:
    for number, line in _lines(path):
        if line.strip():
            yield _json_line(line, path.name, number)


def _json_line(line: bytes, name: str, number: int) -> RawRow:
    where = f"{name} line {number}"
    try:
        text = _decoded(line, where, "utf-8-sig" if number == 1 else "utf-8")
        row = _object(_json(text, where, remedy := "write one JSON object per line"), where, remedy)
    except UserError as error:
        return RawRow({}, name, "line", number, error)
    return RawRow(row, name, "line", number)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers, read one at a time, so that a long file is not held beside its rows.

    Lines end at line feeds alone: JSON allows U+2028 inside a string. Raises UserError if the file can't be read.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield number, line.removesuffix(NEWLINE)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from error


# -- JSON ---------------------------------------------------------------------------------------------------------


def _json_rows(path: Path) -> Iterator[RawRow]:
    data = _json(read_text(path), path.name, "it must hold one list; a file with one object per line ends in .jsonl")
    if not isinstance(data, list):
        raise UserError(f"{path.name} holds a {_kind(data)}: it must be one list of objects.")
    for number, row in enumerate(data, start=1):
        try:
            _object(row, f"{path.name} row {number}", "each entry of the list must be an object")
        except UserError as error:
            yield RawRow({}, path.name, "row", number, error)
        else:
            yield RawRow(row, path.name, "row", number)


def _json(text: str, where: str, remedy: str) -> Any:
    try:
        value = _DECODER.decode(text)
        if text.count("[") + text.count("{") > _DEEPEST:
            _check_depth(value)
        return value
    except _NotPlainError as error:
        raise UserError(f"{where} {error}.") from error
    except json.JSONDecodeError as error:
        # A .jsonl error names its line by ``where``; a .json file needs the parser's line number.
        line = f" line {error.lineno}" if "\n" in text.strip() else ""
        raise UserError(f"{where}{line} column {error.colno} is not valid JSON ({error.msg}): {remedy}.") from error
    except RecursionError as error:
        raise UserError(f"{where} nests values deeper than {_DEEPEST} levels: flatten them.") from error
    except ValueError as error:  # an integer with too many digits
        raise UserError(f"{where} holds JSON too large to read ({type(error).__name__}).") from error


def _check_depth(value: Any) -> None:
    """Raises RecursionError if lists and objects are nested deeper than what works in every version of Python."""
    level = [value]
    for _ in range(_DEEPEST + 1):
        level = [item for each in level if isinstance(each, list | dict) for item in _items(each)]
    if level:
        raise RecursionError


def _items(value: list[Any] | dict[str, Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


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


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)


def _object(row: Any, where: str, remedy: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{where} is a {_kind(row)}, not an object: {remedy}.")
    return row


def _kind(value: Any) -> str:
    return {list: "list", str: "text", dict: "single object"}.get(type(value), "number or constant")


# -- CSV and Parquet ----------------------------------------------------------------------------------------------


def _csv_rows(path: Path) -> Iterator[RawRow]:
    csv.field_size_limit(_CSV_CELL)
    # strict: an unclosed quote is an error; otherwise it would swallow the rest of the file.
    reader = csv.reader(_csv_lines(path), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(header, path.name)
        before = reader.line_num
        for cells in reader:
            if cells:
                yield _csv_row(cells, header, path.name, before + 1)
            before = reader.line_num
    except csv.Error as error:
        raise UserError(f"{path.name} line {reader.line_num} is not valid CSV ({error}): check its quotes.") from error


def _csv_lines(path: Path) -> Iterator[str]:
    """The lines of a text file with their ends; a line ends at a line feed, a carriage return or both."""
    for number, line in _lines(path):
        text = _decoded(line, f"{path.name} line {number}", "utf-8-sig" if number == 1 else "utf-8")
        yield from _AFTER_RETURN.split(text + "\n")


def _csv_row(cells: list[str], header: list[str], name: str, line: int) -> RawRow:
    if len(cells) == len(header):
        return RawRow(dict(zip(header, cells, strict=True)), name, "line", line)
    error = UserError(
        f"{name} line {line} has {len(cells)} cells, its header {len(header)}: put text with commas or line breaks "
        "into double quotes."
    )
    return RawRow({}, name, "line", line, error)


def _check_header(header: list[str], name: str) -> None:
    if not any(header):
        raise UserError(f"{name} has no header: its first line must name the columns.")
    twice = next((column for column in header if header.count(column) > 1), None)
    if twice is not None:
        raise UserError(f"{name} header names the column {twice!r} twice: keep one.")


def _parquet_rows(path: Path) -> Iterator[RawRow]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield RawRow(row, path.name, "row", number)
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:  # such as a date after year 9999
        raise UserError(f"{path} is not a readable Parquet file: write it again.") from error


READERS: dict[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": _jsonl_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
"""The reader of each kind of file, by its ending. Reading raises UserError if the file as a whole can't be read."""
