"""Recipes: named YAML files with settings, which are part of the package."""

from pathlib import Path

from selfdistill.errors import UserError, did_you_mean

_PLACES = (Path(__file__).parents[1] / "recipe_files", Path(__file__).parents[3] / "recipes")
FOLDER = next((place for place in _PLACES if place.is_dir()), _PLACES[0])
"""Folder of the recipes: inside an installed package, or at the root of a checkout."""


def recipe_names() -> list[str]:
    """Names of all recipes, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """The YAML file of a recipe. Raises UserError, with the closest name, if there is no such recipe."""
    path = FOLDER / f"{name}.yaml"
    if name not in recipe_names():
        raise UserError(f"Unknown recipe {name!r}.{did_you_mean(name, recipe_names())} See `selfdistill recipes`.")
    return path
