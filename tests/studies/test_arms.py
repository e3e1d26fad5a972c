"""Arms and learning rates as they are written on the command line."""

from pathlib import Path
from typing import Any

import pytest

from selfdistill import cli
from selfdistill.settings import flat
from selfdistill.settings.study import CompareOptions, ContinualOptions
from selfdistill.studies.arms import Arm, parse_arms, parse_rates
from selfdistill.training.settings import trainer_config
from tests.support.mistakes import mistake


def arms_of(options: CompareOptions) -> list[Arm]:
    return parse_arms(options.arms, options.recipe, default="sdft,sft")


def arms(**options: Any) -> list[Arm]:
    return arms_of(flat.build(CompareOptions, {"output_dir": "out", **options}))


def setting(arm: Arm, name: str) -> Any:
    return flat.flatten(arm.options)[name]


def test_methods_are_arms_of_their_name() -> None:
    assert [(arm.name, arm.options.method) for arm in arms(methods="sft, dft")] == [("sft", "sft"), ("dft", "dft")]


def test_without_arms_the_default_methods_run_and_with_one_only_it() -> None:
    assert [arm.name for arm in arms()] == ["sdft", "sft"]
    assert [arm.name for arm in arms(arm=("a: method=sft",))] == ["a"]
    assert [arm.name for arm in arms(methods="dft", arm=("a: method=sft",))] == ["dft", "a"]


def test_an_arm_has_the_shared_settings_and_its_own() -> None:
    text = "held: method=sdft, anchor_share=0.25, chat_template_kwargs={a: 1, b: true}, divergence_clip=null"
    (arm,) = arms(arm=(text,), max_steps=7, divergence_clip=2.0)
    assert setting(arm, "max_steps") == 7
    assert setting(arm, "anchor_share") == arm.settings["anchor_share"] == arm.anchor_share == 0.25
    assert setting(arm, "chat_template_kwargs") == {"a": 1, "b": True}
    assert setting(arm, "divergence_clip") is None


def test_fields_of_the_trainers_config_win_over_those_shared() -> None:
    (arm,) = arms(arm=("a: method=sft, adam_beta2=0.9, use_cpu=true",), set=("adam_beta2=0.95",))
    assert setting(arm, "set") == ("adam_beta2=0.95", "adam_beta2=0.9", "use_cpu=true")


def test_arms_that_differ_in_what_the_student_is_held_to() -> None:
    shared, own = arms(methods="sdft", arm=("nearer: target=budget, target_budget=0.05",), target="contrast")
    assert (setting(shared, "target"), setting(own, "target")) == ("contrast", "budget")
    assert trainer_config(own.options, 8).target_budget == 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": "sdft,sff"}, "'sff' is not"),
        ({"methods": " , "}, "names no method"),
        ({"arm": ("sdft",)}, "NAME: field=value"),
        ({"arm": ("a: method",)}, "write it as name=value"),
        ({"arm": ("a: anchor_shar=1",)}, "Did you mean 'anchor_share'?"),
        ({"arm": ("a: anchor_share=x",)}, "--arm a: anchor_share: 'x' is not"),
        ({"arm": ("a: anchor_share=2",)}, "--arm a: anchor_share: 2.0 is not between 0 and 0.9"),
        ({"arm": ("a: seed=2",)}, "seed is the same for all arms"),
        ({"arm": ("a: max_steps=2",)}, "max_steps is the same for all arms"),
        ({"arm": ("a/b: method=sft",)}, "can't name a folder"),
        ({"arm": ("eval: method=sft",)}, "can't name a folder"),
        ({"arm": ("a: method=sft", "a: method=sdft")}, "Two arms are called 'a'"),
        ({"methods": "reinvoke"}, "learns no task"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    assert message in mistake(arms, **options)


# -- settings that an arm has no use for -----------------------------------------------------------------------------


def test_a_setting_of_the_study_that_an_arm_has_no_use_for_is_left_out_of_that_arm() -> None:
    sdft, sft = arms(template="few_shot", template_repeat=2, teacher_update_rate=0.5, learning_rate=3e-5)
    assert (setting(sdft, "template_repeat"), setting(sdft, "teacher_update_rate")) == (2, 0.5)
    assert (setting(sft, "template_repeat"), setting(sft, "teacher_update_rate")) == (1, 0.02)
    assert setting(sdft, "learning_rate") == setting(sft, "learning_rate") == 3e-5


@pytest.mark.parametrize(
    "settings",
    [
        {"divergence": "jsd", "divergence_beta": 0.25},
        {"divergence_support": "top_k", "divergence_top_k": 50, "divergence_tail": True},
        {"target": "mix", "target_weight": 0.25, "target_reference": "student"},
        {"target": "budget", "target_budget": 0.5, "vocab_clip": 0.05},
        {"token_weight": "late", "token_weight_half_life": 8.0},
        {"completion_source": "mixture", "mixture_share": 0.25, "mixture_steps": 9, "num_rollouts": 2},
        {"demonstration_from": "own_success", "feedback_file": "own.py:words", "num_rollouts": 2},
    ],
)
def test_what_counts_only_beside_a_setting_that_is_left_out_is_left_out_too(settings: dict[str, Any]) -> None:
    sdft, sft = arms(**settings)
    assert {name: setting(sdft, name) for name in settings} == settings
    trainer_config(sft.options, 8)  # which refuses what would be ignored
    assert not any(setting(sft, name) == value for name, value in settings.items())


def test_a_template_of_ones_own_is_no_hindrance_to_arms_that_show_nothing() -> None:
    sdft, sft = arms(template="file", template_file="mine.jinja")
    assert trainer_config(sdft.options, 8).template == "file"
    assert trainer_config(sft.options, 8).template == "paper"


def test_a_setting_that_no_arm_has_a_use_for_is_refused() -> None:
    said = mistake(arms, methods="sft,dft", template_repeat=2)
    assert said == "template_repeat=2 would be ignored: no arm uses it. Leave it out."


def test_a_setting_of_the_file_that_no_arm_has_a_use_for_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("template: prior_turn\ntemplate_repeat: 2\nlearning_rate: 3e-5\n")
    words = ["--output_dir", "out", "--config", str(file), "--methods", "sft"]
    (arm,) = arms_of(cli.parse("compare", words))
    assert (setting(arm, "template_repeat"), setting(arm, "learning_rate")) == (1, 3e-5)
    assert "template_repeat=3 would be ignored" in mistake(
        lambda: arms_of(cli.parse("compare", [*words, "--template_repeat", "3"]))
    )


def test_an_arms_own_setting_that_it_has_no_use_for_stays_and_is_refused_later() -> None:
    (arm,) = arms(arm=("a: method=sft, template_repeat=2",))
    assert setting(arm, "template_repeat") == 2


def test_the_method_of_a_recipe_is_that_of_no_arm() -> None:
    options = cli.parse("compare", ["--output_dir", "out", "--config", "sft-cpu", "--methods", "sdft,dft"])
    options.check()
    assert options.method == "sft"  # the recipe's
    found = arms_of(options)
    assert [(arm.name, arm.options.method) for arm in found] == [("sdft", "sdft"), ("dft", "dft")]
    assert [setting(arm, "learning_rate") for arm in found] == [6e-5, 6e-5]


def test_the_task_of_a_recipe_is_that_of_no_stage() -> None:
    options = cli.parse("continual", ["--output_dir", "out", "--config", "sft-cpu", "--stages", "tooluse"])
    options.check()
    assert options.recipe.trainer.from_file == ()
    assert options.method == "sft"


@pytest.mark.parametrize("name", ["save_steps", "seed"])
def test_a_setting_of_train_in_the_file_that_a_comparison_has_no_use_for_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"{name}: 5\n")
    (arm,) = arms_of(cli.parse("compare", ["--output_dir", "out", "--config", str(file), "--methods", "sft"]))
    said = mistake(trainer_config, arm.options, 8)
    assert said == f"{file} line 1: {name} is a setting of train that this command has no use for. Leave it out."


# -- learning rates --------------------------------------------------------------------------------------------------


def test_rates_for_all_arms_and_arm_by_arm() -> None:
    both = arms(methods="sdft,sft", learning_rate=5e-6)
    assert parse_rates(None, both) == {"sdft": [5e-6], "sft": [5e-6]}
    assert parse_rates("1e-5, 3e-5,1e-5", both) == {"sdft": [1e-5, 3e-5], "sft": [1e-5, 3e-5]}
    assert parse_rates("sdft:1e-4,2e-4;sft:1e-5", both) == {"sdft": [1e-4, 2e-4], "sft": [1e-5]}
    assert parse_rates("sft: 1e-5", both) == {"sdft": [5e-6], "sft": [1e-5]}


def test_an_arms_own_rate_is_not_swept() -> None:
    found = arms(methods="sft", arm=("slow: method=sft, learning_rate=1e-6",))
    assert parse_rates("1e-5,3e-5", found) == {"sft": [1e-5, 3e-5], "slow": [1e-6]}
    assert "sets its own learning_rate" in mistake(parse_rates, "slow:1e-5", found)


@pytest.mark.parametrize("text", ["x", "0", "-1e-5", "2", ",", "sft:", "sgd:1e-5", "nan"])
def test_bad_rates(text: str) -> None:
    assert "--learning_rates" in mistake(parse_rates, text, arms(methods="sft"))


# -- a study's own options -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_dir": None}, "--output_dir is missing"),
        ({"seeds": "0,x"}, "--seeds '0,x'"),
        ({"checkpoints": 0}, "checkpoints: 0 is not at least 1"),
        ({"budget": "tokens"}, "give their number with --budget_amount"),
        ({"budget_amount": 2.5}, "whole number of steps"),
        ({"budget_amount": 0}, "--budget_amount 0 is not a number above 0"),
        ({"budget": "seconds", "budget_amount": 9, "lr_scheduler_type": "cosine"}, "Use constant_with_warmup"),
        ({"budget": "seconds", "budget_amount": 9, "warmup_steps": 0.1}, "Use constant_with_warmup"),
        ({"eval_path": "x.jsonl"}, "--eval_path goes with --dataset_path"),
        ({"drift_prompts": 65}, "drift_prompts: 65 is not between 0 and 64"),
        ({"learning_rate": 2.0}, "learning_rate"),
    ],
)
def test_options_of_compare(options: dict[str, Any], message: str) -> None:
    assert message in mistake(flat.build(CompareOptions, {"output_dir": "out", **options}).check)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": ""}, "--stages is missing"),
        ({"replay": 1.0}, "replay: 1.0 is not at least 0 and below 1"),
        ({"teacher_anchor": "base", "lora_r": 4}, "Leave --lora_r out"),
    ],
)
def test_options_of_continual(options: dict[str, Any], message: str) -> None:
    given = {"output_dir": "out", "stages": "tooluse", **options}
    assert message in mistake(flat.build(ContinualOptions, given).check)
