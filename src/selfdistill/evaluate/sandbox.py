"""Checks generated programs: each runs in a process of its own behind a wall (``sandbox_wall``), its tests in another.

The tests call the program's function through a pipe on which only plain data pass, so that the program sees neither the
expected results nor the code that judges it. It can't fake success: what it returns is compared, not what it says.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from selfdistill.errors import UserError
from selfdistill.evaluate.sandbox_values import NO_WALL
from selfdistill.tasks.task import Program, Task
from selfdistill.types import Example

ROOT = Path(__file__).parents[2]
"""Folder of the package, from which the processes import their own modules."""
START = "import sys; sys.path.append(sys.argv[1]); from selfdistill.evaluate.sandbox_child import run; run()"
NOTHING = "none: limits of time and memory only"
"""Name of the wall where the system has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramResult:
    """How a program did in its tests."""

    passed: bool | None
    """Whether all tests passed; None if the tests themselves don't run."""
    reason: str
    """``passed``, ``timeout``, or the error that ended the tests."""
    wall: str = ""
    """What held the program: ``seccomp + landlock``, ``seccomp`` or NOTHING; empty after a timeout."""


def check_program(
    program: Program, *, seconds: float = 10.0, memory_bytes: int = 1 << 29, confined: bool = True
) -> ProgramResult:
    """Runs a program and its tests, each in a process that can open no file, connection or process, with only the
    standard library and an empty environment.

    Args:
        program: the program and its tests.
        seconds: wall-clock time after which both are killed.
        memory_bytes: limit of each process's address space.
        confined: False to run it without a wall where the system has none.

    Raises:
        UserError: the system has no wall, and ``confined`` is True; or it has not even the limits.
    """
    if os.name != "posix":
        raise UserError("Programs that a model writes can't be run on this system. Use Linux, or leave them out.")
    limits = {"seconds": int(seconds) + 1, "memory_bytes": memory_bytes, "confined": confined}
    shared = limits | {"entry_point": program.entry_point}
    calls, answers = os.pipe(), os.pipe()
    processes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryFile() as verdict:
        try:
            tested = shared | {"role": "program", "source": program.source, "setup": ""}
            processes.append(_started(tested, calls[0], answers[1], subprocess.DEVNULL))
            tests = shared | {"role": "tests", "source": program.tests, "setup": program.setup}
            processes.append(_started(tests, answers[0], calls[1], verdict))
        finally:
            for end in (*calls, *answers):
                os.close(end)
        try:
            processes[1].wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return ProgramResult(passed=False, reason="timeout")
        finally:
            for process in processes:
                process.kill()
                process.wait()
        if NO_WALL in [process.returncode for process in processes]:
            raise UserError(
                "This system can't confine programs that a model writes: it needs Linux with seccomp. In a virtual "
                "machine of their own, --allow_unconfined_code runs them all the same."
            )
        verdict.seek(0)
        return _result(verdict.read())


def _started(job: dict[str, Any], read_end: int, write_end: int, output: Any) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", "-c", START, str(ROOT)],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={},
        pass_fds=(read_end, write_end),
        start_new_session=True,
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as stream:
        stream.write(json.dumps(job | {"read_end": read_end, "write_end": write_end}).encode())
    return process


def _result(verdict: bytes) -> ProgramResult:
    try:
        report = json.loads(verdict)
        passed, reason, wall = report["passed"], report["reason"], report["wall"]
    except (ValueError, TypeError, KeyError):  # the tests left early, ran out of memory or wrote something of their own
        return ProgramResult(passed=False, reason="the tests ended early")
    return ProgramResult(passed=passed, reason=str(reason), wall=str(wall or NOTHING))


@cache
def wall(confined: bool = True) -> str:
    """The wall that this system gives, found out by running a program. Raises UserError as ``check_program``."""
    harmless = Program(source="def nothing(): pass", tests="nothing()", entry_point="nothing")
    return check_program(harmless, confined=confined).wall


@dataclass(frozen=True, slots=True)
class ProgramScorer:
    """A scorer that tests a program made from the completion: 1.0 if it passes, else 0.0; None if its tests fail to
    run."""

    program: Callable[[str, Example], Program]
    """From a completion and its example to the program."""
    confined: bool = True
    """As in ``check_program``."""

    def __call__(self, completion: str, example: Example) -> float | None:
        """As in Scorer."""
        passed = check_program(self.program(completion, example), confined=self.confined).passed
        return None if passed is None else float(passed)


def with_sandbox(task: Task, *, confined: bool = True) -> Task:
    """The task whose scorers run their programs in the sandbox. Raises UserError as ``check_program``."""
    wall(confined)
    running = {name: ProgramScorer(program, confined) for name, program in task.programs.items()}
    return replace(task, scorers={**task.scorers, **running})


def wall_facts(task: Task) -> dict[str, str]:
    """The wall's entry in the facts of a result's config; empty if the task runs no programs."""
    runners = [scorer for scorer in task.scorers.values() if isinstance(scorer, ProgramScorer)]
    return {"program_wall": wall(runners[0].confined)} if runners else {}
