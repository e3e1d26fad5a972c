"""Settings from YAML files and from --set, with names and types checked before anything runs."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

from selfdistill.errors import UserError, did_you_mean, quoted
from selfdistill.settings import flat
from selfdistill.settings.recipes import recipe_names, recipe_path

_Options = TypeVar("_Options")


def options_from_file(options_class: type[_Options], path: str) -> _Options:
    """Reads options from a YAML file, or from a recipe by its name. Their ``config`` is the path of the file.

    Settings that the options lack are put into ``from_file``: they may be fields of the trainer's config.

    Raises:
        UserError: the file can't be read, is not YAML, repeats a key, sets ``config``, or has a value of the wrong
        type.
    """
    path = _file(path)
    leaves = flat.leaves(options_class)
    known: dict[str, Any] = {"config": path}
    others: dict[str, Any] = {}
    for key, (value, line) in _read(path).items():
        if key in ("config", "from_file"):
            raise UserError(f"{path} line {line}: {key} can't be set in a file. Leave it out.")
        if key in leaves:
            known[key] = checked(value, leaves[key].annotation, f"{path} line {line}: {key}")
        else:
            others[key] = value
    return flat.with_home(flat.build(options_class, known | {"from_file": tuple(others.items())}))


def places_in_file(path: str) -> dict[str, str]:
    """Place of each setting of a YAML file or recipe, as ``<file> line <N>``. Raises UserError as
    ``options_from_file``."""
    path = _file(path)
    return {key: f"{path} line {line}" for key, (_, line) in _read(path).items()}


def parse_assignments(
    assignments: Sequence[str], known: Sequence[str], flag: str = "--set", flags: Sequence[str] = ()
) -> dict[str, Any]:
    """Parses ``name=value`` strings. Values are read as YAML: 1e-5 is a number, true a boolean, null is None.

    Args:
        assignments: the strings.
        known: allowed names.
        flag: flag they were given to, for messages.
        flags: names that have a flag of their own.

    Raises:
        UserError: there is no equals sign, the name is unknown or has a flag of its own, or the value is not YAML.
    """
    from ruamel.yaml import YAML, YAMLError

    result: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"{flag} {text}: write it as name=value.")
        if name in flags:
            raise UserError(f"{flag} {text}: {name} has a flag of its own. Give --{name} {value}.")
        if name not in known:
            raise UserError(f"{flag} {text}: unknown setting {name!r}.{did_you_mean(name, known)}")
        if _nested(value):
            raise UserError(f"{flag} {text[:80]}: the value is nested too deep. Make it flat.")
        try:
            result[name] = YAML(typ="safe").load(value)
        except (YAMLError, ValueError, RecursionError) as error:
            raise UserError(f"{flag} {text[:80]}: the value is not YAML. Quote it.") from error
    return result


def checked(value: Any, annotation: Any, where: str) -> Any:
    """Converts a value to the type ``annotation``. Strings and booleans are not accepted as numbers, nor numbers as
    strings.

    Raises:
        UserError: the value is of another type; the message begins with ``where``.
    """
    import pydantic

    adapter = pydantic.TypeAdapter(annotation, config=pydantic.ConfigDict(extra="forbid"))
    try:
        result = adapter.validate_python(value)
    except pydantic.ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Input should be ")
        raise UserError(f"{where}: {quoted(value)} is not {reason}.") from error
    if isinstance(value, str | bool) and isinstance(result, int | float) and not isinstance(result, bool):
        raise UserError(f"{where}: {quoted(value)} is not a number.")
    return result


def _file(path: str) -> str:
    """Path of the file that ``--config`` names: ``~`` expanded, the name of a recipe replaced by its file."""
    path = flat.at_home(path)
    return str(recipe_path(path)) if not Path(path).exists() and path in recipe_names() else path


def _read(path: str) -> dict[str, tuple[Any, int]]:
    """Value and line number of every key of a YAML file; values are plain Python objects. Raises UserError."""
    from ruamel.yaml import YAML, YAMLError
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError

    file = Path(path)
    if not file.is_file():
        siblings = [str(p) for p in file.parent.glob("*.yaml")] if file.parent.is_dir() else []
        raise UserError(f"--config {path}: no such file or recipe.{did_you_mean(path, [*siblings, *recipe_names()])}")
    try:
        text = file.read_text(encoding="utf-8-sig")
        if len(text) > MOST_CHARACTERS or _nested(text):
            raise UserError(f"{path} is too long or nested too deep for settings. Write name: value on each line.")
        node = YAML(typ="rt").compose(text)
        _check_size(node, path)
        mapping = YAML(typ="safe").load(text)
    except DuplicateKeyError as error:
        mark = error.problem_mark
        raise UserError(f"{path} line {mark.line + 1}: a setting is given twice. Keep one of them.") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" line {mark.line + 1} column {mark.column + 1}" if mark else ""
        raise UserError(f"{path}{place}: not YAML ({error.problem}).") from error
    except OSError as error:
        raise UserError(f"--config {path} can't be read ({error.strerror}).") from error
    except UserError:
        raise
    except (YAMLError, ValueError, RecursionError) as error:  # such as 5,000 digits, or brackets in brackets
        raise UserError(f"{path} is not YAML text. Write settings as name: value, one on each line.") from error
    if not isinstance(mapping, Mapping):
        raise UserError(f"{path}: write settings as name: value, one on each line.")
    lines = {str(key.value): key.start_mark.line + 1 for key, _ in node.value}
    return {str(key): (value, lines.get(str(key), 1)) for key, value in mapping.items()}


MOST_CHARACTERS, MOST_DEPTH = 1 << 20, 100
"""Longest text, and deepest brackets, of a file of settings. The parser takes minutes over deeper ones."""
MOST_VALUES = 100_000
"""Values in a file of settings, each counted as often as aliases repeat it."""


def _check_size(node: Any, path: str) -> None:
    """Raises UserError for a file whose aliases multiply: a few lines can stand for more values than fit in memory."""
    sizes: dict[int, int] = {}

    def size(part: Any) -> int:
        if id(part) not in sizes:
            sizes[id(part)] = MOST_VALUES + 1  # met again below itself, it would have no end
            inner = part.value if isinstance(getattr(part, "value", None), list) else []
            children = [child for item in inner for child in (item if isinstance(item, tuple) else (item,))]
            sizes[id(part)] = 1 + sum(map(size, children))
        return sizes[id(part)]

    if node is not None and size(node) > MOST_VALUES:
        raise UserError(f"{path}: its aliases stand for more than {MOST_VALUES:,} values. Write the settings out.")


def _nested(text: str) -> bool:
    """Whether lists and maps in a line lie deeper in each other than MOST_DEPTH."""
    steps = accumulate((char in "[{") - (char in "]}") for char in text)
    return max(steps, default=0) > MOST_DEPTH or "- " * MOST_DEPTH in text
