"""Settings from YAML files and from --set, checked by name and type before anything runs."""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from selfdistill.data.readers import did_you_mean
from selfdistill.types import UserError

_Options = TypeVar("_Options")


def with_file(options_class: type[_Options], path: str, extra: Sequence[str]) -> tuple[_Options, dict[str, Any]]:
    """Options whose defaults come from a YAML file, and what the file sets of the fields ``extra``.

    Raises:
        UserError: the file is missing, isn't YAML, repeats a key, or has an unknown key or a wrong type.
    """
    mapping = _read(path)
    names = {f.name for f in dataclasses.fields(options_class)}  # type: ignore[arg-type]
    types = typing.get_type_hints(options_class)
    known: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for key, value in mapping.items():
        where = f"{path} line {mapping.lc.key(key)[0] + 1}"
        if key in names:
            known[key] = checked(value, types[key], f"{where}: {key}")
        elif key in extra:
            others[key] = value
        else:
            raise UserError(f"{where}: unknown setting {str(key)!r}.{did_you_mean(str(key), [*names, *extra])}")
    return options_class(**known), others


def parse_assignments(assignments: Sequence[str], known: Sequence[str], flag: str = "--set") -> dict[str, Any]:
    """``name=value`` strings to a dict; values are read as YAML, so 1e-5, true and null mean what they say.

    ``flag`` is where they were given, for the messages.

    Raises:
        UserError: no equals sign, an unknown name, or a value that isn't YAML.
    """
    from ruamel.yaml import YAML, YAMLError

    result: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"{flag} {text}: write it as name=value.")
        if name not in known:
            raise UserError(f"{flag} {text}: unknown setting {name!r}.{did_you_mean(name, known)}")
        try:
            result[name] = YAML(typ="safe").load(value)
        except YAMLError as error:
            raise UserError(f"{flag} {text}: the value does not read as YAML. Quote it.") from error
    return result


def checked(value: Any, annotation: Any, where: str) -> Any:
    """``value`` as the type ``annotation``; numbers and strings are not turned into each other.

    Raises:
        UserError: it is of another type; the message begins with ``where``.
    """
    import pydantic

    adapter = pydantic.TypeAdapter(annotation, config=pydantic.ConfigDict(extra="forbid"))
    try:
        return adapter.validate_python(value)
    except pydantic.ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Input should be ")
        raise UserError(f"{where}: {value!r} is not {reason}.") from error


def _read(path: str) -> Any:
    from ruamel.yaml import YAML, YAMLError
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError

    file = Path(path)
    if not file.is_file():
        siblings = [str(p) for p in file.parent.glob("*.yaml")] if file.parent.is_dir() else []
        raise UserError(f"--config {path}: no such file.{did_you_mean(path, siblings)}")
    try:
        mapping = YAML(typ="rt").load(file.read_text(encoding="utf-8"))
    except DuplicateKeyError as error:
        mark = error.problem_mark
        raise UserError(f"{path} line {mark.line + 1}: a setting is given twice. Keep one of them.") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" line {mark.line + 1} column {mark.column + 1}" if mark else ""
        raise UserError(f"{path}{place}: not YAML ({error.problem}).") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML text. Write settings as name: value, a line each.") from error
    if not isinstance(mapping, Mapping):
        raise UserError(f"{path}: write settings as name: value, a line each.")
    return mapping
