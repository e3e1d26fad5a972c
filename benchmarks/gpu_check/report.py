"""What a section of the check is, and what it has found so far."""

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from selfdistill.run_folder import write_json

STATUSES = ("ok", "skipped", "stopped", "failed", "wrong")
"""How a section ended, from good to bad: it ran; nothing in it could be tried; its time ran out; something raised an
error; a result is wrong."""

ERRORS_SHOWN = 3
"""Errors of a section that are shown on the screen; its file has all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the check that runs alone and may fail alone."""

    name: str
    groups: tuple[str, ...]
    """Names that ``--only`` selects it by."""
    seconds: float
    """Most time that it gets."""
    function: str
    """``module:function``, so that the table can be read without torch. It is called with the report."""
    arguments: tuple[Any, ...] = ()
    """What it is called with after the report."""

    def run(self, report: "Report") -> None:
        """Calls the function; an error ends the section and is noted."""
        module, _, name = self.function.partition(":")
        report.guarded("section", lambda: getattr(import_module(module), name)(report, *self.arguments))


class Report:
    """What a section has found. Every change is written to its file at once.

    Args:
        folder: where the files are.
        name: of the section.
        seconds: the time it has.
        device: a torch.device; None in the process that starts the sections.
        quick: whether sizes are tiny.
    """

    def __init__(self, folder: Path, name: str, seconds: float, device: Any = None, quick: bool = False) -> None:
        self.folder, self.name, self.device, self.quick = folder, name, device, quick
        self._start, self._budget = time.monotonic(), seconds
        self.found: dict[str, Any] = {
            "section": name,
            "status": "ok",
            "seconds": 0.0,
            "budget_s": round(seconds, 1),
            "summary": [],
            "parts": {},
            "skipped": {},
            "errors": {},
        }
        self._write()

    def left(self) -> float:
        """Seconds until the section's time is up."""
        return self._start + self._budget - time.monotonic()

    def say(self, sentence: str) -> None:
        """Adds a line for the screen."""
        self.found["summary"].append(sentence)
        self._write()

    def put(self, name: str, value: Any) -> None:
        """Keeps a result. A dict with ``ok`` false, or a dict of such dicts, makes the section wrong."""
        self.found["parts"][name] = value
        if _is_wrong(value):
            self._worsen("wrong")
        self._write()

    def skip(self, name: str, reason: str) -> None:
        """Notes what was not tried, and why."""
        self.found["skipped"][name] = reason
        self.say(f"{name}: left out, {reason}")

    def part(self, name: str, function: Callable[[], Any], *, needs: float = 0.0) -> Any:
        """Runs a part and keeps its result. An error is noted and the section goes on; the result is None then.

        ``needs``: seconds without which it is not tried.
        """
        if self.left() < needs:
            self.skip(name, f"{max(0.0, self.left()):.0f} s are left, it needs {needs:.0f}")
            return None
        result = self.guarded(name, function)
        if result is not None:
            self.put(name, result)
        return result

    def guarded(self, name: str, function: Callable[[], Any]) -> Any:
        """Calls a function; an error is noted under ``name``, and the result is None then."""
        try:
            return function()
        except Exception as error:  # whatever a device may do
            self.fail(name, brief(error), traceback.format_exc(limit=-8)[-3000:])
            return None

    def fail(self, name: str, text: str, trace: str = "") -> None:
        """Notes an error."""
        self.found["errors"][name] = {"error": text, "traceback": trace}
        self._worsen("failed")
        if len(self.found["errors"]) <= ERRORS_SHOWN:
            self.say(f"{name}: {text[:160]}")

    def end(self, status: str = "ok", reason: str = "") -> dict[str, Any]:
        """Closes the report and returns what was found. ``status`` counts if it is worse than what there is."""
        self.found["seconds"] = round(time.monotonic() - self._start, 2)
        if self.found["skipped"] and not self.found["parts"]:
            self._worsen("skipped")
        self._worsen(status)
        if reason:
            self.found["reason"] = reason
            self.say(reason)
        self._write()
        return self.found

    def continued(self) -> "Report":
        """Takes over what another process has written under the same name, if there is something."""
        self.found = earlier(self.folder, self.name) or self.found
        return self

    def _worsen(self, status: str) -> None:
        self.found["status"] = max(self.found["status"], status, key=STATUSES.index)

    def _write(self) -> None:
        write_json(path_of(self.folder, self.name), self.found)


def brief(error: Exception) -> str:
    """An error on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def path_of(folder: Path, name: str) -> Path:
    """The file of a section."""
    return folder / f"{name}.json"


def earlier(folder: Path, name: str) -> dict[str, Any] | None:
    """What a section has left in the folder; None if there is nothing."""
    path = path_of(folder, name)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _is_wrong(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return value.get("ok") is False or any(map(_is_wrong, value.values()))
