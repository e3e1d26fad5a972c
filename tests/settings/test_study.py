"""What ``compare`` and ``continual`` refuse before anything is loaded."""

import math
from typing import Any

import pytest

from selfdistill.settings import flat
from selfdistill.settings.study import CompareOptions, ContinualOptions, decoding_of
from tests.support.mistakes import mistake, refusal


def compare(**given: Any) -> CompareOptions:
    return flat.build(CompareOptions, {"output_dir": "out"} | given)


def continual(**given: Any) -> ContinualOptions:
    return flat.build(ContinualOptions, {"output_dir": "out", "stages": "science"} | given)


def test_seeds_are_whole_numbers_each_once():
    assert compare().seed_list() == [0, 1, 2]
    assert compare(seeds="3, 1,3,").seed_list() == [3, 1]
    for seeds in ("", ",", "one", "1.5", "-1", "4294967296"):
        assert mistake(compare(seeds=seeds).check).startswith(f"--seeds {seeds!r}: write whole numbers")


def test_stages_are_as_they_were_named():
    assert continual(stages="science, a.jsonl:b.jsonl ,").stage_list() == ["science", "a.jsonl:b.jsonl"]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"budget_amount": 10},
        {"budget": "tokens", "budget_amount": 1e6},
        {"budget": "seconds", "budget_amount": 0.5, "lr_scheduler_type": "constant"},
        {"dataset_path": "rows.jsonl", "eval_path": "eval.jsonl"},
    ],
)
def test_comparisons_that_are_taken(given: dict[str, Any]):
    assert refusal(compare(**given).check) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"output_dir": None}, "--output_dir is missing: name a folder for the study."),
        ({"eval_path": "e.jsonl"}, "--eval_path goes with --dataset_path"),
        ({"budget_amount": 0.0}, "--budget_amount 0 is not a number above 0."),
        ({"budget_amount": -1.0}, "--budget_amount -1 is not a number above 0."),
        ({"budget_amount": math.nan}, "--budget_amount nan is not a number above 0."),
        ({"budget_amount": math.inf}, "--budget_amount inf is not a number above 0."),
        ({"budget_amount": 1.5}, "--budget_amount 1.5 is not a whole number of steps."),
        ({"budget": "tokens"}, "--budget tokens: give their number with --budget_amount."),
        (
            {"budget": "tokens", "budget_amount": 5.0, "lr_scheduler_type": "cosine"},
            "--budget tokens leaves the number of steps open, but --lr_scheduler_type cosine",
        ),
        (
            {"budget": "tokens", "budget_amount": 5.0, "warmup_steps": 0.1},
            "--budget tokens leaves the number of steps open",
        ),
        ({"budget": "epochs"}, "budget: 'epochs' is not one of steps, tokens, seconds."),
        ({"checkpoints": 0}, "checkpoints: 0 is not at least 1."),
        ({"validation_rows": 0}, "validation_rows: 0 is not at least 1."),
        ({"prior_limit": 0}, "prior_limit: 0 is not at least 1."),
        ({"drift_prompts": 65}, "drift_prompts: 65 is not between 0 and 64"),
        ({"validation_rows": 8}, "--validation_rows 8 counts only with --learning_rates."),
        ({"prior": "none", "prior_limit": 5}, "--prior_limit 5 changes nothing with --prior none."),
        ({"prior": "all"}, "prior: 'all' is not one of auto, none, prior-quick, prior."),
        ({"dtype": "float16"}, "--dtype float16"),
        ({"learning_rate": 2.0}, "learning_rate: 2.0 is not between 0 and 1"),
    ],
)
def test_comparisons_that_are_refused(given: dict[str, Any], message: str):
    assert mistake(compare(**given).check).startswith(message)


@pytest.mark.parametrize("given", [{}, {"replay": 0.5, "keep_models": "all"}, {"teacher_anchor": "base"}])
def test_sequences_that_are_taken(given: dict[str, Any]):
    assert refusal(continual(**given).check) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"output_dir": None}, "--output_dir is missing"),
        ({"stages": " ,"}, "--stages is missing: name tasks in order, such as tooluse,science."),
        ({"replay": 1.0}, "replay: 1.0 is not at least 0 and below 1."),
        ({"replay": -0.1}, "replay: -0.1 is not at least 0 and below 1."),
        ({"teacher_anchor": "start"}, "teacher_anchor: 'start' is not one of previous, base."),
        ({"teacher_anchor": "base", "lora_r": 4}, "--teacher_anchor base swaps all weights. Leave --lora_r out."),
        ({"seed": -1}, "seed: -1 is not between 0 and 4294967295."),
        ({"method": "sft", "methods": "sdft,sft"}, "--method sft changes nothing beside --methods or --arm."),
        ({"method": "sft", "arm": ("a: method=sdft",)}, "--method sft changes nothing beside --methods or --arm."),
        ({"prior": "none", "prior_limit": 5}, "--prior_limit 5 changes nothing with --prior none."),
        ({"seed": 2**32}, "seed: 4294967296 is not between 0 and 4294967295."),
        ({"eval_limit": 0}, "eval_limit: 0 is not at least 1."),
        ({"lora_alpha": 4}, "--lora_alpha 4 scales an adapter."),
    ],
)
def test_sequences_that_are_refused(given: dict[str, Any], message: str):
    assert mistake(continual(**given).check).startswith(message)


def test_a_study_decodes_greedily_as_its_runs_do():
    kwargs = {"enable_thinking": False}
    options = compare(eval_batch_size=5, max_new_tokens=9, rollout_engine="generate", chat_template_kwargs=kwargs)
    decoding = decoding_of(options.measures, options.recipe)
    assert (decoding.batch_size, decoding.max_new_tokens, decoding.temperature) == (5, 9, 0.0)
    assert (decoding.rollout_engine, decoding.chat_template_kwargs) == ("generate", kwargs)
    own = compare(student_chat_template_kwargs={"mood": "!"}, teacher_chat_template_kwargs={"mood": "?"})
    assert decoding_of(own.measures, own.recipe).chat_template_kwargs == {"mood": "!"}
