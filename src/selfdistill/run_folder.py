"""The run folder: everything a person or the report needs, written so that a crash leaves whole files.

The model is saved at the folder's root, so that the folder is a model's path; ``config.json`` is the model's
own there, and the run's settings are in ``run_config.json``.
"""

import contextlib
import json
import os
import platform
import tempfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

CONFIG, METRICS, ROLLOUTS, REPORT = "run_config.json", "metrics.jsonl", "rollouts.jsonl", "report.html"
RESULTS, RESPONSES = "eval_results.json", "eval_responses.json"
GATE = "gate.json"
"""What the ledger's gate said of the model in the folder."""


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
    """``write_text`` of indented JSON; what JSON does not know is written as its ``str``."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """``write_text`` of one JSON value a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows))


def append_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Adds one JSON value a line, in one write, so that a reader never sees half a line but at a crash."""
    text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def read_jsonl(path: Path) -> Iterator[Any]:
    """Values of a JSON-lines file; an incomplete last line, as a crash leaves it, is passed over."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


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
