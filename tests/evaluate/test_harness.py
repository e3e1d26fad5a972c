"""``prior``: the call of the harness, the conversion of its results, and the harness itself on local rows."""

import importlib.metadata
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from selfdistill.evaluate import harness
from selfdistill.evaluate.prior import ChoiceQuestion, evaluate_prior_quick
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
    monkeypatch.setitem(sys.modules, "lm_eval", types.ModuleType("lm_eval"))
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


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(harness.util, "find_spec", lambda name: None)
    assert "selfdistill[eval]" in mistake(harness.require_harness)


def local(rows: list[dict[str, Any]], **config: Any) -> dict[str, Any]:
    """A task of the installed harness over rows in memory."""
    from datasets import Dataset

    return {
        "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)},
        "test_split": "test",
        "num_fewshot": 0,
        "metadata": {"version": 1.0},
        **config,
    }


ACC: dict[str, Any] = {"output_type": "multiple_choice", "metric_list": [{"metric": "acc", "aggregation": "mean"}]}


def test_the_harness_itself_takes_the_same_choices(tiny_model: MakeModel, tokenizer: PreTrainedTokenizerFast):
    pytest.importorskip("lm_eval", reason="extra eval is not installed")
    model = tiny_model(vocab_size=len(tokenizer))
    words = ["fire", "ice", "a long answer", "snow", "no"]
    rows = [
        {"query": f"What is {word}?", "choices": words[at:] + words[:at], "gold": 0} for at, word in enumerate(words)
    ]
    gaps = [{"context_options": ["Ann saw", "Bo saw " + word], "continuation": word, "gold": 1} for word in words]
    tasks = [
        local(
            rows,
            task="hellaswag",
            doc_to_text="{{query}}",
            doc_to_choice="{{choices}}",
            doc_to_target="{{gold}}",
            **ACC,
        ),
        local(
            gaps,
            task="winogrande",
            doc_to_text=lambda doc: doc["gold"],
            doc_to_choice=lambda doc: doc["context_options"],
            doc_to_target=lambda doc: doc["continuation"],
            **ACC,
        ),
    ]
    theirs = harness.evaluate_prior(model, tokenizer, tasks=tasks, batch_size=3)
    questions = [
        ChoiceQuestion(
            id=f"hellaswag/{at}",
            benchmark="hellaswag",
            requests=tuple((one["query"], f" {choice}") for choice in one["choices"]),
            gold=0,
        )
        for at, one in enumerate(rows)
    ]
    questions += [
        ChoiceQuestion(
            id=f"winogrande/{at}",
            benchmark="winogrande",
            requests=tuple((context, f" {one['continuation']}") for context in one["context_options"]),
            gold=1,
        )
        for at, one in enumerate(gaps)
    ]
    ours = evaluate_prior_quick(model, tokenizer, questions)
    assert [sample.scores["score"] for sample in theirs.samples] == [sample.scores["acc"] for sample in ours.samples]
    assert 0 < ours.accuracy < 1
    parts, metrics = eval_record(theirs).parts, theirs.config.facts["harness"]["metrics"]
    for part in ("hellaswag", "winogrande"):
        assert metrics[f"{part}/acc,none"] == pytest.approx(parts[part].accuracy)


def test_the_harness_itself_decodes_humaneval_and_our_sandbox_runs_it(
    tiny_model: MakeModel, tokenizer: PreTrainedTokenizerFast
):
    pytest.importorskip("lm_eval", reason="extra eval is not installed")
    problems: list[dict[str, Any]] = [
        # the prompt is a whole program, and what a random model adds is junk behind a stop or a comment
        {"prompt": "def f():\n    return 1\n", "test": "def check(f):\n    assert f() == 1\n", "entry_point": "f"},
        {"prompt": "def f():\n    return 1\n", "test": "def check(f):\n    assert f() == 2\n", "entry_point": "f"},
    ]
    for problem in problems:
        problem |= {"prompt": problem["prompt"] + "    # ", "canonical_solution": "", "task_id": "x"}
    config = {name: value for name, value in harness.HUMANEVAL_CONFIG.items() if name != "dataset_path"}
    config["generation_kwargs"] = {**config["generation_kwargs"], "max_gen_toks": 1}
    result = harness.evaluate_prior(tiny_model(vocab_size=len(tokenizer)), tokenizer, tasks=[local(problems, **config)])
    assert [sample.scores["score"] for sample in result.samples] == [1.0, 0.0]
    assert result.config.facts["harness"]["metrics"] == {"humaneval/pass_at_1,none": 0.5}
