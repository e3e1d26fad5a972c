"""What the ledger's commands refuse before anything is loaded, and what a skill is called."""

import math
from typing import Any

import pytest

from selfdistill.settings import flat
from selfdistill.settings.ledger import LearnOptions, RollbackOptions
from tests.support.mistakes import mistake, refusal


def learn(**given: Any) -> LearnOptions:
    return flat.build(LearnOptions, {"ledger": "memory"} | given)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "assistant-tools"),
        ({"dataset_name": "science"}, "science"),
        ({"dataset_path": "data/My rows (2).jsonl"}, "My-rows-2"),
        ({"dataset_path": "owner/name:train"}, "name"),
        ({"dataset_path": "data/日本.jsonl"}, "skill"),
        ({"dataset_path": f"{'x' * 80}.jsonl"}, "x" * 64),
        ({"dataset_path": "rows.jsonl", "skill": "mine.v1"}, "mine.v1"),
    ],
)
def test_a_skill_is_called_as_its_data_unless_told(given: dict[str, Any], name: str):
    options = learn(**given)
    assert options.skill_name == name
    options.check()


def test_the_model_is_the_ledgers_own_unless_one_is_named():
    assert learn().base_model is None
    assert learn(model_name="smollm2-135m").base_model == "smollm2-135m"


@pytest.mark.parametrize(
    "given",
    [
        {"dataset_path": "r.jsonl", "eval_path": "e.jsonl"},
        {"dataset_path": "r.jsonl", "eval_share": 0.5},
        {"max_forgetting": 0.0, "confidence": 0.99},
        {"scorer": "numeric:0.01"},
    ],
)
def test_what_is_taken(given: dict[str, Any]):
    assert refusal(learn(**given).check) is None


OWN = {"dataset_path": "r.jsonl"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ledger": None}, "--ledger is missing: name the ledger's folder."),
        ({"method": "reinvoke"}, "--method reinvoke teaches no skill."),
        ({"method": "zork"}, "method: 'zork' is not one of sdft, sft,"),
        ({"seed": -1}, "seed: -1 is not between 0 and 4294967295."),
        ({"max_forgetting": -0.1}, "--max_forgetting -0.1 is not at least 0 and below 1; 0.02 is 2 points."),
        ({"max_forgetting": 2.0}, "--max_forgetting 2.0 is not"),
        ({"max_forgetting": math.nan}, "--max_forgetting nan is not"),
        ({"confidence": 0.5}, "--confidence 0.5 is not above 0.5 and below 1."),
        ({"confidence": 95.0}, "--confidence 95.0 is not above 0.5 and below 1."),
        (OWN | {"eval_share": 0.0}, "eval_share: 0.0 is not above 0 and below 1."),
        (OWN | {"eval_share": math.nan}, "eval_share: nan is not above 0 and below 1."),
        (OWN | {"eval_share": 0.1, "eval_path": "e.jsonl"}, "--eval_share and --eval_path exclude each other"),
        ({"eval_share": 0.1}, "--eval_share goes with --dataset_path; a named task has rows of its own."),
        ({"eval_path": "e.jsonl"}, "--eval_path goes with --dataset_path"),
        ({"scorer": "judge"}, "--scorer judge: a ledger scores without a judge."),
        ({"skill": "drift"}, "--skill 'drift': use at most 64 letters"),
        ({"skill": "../x"}, "--skill '../x': use at most 64 letters"),
        ({"skill": ""}, "--skill '': use at most 64 letters"),
        ({"eval_limit": 0}, "eval_limit: 0 is not at least 1."),
        ({"dtype": "float16"}, "--dtype float16"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str):
    assert mistake(learn(**given).check).startswith(message)


def test_a_rollback_needs_a_ledger():
    RollbackOptions(ledger="memory", to=0).check()
    assert "--ledger is missing" in mistake(RollbackOptions().check)
