"""Arms and learning rates as they are written on the command line."""

import pytest

from selfdistill.settings.study import CompareOptions, ContinualOptions
from selfdistill.studies.arms import parse_arms, parse_rates
from selfdistill.types import UserError


def arms(**options):
    return parse_arms(CompareOptions(output_dir="out", **options), default="sdft,sft")


def refused(call, *arguments, **options) -> str:
    with pytest.raises(UserError) as error:
        call(*arguments, **options)
    assert len(str(error.value).split()) <= 40
    return str(error.value)


def test_methods_are_arms_of_their_name():
    assert [(arm.name, arm.options.method) for arm in arms(methods="sft, dft")] == [("sft", "sft"), ("dft", "dft")]


def test_without_arms_the_default_methods_run_and_with_one_only_it():
    assert [arm.name for arm in arms()] == ["sdft", "sft"]
    assert [arm.name for arm in arms(arm=("a: method=sft",))] == ["a"]
    assert [arm.name for arm in arms(methods="dft", arm=("a: method=sft",))] == ["dft", "a"]


def test_an_arm_has_the_shared_settings_and_its_own():
    text = "held: method=sdft, anchor_share=0.25, chat_template_kwargs={a: 1, b: true}, divergence_clip=null"
    (arm,) = arms(arm=(text,), max_steps=7, divergence_clip=2.0)
    assert arm.options.max_steps == 7
    assert arm.options.anchor_share == 0.25
    assert arm.options.chat_template_kwargs == {"a": 1, "b": True}
    assert arm.options.divergence_clip is None
    assert arm.settings["anchor_share"] == 0.25


def test_fields_of_the_trainers_config_win_over_those_shared():
    (arm,) = arms(arm=("a: method=sft, optim=sgd, use_cpu=true",), set=("optim=adamw_torch",))
    assert arm.options.set == ("optim=adamw_torch", 'optim="sgd"', "use_cpu=true")


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
def test_mistakes(options, message):
    assert message in refused(arms, **options)


def test_rates_for_all_arms_and_arm_by_arm():
    both = arms(methods="sdft,sft", learning_rate=5e-6)
    assert parse_rates(None, both) == {"sdft": [5e-6], "sft": [5e-6]}
    assert parse_rates("1e-5, 3e-5,1e-5", both) == {"sdft": [1e-5, 3e-5], "sft": [1e-5, 3e-5]}
    assert parse_rates("sdft:1e-4,2e-4;sft:1e-5", both) == {"sdft": [1e-4, 2e-4], "sft": [1e-5]}
    assert parse_rates("sft: 1e-5", both) == {"sdft": [5e-6], "sft": [1e-5]}


def test_an_arms_own_rate_is_not_swept():
    found = arms(methods="sft", arm=("slow: method=sft, learning_rate=1e-6",))
    assert parse_rates("1e-5,3e-5", found) == {"sft": [1e-5, 3e-5], "slow": [1e-6]}
    assert "a learning_rate of its own" in refused(parse_rates, "slow:1e-5", found)


@pytest.mark.parametrize("text", ["x", "0", "-1e-5", "2", ",", "sft:", "sgd:1e-5", "nan"])
def test_bad_rates(text):
    assert "--learning_rates" in refused(parse_rates, text, arms(methods="sft"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_dir": None}, "--output_dir is missing"),
        ({"seeds": "0,x"}, "--seeds '0,x'"),
        ({"checkpoints": 0}, "--checkpoints 0"),
        ({"budget": "tokens"}, "say how many with --budget_amount"),
        ({"budget_amount": 2.5}, "no whole number of steps"),
        ({"budget_amount": 0}, "not above 0"),
        ({"budget": "seconds", "budget_amount": 9, "lr_scheduler_type": "cosine"}, "Use constant_with_warmup"),
        ({"budget": "seconds", "budget_amount": 9, "warmup_steps": 0.1}, "Use constant_with_warmup"),
        ({"eval_path": "x.jsonl"}, "--eval_path goes with --dataset_path"),
        ({"drift_prompts": 65}, "--drift_prompts 65"),
        ({"config": "x.yaml", "save_steps": 5}, "x.yaml: this study has no use for save_steps"),
        ({"config": "x.yaml", "seed": 5}, "no use for seed"),
        ({"learning_rate": 2.0}, "learning_rate"),
    ],
)
def test_options_of_compare(options, message):
    assert message in refused(CompareOptions(**{"output_dir": "out", **options}).check)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": ""}, "--stages is missing"),
        ({"replay": 1.0}, "--replay 1.0"),
        ({"teacher_anchor": "base", "lora_r": 4}, "Leave --lora_r out"),
        ({"config": "x.yaml", "dataset_path": "rows.jsonl"}, "no use for dataset_path"),
    ],
)
def test_options_of_continual(options, message):
    assert message in refused(ContinualOptions(**{"output_dir": "out", "stages": "tooluse", **options}).check)
