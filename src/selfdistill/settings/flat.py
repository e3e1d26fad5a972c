"""Options as a flat mapping of names to values, whatever groups they consist of.

In Python, options are nested dataclasses; a group is a field whose type is a dataclass. Flags, YAML keys and the
settings of an arm name a setting without its group, so no name occurs in two groups of the same options.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from selfdistill.errors import UserError
from selfdistill.settings.sources import named_paths, parts

_Options = TypeVar("_Options")


class Leaf(NamedTuple):
    """Type and place of a setting within its options."""

    groups: tuple[str, ...]
    """Names of the nested fields that lead to the setting's group; empty for a setting of the options themselves."""
    annotation: Any
    """The setting's type."""
    is_path: bool
    """True if it names a file or folder, or several."""
    is_sources: bool
    """True if it may name several, as ``sources`` reads them."""


@cache
def leaves(options_class: type) -> dict[str, Leaf]:
    """Every setting of a class of options by name, including those of its groups."""
    return dict(_leaves(options_class, ()))


def flatten(options: Any) -> dict[str, Any]:
    """Value of every setting by name."""
    return {name: _get(options, name, leaf) for name, leaf in leaves(type(options)).items()}


def build(options_class: type[_Options], values: Mapping[str, Any]) -> _Options:
    """Options with the given values by name, and the class's defaults for all other settings.

    Raises:
        TypeError: the options have no setting of that name.
    """
    return changed(options_class(), values)


def changed(options: _Options, values: Mapping[str, Any]) -> _Options:
    """A copy of the options with other values by name. Raises TypeError if they have no setting of that name."""
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
    """A copy of the options with a leading ``~`` of every path expanded. Raises UserError as ``at_home``."""
    values = flatten(options)
    paths = {name: leaf for name, leaf in leaves(type(options)).items() if leaf.is_path and values[name] is not None}
    return changed(
        options,
        {
            name: ",".join(map(at_home, parts(values[name]))) if leaf.is_sources else at_home(values[name])
            for name, leaf in paths.items()
        },
    )


def at_home(path: str) -> str:
    """The path with a leading ``~`` or ``~name`` expanded to a home folder. Raises UserError if there is no user
    ``name``."""
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise UserError(f"{path}: there is no user of that name. For a file called so write ./{path}") from error


def input_paths(options: Any) -> list[str]:
    """Files and folders that the options name, except ``output_dir``: those that the command may read."""
    values = flatten(options)
    named = {name: leaf for name, leaf in leaves(type(options)).items() if leaf.is_path and name != "output_dir"}
    return [
        path
        for name, leaf in named.items()
        if values[name]
        for path in (named_paths(values[name]) if leaf.is_sources else [values[name]])
    ]


def _leaves(options_class: type, groups: tuple[str, ...]) -> Iterator[tuple[str, Leaf]]:
    hints = get_type_hints(options_class, include_extras=True)
    for each in dataclasses.fields(options_class):
        hint = hints[each.name]
        inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            yield from _leaves(inner, (*groups, each.name))
        else:
            yield each.name, Leaf(groups, hint, bool(each.metadata.get("path")), bool(each.metadata.get("sources")))


def _get(options: Any, name: str, leaf: Leaf) -> Any:
    for group in leaf.groups:
        options = getattr(options, group)
    return getattr(options, name)


def _with(options: Any, groups: tuple[str, ...], values: Mapping[str, Any]) -> Any:
    if not groups:
        return dataclasses.replace(options, **values)
    first, *rest = groups
    return dataclasses.replace(options, **{first: _with(getattr(options, first), tuple(rest), values)})
