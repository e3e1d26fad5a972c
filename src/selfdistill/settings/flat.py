"""Options are made of groups; outside Python they are one list of names: flags, YAML keys, an arm's settings.

A group is a field whose type is a dataclass. No name stands in two groups of the same options.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from selfdistill.errors import UserError

_Options = TypeVar("_Options")


class Leaf(NamedTuple):
    """A setting and where it is."""

    groups: tuple[str, ...]
    """Fields that lead from the options to what holds it; empty for the options themselves."""
    annotation: Any
    is_path: bool


@cache
def leaves(options_class: type) -> dict[str, Leaf]:
    """Every setting of the options by name, those of groups included."""
    return dict(_leaves(options_class, ()))


def flatten(options: Any) -> dict[str, Any]:
    """The value of every setting by name."""
    return {name: _get(options, name, leaf) for name, leaf in leaves(type(options)).items()}


def build(options_class: type[_Options], values: Mapping[str, Any]) -> _Options:
    """Options with these values by name, the class's own defaults for all others.

    Raises:
        TypeError: a name is no setting of the options.
    """
    return changed(options_class(), values)


def changed(options: _Options, values: Mapping[str, Any]) -> _Options:
    """The same options with other values by name. Raises TypeError where a name is no setting of theirs."""
    places = leaves(type(options))
    by_group: dict[tuple[str, ...], dict[str, Any]] = {}
    for name, value in values.items():
        if name not in places:
            raise TypeError(f"{type(options).__name__} has no setting {name!r}")
        by_group.setdefault(places[name].groups, {})[name] = value
    for groups, inner in by_group.items():
        options = _with(options, groups, inner)
    return options


def with_home(options: _Options) -> _Options:
    """The same options, ``~`` at the start of a path replaced by the home folder. Raises UserError as ``at_home``."""
    values = flatten(options)
    paths = [name for name, leaf in leaves(type(options)).items() if leaf.is_path]
    return changed(options, {name: at_home(values[name]) for name in paths if values[name] is not None})


def at_home(path: str) -> str:
    """The path, ``~`` at its start replaced by the home folder. Raises UserError where ``~name`` is nobody's."""
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise UserError(f"{path}: nobody here has that name. For a file so called write ./{path}") from error


def input_paths(options: Any) -> list[str]:
    """What the options name as files and folders, but for where they write to."""
    values = flatten(options)
    paths = [values[name] for name, leaf in leaves(type(options)).items() if leaf.is_path and name != "output_dir"]
    return [path for path in paths if path]


def _leaves(options_class: type, groups: tuple[str, ...]) -> Iterator[tuple[str, Leaf]]:
    hints = get_type_hints(options_class, include_extras=True)
    for each in dataclasses.fields(options_class):
        hint = hints[each.name]
        inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            yield from _leaves(inner, (*groups, each.name))
        else:
            yield each.name, Leaf(groups, hint, bool(each.metadata.get("path")))


def _get(options: Any, name: str, leaf: Leaf) -> Any:
    for group in leaf.groups:
        options = getattr(options, group)
    return getattr(options, name)


def _with(options: Any, groups: tuple[str, ...], values: Mapping[str, Any]) -> Any:
    if not groups:
        return dataclasses.replace(options, **values)
    first, *rest = groups
    return dataclasses.replace(options, **{first: _with(getattr(options, first), tuple(rest), values)})
