"""Functions of a person's own, named in a setting as ``path.py:function``."""

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from selfdistill.errors import UserError, brief, did_you_mean
from selfdistill.types import Example


def user_function(spec: str, flag: str, arguments: tuple[str, str]) -> Callable[[Any, Any], Any]:
    """The function that ``path.py:function`` names.

    Args:
        spec: the file and the function.
        flag: the setting's flag, for messages.
        arguments: what the function takes, in words, for messages.

    Raises:
        UserError: there is no such file, it can't be imported, it has no such function, or the function takes other
            than two arguments.
    """
    file, _, name = spec.rpartition(":")
    path = Path(file).expanduser()
    if not file.endswith(".py") or not path.is_file():
        raise UserError(f"{flag} {spec}: there is no file {file!r}. Give path.py:function.")
    module = _imported(path, spec, flag)
    function = getattr(module, name, None)
    if function is None:
        own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        hint = did_you_mean(name, own) or (f" It has {', '.join(own[:6])}." if own else " It has none.")
        raise UserError(f"{flag} {spec}: {path.name} has no function {name!r}.{hint}")
    if not callable(function):
        raise UserError(f"{flag} {spec}: {name} is of type {type(function).__name__}, not a function.")
    try:
        inspect.signature(function).bind("", None)
    except TypeError as error:
        raise UserError(
            f"{flag} {spec}: {name}{inspect.signature(function)} must take two arguments, {' and '.join(arguments)}."
        ) from error
    except ValueError:  # a builtin without a signature
        pass
    return function


def fingerprint(spec: str) -> str:
    """Name of the file and the function, and eight hex digits of a hash of the file: ``score.py:grade@1a2b3c4d``.
    Raises UserError if the file can't be read."""
    file, _, function = spec.rpartition(":")
    path = Path(file).expanduser()
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror}.") from error
    return f"{path.name}:{function}@{digest[:8]}"


def row_name(example: Example) -> str:
    """The row as messages name it, such as ``row 3 (custom/eval/2)``: rows are counted from 1, ids from 0."""
    number = example.id.rpartition("/")[2]
    return f"row {int(number) + 1} ({example.id})" if number.isdecimal() else f"row {example.id}"


def described(error: BaseException) -> str:
    """Type, line and first words of an error in a person's file."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" in line {trace.tb_lineno}" if trace is not None else ""
    return f"{type(error).__name__}{place}: {brief(error, 10)}".rstrip(": .")


def _imported(path: Path, spec: str, flag: str) -> ModuleType:
    source = importlib.util.spec_from_file_location(f"selfdistill_user_{path.stem}", path)
    assert source is not None  # its name ends in .py
    assert source.loader is not None
    module = importlib.util.module_from_spec(source)
    sys.modules[source.name] = module  # dataclasses look their module up
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.append(folder)  # so that it can import modules beside it; last, so that they hide no others
    try:
        source.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(f"{flag} {spec}: {path.name} can't be imported: {described(error)}.") from error
    return module
