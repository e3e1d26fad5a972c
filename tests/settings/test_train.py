"""What ``train`` and ``preflight`` refuse before anything is loaded, and what of the options is the method's."""

from pathlib import Path
from typing import Any

import pytest

from selfdistill import cli
from selfdistill.settings import flat
from selfdistill.settings.method import MethodConfig
from selfdistill.settings.train import DemoOptions, PreflightOptions, TrainOptions, method_config
from tests.support.mistakes import mistake, refusal


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(**given: Any) -> TrainOptions:
    return flat.build(TrainOptions, {"output_dir": "out"} | given)


def preflight(**given: Any) -> PreflightOptions:
    return flat.build(PreflightOptions, given)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"dry_run": True, "output_dir": None},
        {"method": "reinvoke", "base_model": "m"},
        {"template": "file", "template_file": "t.jinja"},
        {"max_steps": 1, "num_train_epochs": 0},
    ],
)
def test_what_is_taken(given: dict[str, Any]):
    assert refusal(train(**given).check) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"output_dir": None}, "--output_dir is missing: name a folder for the model and its records."),
        ({"base_model": "m"}, "--base_model is what reinvoke distils from; sdft has none. Leave it out."),
        ({"method": "zork"}, "method: 'zork' is not one of sdft, sft, dft, cpt, offline, reinvoke."),
        ({"seed": -1}, "seed: -1 is not between 0 and 4294967295."),
        ({"save_steps": 0}, "save_steps: 0 is not at least 1."),
        ({"limit": 0}, "limit: 0 is not at least 1."),
        ({"max_completion_length": 0}, "max_completion_length: 0 is not at least 1."),
        ({"preflight_rows": 0}, "preflight_rows: 0 is not at least 1."),
        ({"dtype": "float16"}, "--dtype float16"),
        ({"lora_alpha": 4}, "--lora_alpha 4 scales an adapter."),
        ({"learning_rate": float("nan")}, "learning_rate: nan is not between 0 and 1"),
        ({"max_steps": 0}, "max_steps: 0 steps train nothing."),
        ({"num_train_epochs": 0}, "num_train_epochs: 0 epochs train nothing."),
        ({"template": "file"}, "template_file: give it together with template=file"),
        ({"resume": True}, "--resume: out holds no run to go on with. Leave --resume out to start."),
        ({"allow_changes": True}, "--allow_changes: out holds no run to go on with."),
        ({"allow_changes": True, "overwrite": True}, "--allow_changes and --overwrite exclude each other"),
        ({"resume": True, "overwrite": True}, "--resume and --overwrite exclude each other"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str):
    assert mistake(train(**given).check).startswith(message)


def test_a_folder_in_use_is_refused_unless_nothing_is_written(here: Path):
    (here / "out").mkdir()
    (here / "out" / "thesis.txt").write_text("mine")
    assert "--output_dir out is not empty" in mistake(train().check)
    assert "holds no record of ours" in mistake(train(overwrite=True).check)
    train(dry_run=True).check()


def test_a_preflight_takes_trains_settings_but_for_the_number_of_rows(here: Path):
    preflight(num_rows=1, method="sft").check()
    (here / "c.yaml").write_text("preflight_rows: 3\n")
    cli.parse("preflight", ["--config", "c.yaml"]).check()  # of a recipe for train
    assert mistake(preflight(num_rows=0).check) == "num_rows: 0 is not at least 1."
    assert mistake(preflight(preflight_rows=3).check) == "--preflight_rows 3 is for train. Here it is --num_rows."
    assert mistake(preflight(dtype="float16").check).startswith("--dtype float16")
    assert mistake(preflight(anchor_share=0.95).check).startswith("anchor_share: 0.95 is not between 0 and 0.9")


def test_a_demo_scores_at_least_one_row():
    DemoOptions(limit=1).check()
    assert mistake(DemoOptions(limit=0).check) == "limit: 0 is not at least 1."


def test_the_methods_settings_among_the_options():
    given: dict[str, Any] = {"method": "sft", "seed": 7, "learning_rate": 1e-3, "teacher": "live", "template": "system"}
    assert method_config(train(**given)) == MethodConfig(**given)
    assert method_config(train(max_completion_length=99)) == MethodConfig(template="auto", max_completion_length=99)


def test_what_options_lack_is_the_methods_own_default():
    assert method_config(DemoOptions()) == MethodConfig()
    assert method_config(train()).max_completion_length == MethodConfig().max_completion_length


def test_every_setting_of_the_method_is_an_option_of_train():
    assert set(vars(MethodConfig())) <= set(flat.leaves(TrainOptions))
