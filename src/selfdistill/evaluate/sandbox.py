"""Runs generated code in its own process, with limits on time, memory, files and network.

This protects against a model's mistakes, not against an attacker: run code that may have been written to break out in
a container or a virtual machine.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from selfdistill.errors import UserError
from selfdistill.tasks.task import Task
from selfdistill.types import Example

CHILD = Path(__file__).with_name("sandbox_child.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramResult:
    """How a program ended."""

    passed: bool
    """Whether it ran to its end, without an exception and without leaving early."""
    reason: str
    """``passed``, ``timeout``, the last line of its standard error, or its exit code."""


def run_python(
    code: str, *, seconds: float = 10.0, memory_bytes: int = 1 << 29, file_bytes: int = 1 << 20
) -> ProgramResult:
    """Runs ``code`` in an empty temporary folder, with an almost empty environment and only the standard library.

    Args:
        code: a whole program.
        seconds: wall-clock time after which it is killed.
        memory_bytes: limit of its address space.
        file_bytes: limit of the size of each file that it writes. It may write only inside its folder.

    Raises:
        UserError: the operating system has no such limits.
    """
    if os.name != "posix":
        raise UserError("Generated code can't be run safely on this system. Use Linux or macOS, or leave it out.")
    token = secrets.token_hex(16)
    job = {"code": code, "token": token, "seconds": int(seconds) + 1}
    job |= {"memory_bytes": memory_bytes, "file_bytes": file_bytes}
    with tempfile.TemporaryDirectory(prefix="selfdistill-") as folder, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*no_network(), sys.executable, "-I", "-S", "-B", str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,  # a file, so that its length is limited
            cwd=folder,
            env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(json.dumps(job).encode(), timeout=seconds)
        except subprocess.TimeoutExpired:
            return ProgramResult(passed=False, reason="timeout")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        errors.seek(0)
        error_lines = errors.read(file_bytes).decode(errors="replace").strip().splitlines()
    if output.decode(errors="replace") == token:
        return ProgramResult(passed=True, reason="passed")
    return ProgramResult(
        passed=False, reason=error_lines[-1][:500] if error_lines else f"exit code {process.returncode}"
    )


@cache
def no_network() -> tuple[str, ...]:
    """The beginning of a command line that runs the rest without a network; empty if the system allows none."""
    unshare = shutil.which("unshare")
    for flags in ("--net",), ("--user", "--map-root-user", "--net"):
        if unshare and subprocess.run([unshare, *flags, "true"], capture_output=True, check=False).returncode == 0:
            return (unshare, *flags)
    return ()


@dataclass(frozen=True, slots=True)
class ProgramScorer:
    """A scorer that runs a program made from the completion: 1.0 if it runs to its end in the sandbox, else 0.0."""

    program: Callable[[str, Example], str]
    """From a completion and its example to the whole program."""

    def __call__(self, completion: str, example: Example) -> float:
        """As in Scorer."""
        return float(run_python(self.program(completion, example)).passed)


def with_sandbox(task: Task) -> Task:
    """The task whose scorers run their programs in the sandbox."""
    running = {name: ProgramScorer(program) for name, program in task.programs.items()}
    return replace(task, scorers={**task.scorers, **running})
