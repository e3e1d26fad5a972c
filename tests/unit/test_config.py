"""Settings: what is refused, with which words, and how far the defaults are from the paper's."""

import dataclasses
import math
import subprocess
import sys

import pytest

from selfdistill.method.config import SDFTConfig
from selfdistill.settings.method import (
    PAPER,
    MethodConfig,
    check_output_dir,
    deviations_from_paper,
    method_field_names,
)
from selfdistill.types import UserError


def mistake(call, *arguments, **options) -> str:
    """The message of the UserError that the call raises; it must not exceed 40 words."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    assert len(str(caught.value).split()) <= 40
    return str(caught.value)


def refused(**settings) -> str:
    return mistake(MethodConfig(**settings).validate)


# -- ranges and choices ----------------------------------------------------------------------------


def test_defaults_are_valid():
    assert MethodConfig().validate() is None


@pytest.mark.parametrize(
    ("name", "good", "bad", "wording"),
    [
        ("divergence_beta", [0.01, 0.5, 0.99], [0, 0.0, 1, 1.0, -0.1, math.nan], "strictly between 0 and 1"),
        ("divergence_top_k", [1, 100, 10**6], [0, -1], "at least 1"),
        ("divergence_clip", [None, 0.01, 100.0], [0, -1.0], "above 0"),
        ("teacher_update_rate", [0, 0.01, 1], [-0.01, 1.01, math.nan], "between 0 and 1"),
        ("teacher_sync_steps", [1, 64], [0], "at least 1"),
        ("template_repeat", [1, 16], [0, 17], "between 1 and 16"),
        ("max_prompt_length", [None, 1, 4096], [0, -1], "at least 1"),
        ("max_teacher_prompt_length", [None, 1], [0], "at least 1"),
        ("max_completion_length", [1, 4096], [0], "at least 1"),
        ("temperature", [0.01, 1, 2.0], [0, -1.0, "1"], "above 0"),
        ("top_p", [0.1, 1], [0, 1.1], "above 0 and at most 1"),
        ("num_loss_tokens_to_skip", [0, 3], [-1, True, None], "at least 0"),
        ("sampler_correction_cap", [None, 2.0], [0], "above 0"),
        ("anchor_share", [0, 0.25, 0.9], [-0.1, 0.91, 1], "between 0 and 0.9"),
        ("rollouts_logged_per_step", [None, 0, 4], [-1], "at least 0"),
        ("learning_rate", [0, 2e-5, 1], [-1e-5, 2, "2e-5", math.nan], "between 0 and 1, for example 2e-5"),
        ("per_device_train_batch_size", [1, 32], [0], "at least 1"),
        ("gradient_accumulation_steps", [1, 32], [0], "at least 1"),
        ("warmup_steps", [0, 0.1, 10], [-1], "at least 0"),
        ("weight_decay", [0, 0.1], [-0.1], "at least 0"),
        ("max_grad_norm", [0, 1.0], [-1.0], "at least 0"),
    ],
)
def test_ranges(name, good, bad, wording):
    for value in good:
        MethodConfig(**{name: value}).validate()
    for value in bad:
        assert refused(**{name: value}) == f"{name}: {value!r} is not {wording}."


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("method", "sdft, sft, dft, cpt, offline, reinvoke"),
        ("divergence", "forward_kl, reverse_kl, jsd"),
        ("divergence_support", "full, top_k, sampled"),
        ("divergence_top_k_of", "teacher, student"),
        ("teacher", "ema, frozen, live"),
        ("template", "paper, prior_turn, system, few_shot, file, auto"),
        ("loss_reduction", "rollout_mean, token_mean"),
        ("overlong", "error, drop"),
    ],
)
def test_choices(name, choices):
    assert refused(**{name: "other"}) == f"{name}: 'other' is not one of {choices}."
    needed = {"sampled": {"divergence": "reverse_kl"}, "file": {"template_file": "x"}}
    for choice in choices.split(", "):
        MethodConfig(**{name: choice, **needed.get(choice, {})}).validate()


def test_sampled_support_estimates_the_reverse_kl_only():
    for divergence in ("forward_kl", "jsd"):
        assert "estimates the reverse KL only" in refused(divergence=divergence, divergence_support="sampled")


def test_template_and_its_file_come_together():
    assert refused(template="file").startswith("template_file: give it together with template=file")
    assert refused(template_file="x.jinja").startswith("template_file: give it together with template=file")


def test_field_names_are_those_of_the_dataclass():
    assert method_field_names()[:2] == ["method", "divergence"]
    assert set(PAPER) <= set(method_field_names())


# -- the paper -------------------------------------------------------------------------------------


def test_deviations_of_our_defaults_from_the_paper():
    assert deviations_from_paper(dataclasses.asdict(MethodConfig())) == {
        "teacher_update_rate": (0.02, 0.01),
        "max_prompt_length": (None, 1024),
        "num_loss_tokens_to_skip": (0, 3),
    }


def test_deviations_of_the_papers_setting_are_none():
    assert deviations_from_paper(dataclasses.asdict(MethodConfig(**PAPER))) == {}
    assert deviations_from_paper({**PAPER, "divergence": "jsd", "unknown": 1}) == {"divergence": ("jsd", "forward_kl")}
    assert deviations_from_paper({}) == {}


def test_a_trainers_settings_compare_with_the_paper(tmp_path):
    settings = SDFTConfig(output_dir=str(tmp_path), **PAPER).to_dict()
    assert PAPER.keys() <= settings.keys()
    assert deviations_from_paper(settings) == {}


# -- the output folder -----------------------------------------------------------------------------


def test_new_or_empty_output_folder(tmp_path):
    check_output_dir(str(tmp_path / "new"), resume=False, overwrite=False)
    check_output_dir(str(tmp_path), resume=False, overwrite=False)
    check_output_dir(str(tmp_path), resume=False, overwrite=True)
    assert list(tmp_path.iterdir()) == []  # nothing is made


def test_folder_with_content_needs_a_word(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    message = mistake(check_output_dir, str(tmp_path), resume=False, overwrite=False)
    assert str(tmp_path) in message
    assert "--resume" in message
    assert "--overwrite" in message
    check_output_dir(str(tmp_path), resume=False, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_resume_needs_a_checkpoint(tmp_path):
    assert "holds no checkpoint" in mistake(check_output_dir, str(tmp_path / "new"), resume=True, overwrite=False)
    (tmp_path / "notes.txt").write_text("mine")
    assert "holds no checkpoint" in mistake(check_output_dir, str(tmp_path), resume=True, overwrite=False)
    (tmp_path / "checkpoint-3").mkdir()
    check_output_dir(str(tmp_path), resume=True, overwrite=False)


def test_output_file_and_contradicting_flags(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    assert "is a file" in mistake(check_output_dir, str(path), resume=False, overwrite=True)
    assert "exclude each other" in mistake(check_output_dir, str(tmp_path), resume=True, overwrite=True)


# -- the trainer's settings ------------------------------------------------------------------------


def test_trainer_settings_keep_ours_and_transformers_defaults(tmp_path):
    args = SDFTConfig(output_dir=str(tmp_path))
    assert (args.method, args.learning_rate, args.per_device_train_batch_size) == ("sdft", 2e-5, 4)
    assert (args.gradient_accumulation_steps, args.warmup_steps, args.weight_decay) == (8, 10, 0.0)
    assert (args.report_to, args.remove_unused_columns, args.bf16, args.seed) == ([], False, False, 42)
    assert args.adam_beta2 == 0.999


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_autocast_is_refused(tmp_path, name):
    assert mistake(SDFTConfig, output_dir=str(tmp_path), **{name: True}).startswith("bf16/fp16: autocast is not used")


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"learning_rate": -1e-5}, "learning_rate"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps"),
        ({"temperature": 0.0}, "temperature"),
        ({"divergence": "kl"}, "divergence"),
    ],
)
def test_trainer_settings_are_validated(tmp_path, settings, name):
    assert mistake(SDFTConfig, output_dir=str(tmp_path), **settings).startswith(f"{name}: ")


def test_method_settings_import_no_torch():
    code = "import sys, selfdistill.settings.method; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
