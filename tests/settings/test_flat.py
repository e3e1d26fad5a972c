"""Groups of options as one list of names, there and back; and paths below the home folder."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from selfdistill import cli
from selfdistill.settings import flat
from selfdistill.settings.fields import path
from selfdistill.settings.ledger import CURRENT_VERSION
from selfdistill.settings.train import TrainOptions
from tests.support.mistakes import mistake
from tests.support.options import OPTIONS

# -- by hand ------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Inner:
    rate: float = 0.1
    file: str | None = path()


@dataclass(frozen=True, kw_only=True)
class Middle:
    steps: int = 5
    inner: Inner = field(default_factory=Inner)


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str = "x"
    output_dir: str | None = path()
    middle: Middle = Middle()


def test_leaves_are_the_settings_of_all_groups():
    leaves = flat.leaves(Outer)
    assert {name: leaf.groups for name, leaf in leaves.items()} == {
        "name": (),
        "output_dir": (),
        "steps": ("middle",),
        "rate": ("middle", "inner"),
        "file": ("middle", "inner"),
    }
    assert [name for name, leaf in leaves.items() if leaf.is_path] == ["output_dir", "file"]


def test_build_flatten_and_change():
    built = flat.build(Outer, {"rate": 0.3, "name": "y"})
    assert built == Outer(name="y", middle=Middle(inner=Inner(rate=0.3)))
    assert flat.flatten(built) == {"name": "y", "output_dir": None, "steps": 5, "rate": 0.3, "file": None}
    again = flat.changed(built, {"steps": 6, "file": "a"})
    assert flat.flatten(again) == {"name": "y", "output_dir": None, "steps": 6, "rate": 0.3, "file": "a"}


def test_a_change_touches_neither_the_old_options_nor_the_defaults():
    built = flat.build(Outer, {"rate": 0.3})
    flat.changed(built, {"rate": 0.4})
    assert flat.flatten(built)["rate"] == 0.3
    assert flat.flatten(Outer())["rate"] == 0.1


def test_a_name_that_is_no_setting_is_a_programmers_error():
    for name in ("rates", "middle", "inner"):
        with pytest.raises(TypeError, match=f"Outer has no setting '{name}'"):
            flat.build(Outer, {name: 1})


def test_input_paths_are_those_that_are_read():
    options = flat.build(Outer, {"output_dir": "out", "file": "rows.jsonl"})
    assert flat.input_paths(options) == ["rows.jsonl"]
    assert flat.input_paths(Outer()) == []


# -- the options of every command ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", OPTIONS)
def test_no_name_stands_in_two_groups(command: str):
    names = [name for name, _ in flat._leaves(OPTIONS[command], ())]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("command", OPTIONS)
def test_options_are_their_settings(command: str):
    options_class = OPTIONS[command]
    values = flat.flatten(options_class())
    assert flat.build(options_class, values) == options_class()
    assert values.keys() == flat.leaves(options_class).keys()


def test_a_setting_is_changed_wherever_it_is():
    given = {"seed": 7, "output_dir": "o", "learning_rate": 1e-3, "lora_r": 4, "template": "paper", "dataset_path": "d"}
    options = flat.build(TrainOptions, given)
    assert (options.seed, options.run.output_dir, options.source.dataset_path) == (7, "o", "d")
    recipe = options.recipe
    assert (recipe.optimizer.learning_rate, recipe.adapter.lora_r, recipe.prompts.template) == (1e-3, 4, "paper")
    assert flat.flatten(options) == flat.flatten(TrainOptions()) | given


def test_what_a_run_reads():
    given = {"output_dir": "out", "dataset_path": "d", "model_name": "m", "template_file": "t", "anchor_data": "a"}
    given |= {"data_dir": "folder", "config": "c.yaml", "base_model": "b"}
    assert sorted(flat.input_paths(flat.build(TrainOptions, given))) == ["a", "b", "c.yaml", "d", "folder", "m", "t"]


# -- the home folder ----------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HOME", str(tmp_path))
    return str(tmp_path)


def path_names(command: str) -> list[str]:
    return [name for name, leaf in flat.leaves(OPTIONS[command]).items() if leaf.is_path]


@pytest.mark.parametrize("command", [command for command in OPTIONS if path_names(command)])
def test_every_path_of_every_group_knows_the_home_folder(command: str, home: str):
    names = path_names(command)
    options = flat.with_home(flat.build(OPTIONS[command], {name: f"~/{name}" for name in names}))
    values = flat.flatten(options)
    assert {name: values[name] for name in names} == {name: os.path.join(home, name) for name in names}


def test_other_paths_stay_as_they_are(home: str):
    values: dict[str, Any] = {"output_dir": "a/~/b", "model_name": "owner/name", "dataset_path": None}
    options = flat.build(TrainOptions, values)
    assert flat.with_home(options) == options
    assert flat.with_home(OPTIONS["learn"]()).recipe.model.model_name == CURRENT_VERSION


def test_a_name_of_nobody_is_no_home_folder():
    message = mistake(flat.at_home, "~nobody-at-all/x")
    assert "./~nobody-at-all/x" in message


PATH_FLAGS = [
    ("train", "output_dir"),
    ("train", "dataset_path"),
    ("train", "template_file"),
    ("preflight", "model_name"),
    ("eval", "output_dir"),
    ("eval", "model_path"),
    ("compare", "output_dir"),
    ("continual", "anchor_data"),
    ("learn", "ledger"),
    ("learn", "eval_path"),
    ("rollback", "ledger"),
    ("chat", "against"),
    ("build", "articles"),
    ("demo", "output_dir"),
    ("report", "output"),
]


@pytest.mark.parametrize(("command", "name"), PATH_FLAGS)
def test_flags_too(command: str, name: str, home: str):
    """A shell leaves the ~ behind an equals sign alone."""
    assert flat.flatten(cli.parse(command, [f"--{name}=~/x"]))[name] == os.path.join(home, "x")


@pytest.mark.parametrize("command", ["report", "ledger"])
def test_folders_that_need_no_flag_too(command: str, home: str):
    assert cli.parse(command, ["~/x"]).folder == os.path.join(home, "x")
