"""From a command's options to the trainer's config: what is left open, what is left out, what is refused."""

from pathlib import Path
from typing import Any

import pytest

from selfdistill.cli import parse
from selfdistill.settings.train import TrainOptions
from selfdistill.tasks.task import Task
from selfdistill.training.run import prepared_run
from selfdistill.training.settings import completion_budget, trainer_config, without_idle_settings
from tests.support.mistakes import mistake
from tests.support.study_home import QUIET, printed
from tests.support.toy_task import toy_task


def task(limit: int) -> Task:
    return toy_task(scorers={}, max_new_tokens=limit)


# -- the completion limit --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "limit", "samples", "expected"),
    [
        pytest.param([200] * 99 + [900], 2048, True, 300, id="half as long again as the usual demonstration"),
        pytest.param([200] * 90 + [900] * 10, 2048, True, 1350, id="one in ten is usual"),
        pytest.param([20] * 100, 2048, True, 256, id="at least 256"),
        pytest.param([2000] * 100, 2048, True, 2048, id="at most the task's own"),
        pytest.param([20] * 100, 128, True, 128, id="the task's own though it is less"),
        pytest.param([200] * 99 + [900], 2048, False, 900, id="a demonstration that is the completion fits"),
        pytest.param([], 512, True, 512, id="no demonstration"),
    ],
)
def test_the_default_limit_by_hand(lengths: list[int], limit: int, samples: bool, expected: int) -> None:
    assert completion_budget(task(limit), lengths, samples=samples) == expected


def test_a_limit_that_is_given_counts(options: Any) -> None:
    assert trainer_config(options(template="paper", max_completion_length=20), 300).max_completion_length == 20
    assert trainer_config(options(template="paper", max_completion_length=None), 300).max_completion_length == 300


# -- the template ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "stands_for"), [("sdft", "prior_turn"), ("offline", "prior_turn"), ("sft", "paper"), ("cpt", "paper")]
)
def test_auto_stands_for_a_template_until_one_is_chosen(options: Any, method: str, stands_for: str) -> None:
    assert trainer_config(options(method=method), 20).template == stands_for


def test_a_template_that_a_flag_names_for_nobody_is_refused(options: Any) -> None:
    assert "template='system' would be ignored" in mistake(trainer_config, options(method="sft", template="system"), 20)


def test_one_command_line_serves_all_methods_whatever_a_template_is_to_them() -> None:
    options, idle = without_idle_settings(parsed("--method=sft", "--template=system"))
    assert idle == ["template"]
    assert trainer_config(options, 20).template == "paper"
    options, idle = without_idle_settings(parsed("--method=sft", "--template=file", "--template_file=a.jinja"))
    assert idle == ["template", "template_file"]
    assert trainer_config(options, 20).template_file is None


# -- settings that the method has no use for -----------------------------------------------------------------


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    """A file of a user's own, for self-distillation."""
    path = tmp_path / "recipe.yaml"
    path.write_text("template: prior_turn\ntemplate_repeat: 2\nteacher: frozen\nlearning_rate: 1e-3\n")
    return str(path)


def parsed(*flags: str) -> TrainOptions:
    return parse("train", flags)


def test_what_a_file_sets_for_another_method_is_left_out(recipe: str) -> None:
    options, idle = without_idle_settings(parsed("--config", recipe, "--method=sft"))
    assert sorted(idle) == ["teacher", "template", "template_repeat"]
    config = trainer_config(options, 64)
    assert (config.teacher, config.template_repeat, config.learning_rate) == ("ema", 1, 1e-3)


def test_a_method_that_uses_all_of_a_file_loses_nothing(recipe: str) -> None:
    given = parsed("--config", recipe)
    options, idle = without_idle_settings(given)
    assert idle == []
    assert options == given


def test_a_flag_that_would_be_ignored_is_refused_though_a_file_is_there(recipe: str) -> None:
    options, idle = without_idle_settings(parsed("--config", recipe, "--method=sft", "--teacher=live"))
    assert sorted(idle) == ["template", "template_repeat"]
    assert "teacher='live' would be ignored" in mistake(trainer_config, options, 64)
    alone, idle = without_idle_settings(parsed("--method=sft", "--teacher=live"))
    assert idle == []
    assert "teacher='live' would be ignored" in mistake(trainer_config, alone, 64)


def test_what_is_left_out_is_said(options: Any, recipe: str) -> None:
    in_file = {"config": recipe, "template": "prior_turn", "template_repeat": 2, "teacher": "frozen"}
    quick = options(method="sft", **in_file)
    shown = printed(lambda console: prepared_run(quick, console))
    assert "Left out, since sft has no use for them: template, template_repeat, teacher." in shown
    assert "Left out" not in printed(lambda console: prepared_run(options(method="sft"), console))
    assert prepared_run(quick, QUIET).config.teacher == "ema"


# -- the trainer's other fields --------------------------------------------------------------------------


def test_fields_without_a_flag_come_from_the_file_and_from_set(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("adam_beta2: 0.9\nlogging_steps: 5\n")
    options = parsed("--config", str(file), "--template=paper", "--set=adam_beta2=0.95")
    config = trainer_config(options, 20)
    assert (config.adam_beta2, config.logging_steps) == (0.95, 5)


def test_a_field_of_a_file_that_nobody_knows(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("seed: 3\nadam_betta2: 0.9\n")
    said = mistake(trainer_config, parsed("--config", str(file), "--template=paper"), 20)
    assert said.startswith(f"{file}")
    assert "unknown setting 'adam_betta2'. Did you mean 'adam_beta2'?" in said


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"set": ("adam_betta2=0.9",)}, "unknown setting 'adam_betta2'. Did you mean 'adam_beta2'?"),
        ({"set": ("adam_beta2",)}, "write it as name=value"),
        ({"set": ("optim=sgd",)}, "--set optim=sgd: optim has a flag of its own. Give --optim sgd."),
        ({"set": ("seed=3",)}, "--set seed=3: seed has a flag of its own. Give --seed 3."),
        ({"optim": "galore_adamw"}, "optim=galore_adamw: "),
        ({"optim": "adamw_8bits"}, "optim: unknown optimizer 'adamw_8bits'. Did you mean 'adamw_8bit'?"),
        ({"set": ("adam_beta2=wide",)}, "--set adam_beta2: 'wide' is not"),
        ({"lora_r": 4, "method": "reinvoke"}, "--method reinvoke trains all weights. Leave --lora_r out."),
    ],
    ids=str,
)
def test_what_is_wrong_is_one_line(options: Any, settings: dict[str, Any], words: str) -> None:
    shown = {} if "method" in settings else {"template": "paper"}
    assert words in mistake(trainer_config, options(**shown, **settings), 20)


def test_a_tracker_calls_the_run_after_its_folder(options: Any) -> None:
    given = {"template": "paper", "report_to": "tensorboard, mlflow", "output_dir": "../compare/sft/lr-0.01/seed-0"}
    config = trainer_config(options(**given), 20)
    assert config.report_to == ["tensorboard", "mlflow"]
    assert (config.run_name, config.project) == ("compare-sft-lr-0.01-seed-0", "selfdistill")
    assert trainer_config(options(**given, set=("run_name=other",)), 20).run_name == "other"
    assert trainer_config(options(template="paper"), 20).report_to == []
    said = mistake(trainer_config, options(template="paper", report_to="tensorbord"), 20)
    assert "report_to='tensorbord' is not one of" in said


def test_checkpoints(options: Any) -> None:
    assert trainer_config(options(template="paper"), 20).save_strategy == "no"
    config = trainer_config(options(template="paper", save_steps=7), 20)
    assert (config.save_strategy, config.save_steps) == ("steps", 7)
    epochs = trainer_config(options(template="paper", save_steps=7, set=("save_strategy=epoch",)), 20)
    assert epochs.save_strategy == "epoch"
