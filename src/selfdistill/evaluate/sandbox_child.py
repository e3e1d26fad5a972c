"""The two processes in which ``sandbox.check_program`` runs a program that a model wrote: the program, and its tests.

``sandbox`` starts this module as a process of its own. Standard input holds a JSON object with role, source (of the
program, or of the tests), setup, entry_point, seconds, memory_bytes, confined, and the two ends of a connection. The
tests call the program over the connection, and write their verdict to standard output. Only the standard library is
imported.
"""

import builtins
import importlib
import json
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from selfdistill.evaluate.sandbox_values import NO_WALL, decoded, encoded
from selfdistill.evaluate.sandbox_wall import build_wall, limit

MOST_BYTES = 1 << 24
"""Longest message over the connection."""
VERDICT_BYTES = 1 << 16
"""Longest verdict."""
COMMON = (
    *("abc", "array", "bisect", "calendar", "cmath", "collections.abc", "contextlib", "copy", "dataclasses"),
    *("datetime", "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "inspect", "io", "itertools"),
    *("json", "math", "numbers", "operator", "random", "re", "statistics", "string", "struct", "textwrap", "time"),
    *("traceback", "types", "typing", "unicodedata", "_strptime", "locale", "encodings.ascii", "encodings.latin_1"),
    *("encodings.utf_16", "encodings.utf_32", "encodings.cp1252", "encodings.hex_codec", "encodings.rot_13"),
)
"""Modules of the standard library that are imported beforehand, in addition to those that a program names: behind the
wall no file can be opened, so that only imported modules can be had."""
REFUSED_MODULES = ("antigravity",)
"""Modules whose import does something: this one opens a web browser."""


def main() -> None:
    """Reads the job, imports what the source names, builds the wall, and does the role's work."""
    job = json.load(sys.stdin)
    verdict = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    os.close(nothing)
    testing = job["role"] == "tests"
    limit(job["seconds"], job["memory_bytes"], VERDICT_BYTES if testing else 0)
    if not testing:
        os.close(verdict)
    _import_beforehand(f"{job['setup']}\n{job['source']}")
    sys.path.clear()
    wall = build_wall()
    if wall is None and job["confined"]:
        os._exit(NO_WALL)
    connection = Connection(job["read_end"], job["write_end"])
    if testing:
        report = judge(job, connection) | {"wall": wall}
        os.write(verdict, json.dumps(report).encode()[:VERDICT_BYTES])
    else:
        serve(job["source"], job["entry_point"], connection)
    os._exit(0)


class Connection:
    """Sends and receives JSON values, one a line, over two pipes.

    Args:
        read_end: descriptor of the pipe that is read.
        write_end: descriptor of the pipe that is written.
    """

    def __init__(self, read_end: int, write_end: int) -> None:
        self._read_end, self._write_end = read_end, write_end
        self._left = b""

    def send(self, value: Any) -> None:
        """Writes a value. Raises OSError if the other process is gone."""
        data = memoryview(json.dumps(value).encode() + b"\n")
        while data:
            data = data[os.write(self._write_end, data) :]

    def receive(self) -> Any:
        """Reads a value.

        Raises:
            EOFError: the other process is gone.
            ValueError: what it sent is no JSON value, or too long.
        """
        blocks = [self._left]
        size = len(self._left)
        while b"\n" not in blocks[-1]:
            block = os.read(self._read_end, 1 << 16)
            if not block:
                raise EOFError
            blocks.append(block)
            size += len(block)
            if size > MOST_BYTES:
                raise ValueError("too long")
        line, _, self._left = b"".join(blocks).partition(b"\n")
        return json.loads(line)


def serve(source: str, entry_point: str, connection: Connection) -> None:
    """Runs the program, then answers calls of its function until the tests hang up."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    connection.send(_outcome(lambda: exec(compile(source, "completion", "exec"), namespace)))
    while True:
        try:
            arguments, named = decoded(connection.receive())
        except EOFError:
            return
        connection.send(_outcome(lambda args=arguments, named=named: _call(namespace, entry_point, args, named)))


def _call(namespace: dict[str, Any], name: str, arguments: Any, named: Any) -> Any:
    if name not in namespace:
        raise NameError(f"name {name!r} is not defined")
    return namespace[name](*arguments, **named)


def judge(job: dict[str, Any], connection: Connection) -> dict[str, Any]:
    """Runs the tests against the program at the other end; ``passed`` is None if the tests themselves don't work."""
    try:
        namespace: dict[str, Any] = {"__name__": "tests"}
        exec(compile(job["setup"], "setup", "exec"), namespace)
        tests = compile(job["source"], "tests", "exec")
    except Exception as error:
        return {"passed": None, "reason": f"the tests don't run: {_told(error)}"}
    try:
        _value(connection)
        namespace[job["entry_point"]] = caller(connection)
        exec(tests, namespace)
    except BaseException as error:
        return {"passed": False, "reason": _told(error)}
    return {"passed": True, "reason": "passed"}


def caller(connection: Connection) -> Callable[..., Any]:
    """The program's function, as the tests see it: sends the arguments, returns the value or raises the error."""

    def call(*arguments: Any, **named: Any) -> Any:
        connection.send(encoded((arguments, named)))
        return _value(connection)

    return call


def _value(connection: Connection) -> Any:
    """The value that the program sends next. Raises what it says was raised, RuntimeError if it says nothing sound."""
    try:
        answer = connection.receive()
        if "value" in answer:
            return decoded(answer["value"])
        name, text = map(str, answer["error"])
    except EOFError:
        raise RuntimeError("the program ended early") from None
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError, MemoryError):
        raise RuntimeError("the program's answer can't be read") from None
    kind = getattr(builtins, name, None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        raise RuntimeError(f"{name}: {text}")
    try:
        error = kind(text)
    except TypeError:  # such as UnicodeDecodeError, which takes five arguments
        error = RuntimeError(f"{name}: {text}")
    raise error


def _outcome(act: Callable[[], Any]) -> dict[str, Any]:
    """What to answer: the value that ``act`` returns, or the type and the text of what it raises."""
    try:
        return {"value": encoded(act())}
    except BaseException as error:
        return {"error": [type(error).__name__, _text(error)]}


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {_text(error)}".rstrip(": ")


def _text(error: BaseException) -> str:
    try:
        return str(error)[:300]
    except BaseException:
        return ""


def _import_beforehand(source: str) -> None:
    """Imports COMMON and the modules of the standard library that import statements in the source name."""
    named = re.findall(r"(?:^|[;:])[ \t]*import[ \t]+([\w., \t]+)", source, re.MULTILINE)
    wanted = [item.split()[0] for items in named for item in items.split(",") if item.strip()]
    for package, items in re.findall(r"(?:^|[;:])[ \t]*from[ \t]+([\w.]+)[ \t]+import[ \t(]+([\w, \t]*)", source, re.M):
        wanted += [package, *(f"{package}.{item.split()[0]}" for item in items.split(",") if item.strip())]
    for name in (*COMMON, *wanted):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names and top not in REFUSED_MODULES:
            try:
                importlib.import_module(name)
            except Exception:  # no such module; the program meets the same error
                continue


def run() -> NoReturn:
    """Does ``main``, and ends the process whatever happens."""
    try:
        main()
    finally:
        os._exit(1)
