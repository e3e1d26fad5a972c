"""Every file and folder that a run, an evaluation, a study or a ledger writes: its name, and how it is written.

The model is saved at the root of a run's folder, so that the folder is a model's path; ``config.json`` is the model's
own there, and the run's settings are in ``run_config.json``. Files are written whole or not at all. What they hold is
in ``records``; each record carries ``format``, the version of its layout.
"""

import contextlib
import dataclasses
import json
import math
import os
import platform
import tempfile
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from selfdistill.errors import UserError

_Record = TypeVar("_Record")

FORMAT = 1
"""Version of the layout of every record."""

# A training run.
RUN_CONFIG, METRICS, ROLLOUTS = "run_config.json", "metrics.jsonl", "rollouts.jsonl"
TRACE = "trace.json.gz"
MASTERS, TEACHER, RUN_STATE = "master_weights.safetensors", "teacher.safetensors", "run_state.json"
"""Files of a checkpoint beside transformers' own."""
GATE = "gate.json"
"""What the ledger's gate said of the model in the folder."""

# Evaluations: of each data set one file of results and one of samples, in the folder EVAL of a run or in any other.
EVAL, EVAL_BEFORE = "eval", "eval-before"
DRIFT = "drift"
"""Data set name under which drift is written."""
REFERENCE_RESULTS, REFERENCE_RESPONSES = "eval_results.json", "eval_responses.json"
"""Names that the reference implementation gives results and samples of one data set."""

# Studies.
STUDY, BASE, CELL, STAGE = "study.json", "base.json", "cell.json", "stage.json"
COMPARE, CONTINUAL = "compare.json", "continual.json"

# The ledger.
LEDGER, LEDGER_LOCK, STAGING, VERSIONS, REFUSED = "ledger.json", ".lock", ".staging", "versions", "refused"
SKILL, SKILL_ITEMS = "skill", "eval.jsonl"

# The report.
REPORT_PAGE, REPORT_TEXT, REPORT_RESULTS, REPORT_TABLES = "report.html", "report.md", "results.json", "tables"

SAMPLES = ".samples.jsonl"


def results_file(dataset: str) -> str:
    """Name of the file with a data set's numbers."""
    return f"{dataset}.json"


def samples_file(dataset: str) -> str:
    """Name of the file with a data set's completions and scores, one row on each line."""
    return f"{dataset}{SAMPLES}"


def evaluated_datasets(folder: Path) -> list[str]:
    """Data sets whose results are in ``folder``, sorted; drift is not among them."""
    names = [path.name.removesuffix(SAMPLES) for path in sorted(folder.glob(f"*{SAMPLES}"))]
    return [name for name in names if name != DRIFT and (folder / results_file(name)).is_file()]


def is_ours(folder: Path) -> bool:
    """Whether the folder holds a record that a command of ours wrote."""
    records = (RUN_CONFIG, METRICS, STUDY, LEDGER, COMPARE, CONTINUAL, EVAL_BEFORE, REFERENCE_RESULTS)
    return any((folder / name).exists() for name in records) or any(folder.glob(f"*{SAMPLES}"))


# -- whether a folder may be used ---------------------------------------------------------------------------------


def check_output_dir(output_dir: str, *, resume: bool = False, overwrite: bool = False) -> None:
    """A non-empty output folder is somebody's work: refuse it unless told what to do with it.

    Raises:
        UserError: the folder is not empty and neither flag is given, both are, it is a file, or ``overwrite`` would
            delete what is no run of ours.
    """
    path = Path(output_dir)
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other: give one of them.")
    if path.is_file():
        raise UserError(f"--output_dir {output_dir} is a file. Name a folder.")
    if path.is_dir() and any(path.iterdir()) and not resume and not overwrite:
        raise UserError(
            f"--output_dir {output_dir} is not empty. Name another folder, continue with --resume, "
            "or replace it with --overwrite."
        )
    if resume and not (path.is_dir() and any(path.glob("checkpoint-*"))):
        raise UserError(f"--resume: {output_dir} holds no checkpoint-N folder. Leave --resume out to start.")
    if overwrite:
        check_replaceable(path)


def check_replaceable(folder: Path, inputs: Iterable[str | None] = ()) -> None:
    """Whether ``--overwrite`` may delete what is in ``folder``.

    Args:
        folder: the output folder; one that is not there, or is empty, may always be used.
        inputs: files and folders that the command reads. Names that are no path here, such as Hub ids, do no harm.

    Raises:
        UserError: the folder holds no record of ours, or the working directory, the home folder or an input lies in
            it.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    root = folder.resolve()
    kept = {"the working directory": Path.cwd(), "your home folder": Path.home()}
    for name in filter(None, inputs):
        kept |= {part: Path(part) for part in (name, *name.split(":")) if part}  # two files may be named as a:b
    for what, path in kept.items():
        if path.exists() and path.resolve().is_relative_to(root):
            raise UserError(f"--overwrite would delete {what}, which lies in {folder}. Name another --output_dir.")
    if not is_ours(folder):
        raise UserError(
            f"--overwrite: {folder} holds no record of ours, so it may be somebody's work. Empty it yourself, or name "
            "another --output_dir."
        )


# -- reading and writing ------------------------------------------------------------------------------------------


def write_text(path: Path, text: str) -> None:
    """Writes a whole file or nothing: temporary file beside it, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_json(path: Path, value: Any) -> None:
    """``write_text`` of indented JSON. A dataclass is written as an object; what JSON does not know as its ``str``."""
    write_text(path, json.dumps(_plain(value), indent=2, ensure_ascii=False, default=str) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """``write_text`` of one JSON value on each line."""
    write_text(path, "".join(_line(row) for row in rows))


def append_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Adds one JSON value on each line, in one write, so that a reader sees half a line only after a crash."""
    text = "".join(_line(row) for row in rows)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def read_jsonl(path: Path) -> Iterator[Any]:
    """Values of a JSON-lines file; an incomplete last line, as a crash leaves it, is passed over."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


WRITE_AGAIN = "Run the command that wrote it again."


def read_record(path: Path, kind: type[_Record], remedy: str = WRITE_AGAIN) -> _Record:
    """The record in a JSON file.

    Raises:
        UserError: the file can't be read, is no JSON, or is not such a record of this version; the message ends with
            ``remedy``.
    """
    try:
        return as_record(json.loads(path.read_text(encoding="utf-8")), kind)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error, remedy) from error


def read_records(path: Path, kind: type[_Record]) -> list[_Record]:
    """The records of a JSON-lines file. Raises UserError as ``read_record`` does."""
    try:
        return [as_record(row, kind) for row in read_jsonl(path)]
    except (OSError, ValueError) as error:
        raise _unreadable(path, error, WRITE_AGAIN) from error


def as_record(value: Any, kind: type[_Record]) -> _Record:
    """A JSON value as a record. Raises ValueError where it is none of this version."""
    if isinstance(value, dict) and value.get("format", FORMAT) != FORMAT:
        raise ValueError(f"its format is {value['format']}, this program reads {FORMAT}")
    return _adapter(kind).validate_python(value)


def forget_after(path: Path, step: int) -> None:
    """Drops the lines of steps after ``step``: a resumed run writes them again."""
    if path.exists():
        write_jsonl(path, [row for row in read_jsonl(path) if row.get("step", 0) <= step])


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that numbers depend on."""
    names = ("selfdistill", "torch", "transformers", "accelerate", "peft", "datasets")
    found = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@cache
def _adapter(kind: type) -> Any:
    import pydantic

    return pydantic.TypeAdapter(kind)


def _unreadable(path: Path, error: Exception, remedy: str) -> UserError:
    import pydantic

    reason = " ".join(str(error).split()[:12])
    if isinstance(error, pydantic.ValidationError):
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    elif isinstance(error, FileNotFoundError):
        reason = "there is no such file"
    return UserError(f"{path} can't be read ({reason}). {remedy}")


def _line(row: Any) -> str:
    return json.dumps(_plain(row), ensure_ascii=False, default=str) + "\n"


def _plain(value: Any) -> Any:
    """Dataclasses as objects, at any depth; NaN and infinities, which JSON does not know, as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
