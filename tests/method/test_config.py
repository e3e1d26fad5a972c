"""Settings: what is refused, with which words, and how far the defaults are from the paper's."""

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer, TrainingArguments

from selfdistill.method import refused as refused_fields
from selfdistill.method.config import SDFTConfig
from selfdistill.settings.method import (
    PAPER,
    MethodConfig,
    deviations_from_paper,
    method_settings,
    with_template,
)
from tests.support.mistakes import mistake


def refused(**settings: Any) -> str:
    return mistake(MethodConfig(**settings).validate)


@pytest.fixture
def config(tmp_path: Path):
    """Makes a trainer's config."""

    def make(**settings: Any) -> SDFTConfig:
        return SDFTConfig(output_dir=str(tmp_path), **settings)

    return make


# -- ranges and choices ----------------------------------------------------------------------------


def test_defaults_are_valid():
    assert MethodConfig().validate() is None


@pytest.mark.parametrize(
    ("name", "good", "bad", "wording"),
    [
        ("divergence_beta", [0.01, 0.5, 0.99], [0, 0.0, 1, 1.0, -0.1, math.nan], "strictly between 0 and 1"),
        ("divergence_top_k", [1, 100, 10**6], [0, -1], "at least 1"),
        ("divergence_clip", [None, 0.01, 100.0], [0, -1.0], "above 0"),
        ("vocab_clip", [None, 0.01], [0, -1.0], "above 0"),
        ("target_weight", [0.01, 0.5, 1], [0, 1.01, -0.5, math.nan, None], "above 0 and at most 1"),
        ("target_budget", [1e-4, 3.0], [0, -1.0, math.nan, None], "at least 0.0001"),
        ("token_weight_half_life", [0.5, 64], [0, -1.0, None], "above 0"),
        ("mixture_share", [0.01, 1], [0, 1.01, math.nan, None], "above 0 and at most 1"),
        ("mixture_steps", [None, 1], [0, -1], "at least 1"),
        ("interleaved_top_k", [1, 10**6], [0, None], "at least 1"),
        ("num_rollouts", [1, 16], [0, None], "at least 1"),
        ("teacher_update_rate", [0, 0.01, 1], [-0.01, 1.01, math.nan], "between 0 and 1"),
        ("teacher_sync_steps", [1, 64], [0], "at least 1"),
        ("teacher_restart_steps", [None, 1], [0], "at least 1"),
        ("template_repeat", [1, 16], [0, 17], "between 1 and 16"),
        ("max_prompt_length", [None, 1, 4096], [0, -1], "at least 1"),
        ("max_teacher_prompt_length", [None, 1], [0], "at least 1"),
        ("max_completion_length", [1, 4096], [0, None], "at least 1"),
        ("temperature", [0.001, 1, 2.0], [0, -1.0, "1", 1e-4, 1001], "between 0.001 and 1000"),
        ("top_p", [0.1, 1], [0, 1.1], "above 0 and at most 1"),
        ("num_loss_tokens_to_skip", [0, 3], [-1, True, None], "at least 0"),
        ("sampler_correction_cap", [None, 2.0], [0], "above 0"),
        ("anchor_share", [0, 0.25, 0.9], [-0.1, 0.91, 1], "between 0 and 0.9"),
        ("rollouts_logged_per_step", [None, 0, 4], [-1], "at least 0"),
        ("learning_rate", [0, 2e-5, 1], [-1e-5, 2, "2e-5", math.nan], "between 0 and 1, for example 2e-5"),
        ("num_train_epochs", [0.5, 2], [-1, math.nan], "at least 0"),
        ("max_steps", [-1, 1], [-2], "-1 (as many as num_train_epochs takes) or above 0"),
        ("per_device_train_batch_size", [1, 32], [0], "at least 1"),
        ("gradient_accumulation_steps", [1, 32], [0], "at least 1"),
        ("warmup_steps", [0, 0.1, 10], [-1], "at least 0"),
        ("weight_decay", [0, 0.1], [-0.1], "at least 0"),
        ("max_grad_norm", [0, 1.0], [-1.0], "at least 0"),
        ("seed", [0, 2**32 - 1], [-1, 2**32], "between 0 and 4294967295"),
    ],
)
def test_ranges(name: str, good: list[Any], bad: list[Any], wording: str):
    for value in good:
        MethodConfig(**{name: value}).validate()
    for value in bad:
        assert refused(**{name: value}) == f"{name}: {value!r} is not {wording}."


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("divergence_support", "full, top_k, sampled"),
        ("divergence_top_k_of", "teacher, student"),
        ("target_reference", "start, student"),
        ("teacher", "ema, frozen, live"),
        ("loss_reduction", "rollout_mean, token_mean"),
        ("overlong", "error, drop"),
    ],
)
def test_choices(name: str, choices: str):
    """Those that are no table; ``test_needs.py`` has the others."""
    assert refused(**{name: "other"}) == f"{name}: 'other' is not one of {choices}."
    for choice in choices.split(", "):
        taken: dict[str, Any] = {name: choice}
        MethodConfig(**taken).validate()


def test_template_and_its_file_come_together():
    assert refused(template="file").startswith("template_file: give it together with template=file")
    assert refused(template_file="x.jinja").startswith("template_file: give it together with template=file")


def test_a_run_that_would_train_nothing():
    assert refused(max_steps=0).startswith("max_steps: 0 steps train nothing.")
    assert refused(num_train_epochs=0).startswith("num_train_epochs: 0 epochs train nothing.")
    MethodConfig(num_train_epochs=0, max_steps=1).validate()


# -- the paper -------------------------------------------------------------------------------------


def test_deviations_of_our_defaults_from_the_paper():
    assert deviations_from_paper(dataclasses.asdict(MethodConfig())) == {
        "teacher_update_rate": (0.02, 0.01),
        "max_prompt_length": (None, 1024),
        "num_loss_tokens_to_skip": (0, 3),
    }


def test_deviations_of_the_papers_setting_are_none():
    assert PAPER.keys() <= method_settings(MethodConfig()).keys()
    assert deviations_from_paper(dataclasses.asdict(MethodConfig(**PAPER))) == {}
    assert deviations_from_paper({**PAPER, "divergence": "jsd", "unknown": 1}) == {"divergence": ("jsd", "forward_kl")}
    assert deviations_from_paper({}) == {}


def test_a_trainers_settings_compare_with_the_paper(config):
    taken = config(**PAPER)
    assert PAPER.keys() <= taken.to_dict().keys()
    assert deviations_from_paper(taken.to_dict()) == {}
    assert deviations_from_paper(method_settings(taken)) == {}  # the schedule's name, not the enumeration's member


def test_another_template_leaves_the_other_settings():
    before = MethodConfig(template="file", template_file="mine.jinja", learning_rate=1e-3)
    after = with_template(before, "prior_turn", 2)
    assert (after.template, after.template_repeat, after.template_file) == ("prior_turn", 2, None)
    assert after.learning_rate == 1e-3
    assert before.template == "file"


# -- the trainer's settings ------------------------------------------------------------------------


def test_trainer_settings_keep_ours_and_transformers_defaults(config):
    args = config()
    assert (args.method, args.learning_rate, args.per_device_train_batch_size) == ("sdft", 2e-5, 4)
    assert (args.gradient_accumulation_steps, args.warmup_steps, args.weight_decay) == (8, 10, 0.0)
    assert (args.report_to, args.remove_unused_columns, args.bf16, args.seed) == ([], False, False, 42)
    assert (args.logging_nan_inf_filter, args.save_strategy, args.adam_beta2) == (False, "no", 0.999)


def test_a_tracker_must_be_known_and_installed(config, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(refused_fields, "get_available_reporting_integrations", lambda: ["wandb"])
    assert mistake(config, report_to="tensorbord").endswith("wandb. Did you mean 'tensorboard'?")
    assert mistake(config, report_to=["wandb", "comet_ml"]) == (
        "report_to=comet_ml: its package is not installed. pip install comet-ml, or leave it out; the run's folder "
        "holds all numbers anyway."
    )
    assert config(report_to=["wandb", "flyte"]).report_to == ["wandb", "flyte"]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"learning_rate": -1e-5}, "learning_rate"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps"),
        ({"temperature": 0.0}, "temperature"),
        ({"divergence": "kl"}, "divergence"),
        ({"seed": -1}, "seed"),
        ({"template": "auto"}, "template"),
    ],
)
def test_trainer_settings_are_validated(config, settings: dict[str, Any], name: str):
    assert mistake(config, **settings).startswith(f"{name}: ")


# -- one device, no autocast -----------------------------------------------------------------------


@pytest.mark.parametrize(("name", "says"), [("bf16", "Load the model in the dtype"), ("fp16", "no loss scale")])
def test_autocast_is_refused(config, name: str, says: str):
    message = mistake(config, **{name: True})
    assert message.startswith(f"{name}=True has no effect here. Autocast is not used here")
    assert says in message


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp8"])
def test_autocast_by_a_launchers_environment_is_refused(config, monkeypatch, precision: str):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
    message = mistake(config)
    assert message.startswith(f"ACCELERATE_MIXED_PRECISION={precision}: ")
    assert "--dtype bfloat16 or float32" in message
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    config()


def test_a_config_leaves_no_precision_behind_for_the_next(config, monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    config()
    assert os.environ.get("ACCELERATE_MIXED_PRECISION", "no") == "no"
    config()


def test_of_several_gpus_one_is_used_and_that_is_said(config, monkeypatch):
    resolve = TrainingArguments.__post_init__

    def with_two_gpus(self: Any) -> None:
        resolve(self)
        self._n_gpu = 2

    monkeypatch.setattr(TrainingArguments, "__post_init__", with_two_gpus)
    with pytest.warns(UserWarning, match="2 GPUs are visible; one of them is used."):
        args = config(per_device_train_batch_size=3)
    assert (args.n_gpu, args.train_batch_size) == (1, 3)


# -- optimizers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adamw_torch", "adafactor", "sgd", "adagrad", "rmsprop"])
def test_optimizers_of_any_parameters_are_taken(config, name: str):
    assert config(optim=name).optim == name


def test_an_optimizer_that_is_not_installed_is_refused_before_anything_is_loaded(config):
    for name in ("galore_adamw", "lomo", "apollo_adamw"):
        message = mistake(config, optim=name)
        assert message.startswith(f"optim={name}: ")
        assert "take adamw_torch" in message


@pytest.mark.parametrize("given", ["params", "model", "optimizer_dict"])
def test_an_optimizer_that_chooses_its_parameters_is_refused(config, monkeypatch, given: str):
    monkeypatch.setattr(Trainer, "get_optimizer_cls_and_kwargs", lambda *_: (object, {"lr": 1e-3, given: []}))
    assert mistake(config, optim="adamw_torch").startswith("optim=adamw_torch chooses parameters by itself;")


def test_method_settings_import_no_torch():
    code = "import sys, selfdistill.settings.method; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
