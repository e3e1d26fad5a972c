"""Recipes: settings that come with the package, by name."""

from pathlib import Path

from selfdistill.errors import UserError, did_you_mean

_PLACES = (Path(__file__).parents[1] / "recipe_files", Path(__file__).parents[3] / "recipes")
FOLDER = next((place for place in _PLACES if place.is_dir()), _PLACES[0])
"""In an installed package, or at the root of a checkout."""


def recipe_names() -> list[str]:
    """Names of all recipes, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """The YAML file of a recipe. Raises UserError, with the likely name, where there is none."""
    path = FOLDER / f"{name}.yaml"
    if name not in recipe_names():
        raise UserError(f"Unknown recipe {name!r}.{did_you_mean(name, recipe_names())} See `selfdistill recipes`.")
    return path
