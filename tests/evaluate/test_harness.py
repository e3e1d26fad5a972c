"""``prior``: the call of the harness, and the conversion of its results."""

import importlib.metadata
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from selfdistill.evaluate import harness
from selfdistill.evaluate.results import eval_record, sample_records
from tests.support.mistakes import mistake

MakeModel = Callable[..., PreTrainedModel]
Calls = list[dict[str, Any]]


def row(doc_id: int, **metrics: Any) -> dict[str, Any]:
    return {
        "doc_id": doc_id,
        "arguments": [(f"context {doc_id}", " choice")],
        "filtered_resps": ["(-1.0, False)"],
        "target": 0,
        **metrics,
    }


FOUND = {
    "samples": {
        "hellaswag": [row(0, acc=1.0), row(1, acc=0.0)],
        "mmlu_astronomy": [row(0, acc=1.0)],
        "mmlu_law": [row(0, acc=0.0), row(1, acc=1.0)],
        "ifeval": [row(0, inst_level_loose_acc=[True, False, True]), row(1, inst_level_loose_acc=[False])],
        "humaneval": [row(0, pass_at_1=1.0)],
    },
    "results": {
        "hellaswag": {"acc,none": 0.5, "acc_norm,none": 0.25, "acc_stderr,none": "N/A", "alias": "hellaswag"},
        "mmlu": {"acc,none": 2 / 3},
        "ifeval": {"inst_level_loose_acc,none": 0.5, "prompt_level_loose_acc,none": 0.0},
        "humaneval": {"pass_at_1,none": 1.0},
    },
    "versions": {"hellaswag": 1.0, "mmlu": 2},
}


@pytest.fixture
def a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(harness.metadata, "version", lambda name: "9.9" if name == "lm_eval" else version(name))


def test_parts_have_the_harnesss_numbers(a_version: None):
    record = eval_record(harness.result_from(FOUND))
    parts = {part: (score.num_correct, score.num_total) for part, score in record.parts.items()}
    assert parts == {"hellaswag": (1, 2), "mmlu": (2, 3), "ifeval": (2, 4), "humaneval": (1, 1)}
    assert record.mean_of_parts == pytest.approx((1 / 2 + 2 / 3 + 1 / 2 + 1) / 4)
    assert record.config.facts["harness"] == {
        "version": "9.9",
        "task_versions": {"hellaswag": 1.0, "mmlu": 2},
        "metrics": {
            "hellaswag/acc,none": 0.5,
            "mmlu/acc,none": 2 / 3,
            "ifeval/inst_level_loose_acc,none": 0.5,
            "humaneval/pass_at_1,none": 1.0,
        },
    }


def test_ids_tell_items_and_instructions_apart(a_version: None):
    ids = [one.id for one in sample_records(harness.result_from(FOUND))]
    assert len(set(ids)) == len(ids) == 10
    assert "mmlu_law/1" in ids
    assert "ifeval/0/2" in ids


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, a_version: None) -> Calls:
    """Replaces the harness: keeps the arguments and returns FOUND."""
    calls: Calls = []

    def simple_evaluate(**arguments: Any) -> dict[str, Any]:
        calls.append(arguments | {"training": arguments["model"]["pretrained"].training})
        return FOUND

    evaluator: Any = types.ModuleType("lm_eval.evaluator")
    evaluator.simple_evaluate = simple_evaluate
    wrapper: Any = types.ModuleType("lm_eval.models.huggingface")
    wrapper.HFLM = dict
    root: Any = types.ModuleType("lm_eval")
    root.tasks = types.SimpleNamespace(__file__="tasks/__init__.py", TaskManager=lambda **found: found)
    monkeypatch.setitem(sys.modules, "lm_eval", root)
    monkeypatch.setitem(sys.modules, "lm_eval.evaluator", evaluator)
    monkeypatch.setitem(sys.modules, "lm_eval.models", types.ModuleType("lm_eval.models"))
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", wrapper)
    monkeypatch.setattr(harness, "require_harness", lambda: None)
    return calls


def test_the_harness_gets_the_model_and_no_chat_template(
    stub: Calls, tiny_model: MakeModel, tokenizer: PreTrainedTokenizerFast
):
    model = tiny_model()
    model.train()
    harness.evaluate_prior(model, tokenizer, limit=3, batch_size=5)
    (call,) = stub
    assert call["model"] == {"pretrained": model, "tokenizer": tokenizer, "batch_size": 5}
    assert call["apply_chat_template"] is False
    assert call["limit"] == 3
    assert call["task_manager"]["include_path"][0] == Path("tasks/hellaswag")
    assert not call["training"]
    assert model.training


def test_humaneval_runs_only_when_allowed(stub: Calls, tiny_model: MakeModel, tokenizer: PreTrainedTokenizerFast):
    harness.evaluate_prior(tiny_model(), tokenizer)
    harness.evaluate_prior(tiny_model(), tokenizer, allow_code_execution=True)
    without, with_it = (call["tasks"] for call in stub)
    assert without == ["hellaswag", "mmlu", "truthfulqa_mc1", "winogrande", "ifeval"]
    assert with_it == [*without, harness.HUMANEVAL_CONFIG]


def test_data_that_cannot_be_fetched_are_a_users_error(
    stub: Calls, tiny_model: MakeModel, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
):
    def offline(**_: Any) -> None:
        raise ConnectionError("Couldn't reach the Hub " + "x " * 50)

    monkeypatch.setattr(sys.modules["lm_eval.evaluator"], "simple_evaluate", offline)
    assert "prior-quick" in mistake(harness.evaluate_prior, tiny_model(), tokenizer)


def test_a_context_that_holds_no_answer_of_ifeval_is_told_before_anything_is_computed(
    stub: Calls, tiny_model: MakeModel, tokenizer: PreTrainedTokenizerFast
):
    said = mistake(harness.evaluate_prior, tiny_model(max_position_embeddings=1280), tokenizer)
    assert "answers of 1,280 tokens, and the model reads 1,280" in said
    assert stub == []
    harness.evaluate_prior(tiny_model(max_position_embeddings=1281), tokenizer)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(harness.util, "find_spec", lambda name: None)
    assert "selfdistill[eval]" in mistake(harness.require_harness)
