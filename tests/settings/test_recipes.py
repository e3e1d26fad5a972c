"""The settings that come with the package: every command that trains takes every one of them."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from selfdistill import cli
from selfdistill.settings import flat
from selfdistill.settings.recipes import FOLDER, recipe_names, recipe_path
from tests.support.mistakes import mistake
from tests.support.options import OPTIONS, TRAINING


def content(recipe: str) -> dict[str, Any]:
    return YAML(typ="safe").load(recipe_path(recipe).read_text(encoding="utf-8"))


def test_names_and_files():
    assert recipe_names() == sorted(path.stem for path in (Path(__file__).parents[2] / "recipes").glob("*.yaml"))
    assert recipe_path("demo-cpu") == FOLDER / "demo-cpu.yaml"
    assert "Did you mean 'demo-cpu'?" in mistake(recipe_path, "demo-cup")


@pytest.mark.parametrize("recipe", recipe_names())
@pytest.mark.parametrize("command", TRAINING)
def test_every_recipe_is_taken_whole(command: str, recipe: str):
    options = cli.parse(command, ["--config", recipe])
    values, wanted = flat.flatten(options), content(recipe)
    assert options.recipe.trainer.config == recipe
    kept = dict(options.recipe.trainer.from_file)
    assert {name: values.get(name, kept.get(name)) for name in wanted} == wanted
    assert kept == {}  # it sets flags of the command only


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_passes_the_checks_of_train_and_preflight(recipe: str, tmp_path: Path):
    options = cli.parse("train", ["--config", recipe, "--output_dir", str(tmp_path / "new")])
    options.check()
    assert flat.flatten(options)["config"] == recipe
    cli.parse("preflight", ["--config", recipe]).check()


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_passes_the_checks_of_studies_and_the_ledger(recipe: str, tmp_path: Path):
    place = ["--config", recipe, "--output_dir", str(tmp_path / "new")]
    cli.parse("compare", place).check()
    in_stages = [
        cli.parse("continual", [*place, "--stages", "assistant-tools"]),
        cli.parse("learn", ["--config", recipe, "--ledger", str(tmp_path / "ledger")]),
    ]
    for options in in_stages:
        if options.recipe.model.quantize is None:
            options.check()
        else:
            assert "each stage's adapter is merged into the weights" in mistake(options.check)


def test_quantized_weights_are_not_trained():
    options = cli.parse("train", ["--quantize", "4bit", "--output_dir", "new"])
    assert "quantized weights can't be trained, only an adapter beside them" in mistake(options.check)


def test_the_commands_that_train_are_those_that_take_a_file():
    assert [command for command in OPTIONS if "from_file" in flat.leaves(OPTIONS[command])] == sorted(
        TRAINING, key=list(OPTIONS).index
    )
