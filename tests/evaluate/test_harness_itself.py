"""``prior`` by lm-evaluation-harness's own code, on stand-ins for its data, against ``prior-quick`` on the same."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from selfdistill.evaluate import harness
from selfdistill.evaluate.prior import evaluate_prior_quick, load_questions
from selfdistill.evaluate.results import eval_record
from selfdistill.types import EvalResult

pytestmark = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="extra eval is not installed")

NAMES = ("Ann", "Bo", "Cy", "Di", "Eve", "Flo")
ENDINGS = ["[substeps] Light it.", "Go on."]
DATA: dict[str, dict[str, list[dict[str, Any]]]] = {
    "Rowan/hellaswag": {
        "train": [],
        "validation": [
            {
                "activity_label": "Tea",
                "ctx_a": f"{name} [title] boils.",
                "ctx_b": "she",
                "endings": ENDINGS,
                "label": "1",
            }
            for name in NAMES
        ],
    },
    "cais/mmlu": {
        "dev": [],
        "test": [{"question": " Why? ", "choices": ["a", "b", "c", "d"], "answer": 3}],
    },
    "truthfulqa/truthful_qa": {
        "validation": [
            {"question": f"Is {name} it?", "mc1_targets": {"choices": ["No.", "Yes."], "labels": [1, 0]}}
            for name in NAMES
        ],
    },
    "allenai/winogrande": {
        "train": [],
        "validation": [
            {"sentence": f"{name} saw Gus because _ looked.", "option1": name, "option2": "Gus", "answer": "2"}
            for name in NAMES
        ],
    },
    "google/IFEval": {
        "train": [
            {
                "key": 1,
                "prompt": "Say hi.",
                "instruction_id_list": ["punctuation:no_comma", "detectable_format:title"],
                "kwargs": [{}, {}],
            }
        ],
    },
    "openai/openai_humaneval": {
        # the prompt is a whole program, and what a random model adds is behind a comment's sign
        "test": [
            {
                "prompt": "def f():\n    return 1\n    # ",
                "test": f"def check(f):\n    assert f() == {right}\n",
                "entry_point": "f",
                "canonical_solution": "",
                "task_id": "x",
            }
            for right in (1, 2)
        ],
    },
}
"""By name of a data set on the Hub its splits, with the columns that it has there."""
SLICES: dict[str, list[dict[str, Any]]] = {
    "hellaswag": [{"query": f"Tea: {name} [title] boils. She", "choices": ENDINGS, "gold": 1} for name in NAMES],
    "mmlu": [{"query": " Why? ", "choices": ["a", "b", "c", "d"], "gold": 3, "subject": "astronomy"}],
    "truthfulqa_mc1": [{"query": f"Is {name} it?", "choices": ["No.", "Yes."], "gold": 0} for name in NAMES],
    "winogrande": [
        {
            "context_options": [f"{name} saw Gus because {name}", f"{name} saw Gus because Gus"],
            "continuation": "looked.",
            "gold": 1,
        }
        for name in NAMES
    ],
}
"""The same rows as slices of ``prior-quick``."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(path: str, name: str | None = None, **_: Any) -> datasets.DatasetDict:
        splits = DATA[path]
        filled: Any = {
            split: datasets.Dataset.from_list(rows or next(filter(None, splits.values())))
            for split, rows in splits.items()
        }
        return datasets.DatasetDict(filled)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr("nltk.download", lambda _: False)  # IFEval's code asks for data that its rows here don't need


def scores(result: EvalResult, part: str, name: str) -> list[Any]:
    samples = [sample for sample in result.samples if sample.example.part == part]
    if part == "mmlu":
        samples = [sample for sample in samples if "astronomy" in sample.example.prompt[0]["content"]]
    return [sample.scores[name] for sample in samples]


def test_the_harness_takes_the_same_choices_as_prior_quick_and_its_programs_run_in_our_sandbox(
    hub: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_model: Callable[..., PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = tiny_model(vocab_size=len(tokenizer), max_position_embeddings=2048)
    short = {**harness.HUMANEVAL_CONFIG["generation_kwargs"], "max_gen_toks": 1}
    monkeypatch.setitem(harness.HUMANEVAL_CONFIG, "generation_kwargs", short)
    theirs = harness.evaluate_prior(model, tokenizer, limit=6, allow_code_execution=True)
    (tmp_path / "prior").mkdir()
    for name, rows in SLICES.items():
        (tmp_path / "prior" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ours = evaluate_prior_quick(model, tokenizer, load_questions(tmp_path))
    for name in SLICES:
        assert scores(theirs, name, "score") == scores(ours, name, "acc"), name
    assert 0 < ours.accuracy < 1
    parts, metrics = eval_record(theirs).parts, theirs.config.facts["harness"]["metrics"]
    assert list(parts) == list(harness.METRICS)
    assert (parts["mmlu"].num_total, parts["ifeval"].num_total) == (57, 2)
    assert scores(theirs, "humaneval", "score") == [1.0, 0.0]
    for name, metric in harness.METRICS.items():
        assert metrics[f"{name}/{metric},none"] == pytest.approx(parts[name].accuracy), name
    contexts = {question.benchmark: question.requests[0][0] for question in load_questions(tmp_path)}
    asked = {
        sample.example.part: sample.example.prompt[0]["content"]
        for sample in theirs.samples
        if "astronomy" in sample.example.id or sample.example.part != "mmlu"
    }
    assert {name: asked[name] for name in SLICES} == contexts
