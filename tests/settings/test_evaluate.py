"""What ``eval`` refuses before anything is loaded."""

from typing import Any

import pytest

from selfdistill.settings import flat
from selfdistill.settings.evaluate import EvalOptions
from tests.support.mistakes import mistake, refusal


def options(**given: Any) -> EvalOptions:
    return flat.build(EvalOptions, given)


def test_names_are_taken_once_and_own_rows_are_custom():
    assert options().names == ["assistant-tools"]
    assert options(dataset_name="science, tooluse ,science,").names == ["science", "tooluse"]
    assert options(dataset_name="science", dataset_path="rows.jsonl").names == ["custom"]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"dataset_name": "drift", "base_model": "m"},
        {"dataset_name": "drift,science", "base_model": "m", "base_results": "r", "temperature": 1, "num_samples": 4},
        {"dataset_name": "humaneval-quick", "allow_code_execution": True, "max_new_tokens": 100},
        {"dataset_name": "prior", "allow_code_execution": True},
        {"dataset_name": "prior-quick", "base_results": "r"},
        {"dataset_name": "drift,science", "scorer": "numeric", "judge_url": "u", "judge_model": "m"},
        {"dataset_path": "rows.jsonl", "scorer": "judge"},
        {"dataset_path": "rows.jsonl", "seed": 1, "top_p": 0.5, "temperature": 1},
    ],
)
def test_what_is_taken(given: dict[str, Any]):
    assert refusal(options(**given).check) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dataset_name": " , "}, "--dataset_name ' , ' names no task. `selfdistill tasks` lists them."),
        ({"limit": 0}, "limit: 0 is not at least 1."),
        ({"batch_size": 0}, "batch_size: 0 is not at least 1."),
        ({"num_samples": 0}, "num_samples: 0 is not at least 1."),
        (
            {"rollout_engine": "sglang"},
            "rollout_engine: 'sglang' is not one of auto, own, generate, paged, vllm, vllm-",
        ),
        ({"dataset_name": "drift", "rollout_engine": "vllm"}, "--rollout_engine changes nothing for drift."),
        ({"vllm_url": "u"}, "--vllm_url u changes nothing without --rollout_engine vllm-server. Leave it out."),
        (
            {"vllm_memory_share": 0.5, "rollout_engine": "vllm-server"},
            "--vllm_memory_share 0.5 changes nothing without --rollout_engine vllm. Leave it out.",
        ),
        ({"num_samples": 4}, "--num_samples 4 of greedy decoding are all the same. Give --temperature 1."),
        ({"top_p": 0.9}, "--top_p 0.9 changes nothing in greedy decoding. Give --temperature 1."),
        ({"temperature": -1.0}, "--temperature -1.0 is not between 0"),
        ({"base_model": "m"}, "--base_model changes nothing for assistant-tools. Leave it out."),
        ({"dataset_path": "r.jsonl", "base_model": "m"}, "--base_model changes nothing for custom. Leave it out."),
        ({"dataset_name": "drift", "base_results": "r"}, "--base_results changes nothing for drift. Leave it out."),
        ({"allow_code_execution": True}, "--allow_code_execution changes nothing for assistant-tools."),
        ({"dataset_name": "drift", "scorer": "numeric"}, "--scorer changes nothing for drift. Leave it out."),
        ({"dataset_name": "humaneval-quick", "judge_url": "u"}, "--judge_url changes nothing for humaneval-quick."),
        ({"dataset_name": "prior,drift", "judge_model": "m"}, "--judge_model changes nothing for prior, drift."),
        ({"dtype": "int8"}, "dtype: 'int8' is not one of auto, float32, bfloat16, float16."),
        ({"dataset_name": "drift", "seed": 1}, "--seed changes nothing for drift. Leave it out."),
        ({"dataset_name": "drift,prior", "max_new_tokens": 9}, "--max_new_tokens changes nothing for drift, prior."),
        ({"dataset_name": "drift,prior", "batch_size": 8}, "--batch_size changes nothing for drift, prior."),
        ({"dataset_name": "prior", "rollout_engine": "own"}, "--rollout_engine changes nothing for prior."),
        ({"dataset_name": "prior", "chat_template_kwargs": {"a": 1}}, "--chat_template_kwargs changes nothing"),
        ({"dataset_path": "r.jsonl", "data_dir": "d"}, "--data_dir changes nothing beside --dataset_path."),
        ({"seed": 1}, "--seed 1 changes nothing in greedy decoding. Give --temperature 1."),
        ({"dataset_name": "prior-quick", "temperature": 1.0}, "--temperature changes nothing for prior-quick."),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str):
    assert mistake(options(**given).check).startswith(message)
