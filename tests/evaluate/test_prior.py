"""Benchmarks as the harness formats them, and how a choice is taken."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from selfdistill.evaluate import prior
from selfdistill.evaluate.results import eval_record, sample_records
from tests.support.mistakes import mistake

ROWS: dict[str, dict[str, Any]] = {
    "arc_easy": {"query": "Question: What is hot?", "choices": ["fire", "ice"], "gold": 0},
    "hellaswag": {
        "query": " [header] How to boil [title] Fill a pot. [step] Use water.",
        "choices": ["[substeps] Light it.", "Go."],
        "gold": 1,
    },
    "mmlu": {"subject": "high_school_physics", "query": " Why? ", "choices": ["a", "b", "c", "d"], "gold": 3},
    "truthfulqa_mc1": {"query": "Is it?", "choices": ["No.", "Yes.", "Maybe."], "gold": 0},
    "winogrande": {
        "context_options": ["Ann saw Bo because Ann", "Ann saw Bo because Bo"],
        "continuation": "looked up.",
        "gold": 0,
    },
}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    (tmp_path / "prior").mkdir()
    for name, row in ROWS.items():
        (tmp_path / "prior" / f"{name}.jsonl").write_text((json.dumps(row) + "\n") * 3)
    return tmp_path


def test_formats_by_hand(data_dir: Path):
    found = {question.benchmark: question for question in prior.load_questions(data_dir, 1)}
    assert found["arc_easy"].requests == (
        ("Question: What is hot?\nAnswer:", " fire"),
        ("Question: What is hot?\nAnswer:", " ice"),
    )
    context = "How to boil. Fill a pot. Use water."  # marks gone, doubled blanks single
    assert found["hellaswag"].requests == ((context, "  Light it."), (context, " Go."))
    context = (
        "The following are multiple choice questions (with answers) about high school physics.\n\n"
        "Why?\nA. a\nB. b\nC. c\nD. d\nAnswer:"
    )
    assert found["mmlu"].requests == tuple((context, f" {letter}") for letter in "ABCD")
    contexts, answers = zip(*found["truthfulqa_mc1"].requests, strict=True)
    assert contexts[0].startswith("Q: What is human life expectancy in the United States?\nA: Human life")
    assert contexts[0].endswith("\n\nQ: Is it?\nA:")
    assert answers == (" No.", " Yes.", " Maybe.")
    assert found["winogrande"].requests == (
        ("Ann saw Bo because Ann", " looked up."),
        ("Ann saw Bo because Bo", " looked up."),
    )


def test_formats_as_the_installed_harness_has_them(data_dir: Path):
    tasks = Path(pytest.importorskip("lm_eval", reason="extra eval is not installed").__file__).parent / "tasks"
    import jinja2
    import yaml

    def settings(file: str) -> dict[str, Any]:
        loader: Any = type("Loader", (yaml.SafeLoader,), {})
        loader.add_constructor("!function", lambda *_: None)
        return yaml.load((tasks / file).read_text(), loader)

    def contexts(file: str, **fields: Any) -> str:
        return jinja2.Template(settings(file)["doc_to_text"]).render(**fields)

    found = {question.benchmark: question.requests[0][0] for question in prior.load_questions(data_dir, 1)}
    assert found["arc_easy"] == contexts("arc/arc_easy.yaml", question="What is hot?")
    assert found["truthfulqa_mc1"] == contexts("truthfulqa/truthfulqa_mc1.yaml", question="Is it?").lstrip()
    mmlu = ROWS["mmlu"]
    text = contexts("mmlu/default/_default_template_yaml", question=mmlu["query"], choices=mmlu["choices"])
    header = settings("mmlu/default/mmlu_high_school_physics.yaml")["description"]
    assert found["mmlu"] == f"{header}{text}"


def test_the_choice_of_highest_loglikelihood_is_taken(
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_model: Callable[..., PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
):
    questions = prior.load_questions(data_dir, 2)
    best = {"arc_easy": 0, "hellaswag": 0, "mmlu": 3, "truthfulqa_mc1": 2, "winogrande": 1}
    values = [-1.0 if at == best[q.benchmark] else -2.0 for q in questions for at in range(len(q.requests))]
    monkeypatch.setattr(prior, "loglikelihoods", lambda *_, **__: values)
    result = prior.evaluate_prior_quick(tiny_model(), tokenizer, questions)
    record = eval_record(result)
    right = {"arc_easy": 2, "hellaswag": 0, "mmlu": 2, "truthfulqa_mc1": 0, "winogrande": 0}
    assert {part: score.num_correct for part, score in record.parts.items()} == right
    assert record.accuracy == pytest.approx(4 / 10)
    assert record.mean_of_parts == pytest.approx(2 / 5)
    assert record.config.prompt == prior.HARNESS_PROMPT
    assert record.config.facts == {"benchmarks": list(ROWS)}
    rows = {row.id: row for row in sample_records(result)}
    assert rows["winogrande/1"].prompt[0]["content"] == "Ann saw Bo because"
    assert rows["winogrande/1"].completion == "Bo looked up."
    assert rows["winogrande/1"].reference == "Ann looked up."
    assert rows["mmlu/0"].completion == "D"


def test_missing_slices_are_left_out_and_none_is_an_error(data_dir: Path, tmp_path: Path):
    for name in ROWS:
        if name != "mmlu":
            (data_dir / "prior" / f"{name}.jsonl").unlink()
    assert {question.benchmark for question in prior.load_questions(data_dir)} == {"mmlu"}
    for nowhere in (None, tmp_path / "elsewhere"):
        assert "--data_dir" in mistake(prior.load_questions, nowhere)


@pytest.mark.parametrize(
    "line", ["{}", '{"query": "q", "choices": ["a"], "gold": 1}', '{"query": 3, "choices": 4, "gold": 0}']
)
def test_a_bad_row_is_named(data_dir: Path, line: str):
    file = data_dir / "prior" / "arc_easy.jsonl"
    file.write_text(json.dumps(ROWS["arc_easy"]) + "\n" + line + "\n")
    assert "arc_easy.jsonl row 2 is not a question of arc_easy" in mistake(prior.load_questions, data_dir)


def test_a_line_that_is_not_json_or_not_utf8_is_named(data_dir: Path):
    file = data_dir / "prior" / "arc_easy.jsonl"
    for line, said in ((b"not json", "arc_easy.jsonl line 2 column 1 is not valid JSON"), (b'"\xff"', "is not UTF-8")):
        file.write_bytes(json.dumps(ROWS["arc_easy"]).encode() + b"\n" + line)
        assert said in mistake(prior.load_questions, data_dir)


def test_a_line_separator_inside_a_question_ends_no_row(data_dir: Path):
    row = ROWS["arc_easy"] | {"query": "Question: What\u2028is hot?"}
    (data_dir / "prior" / "arc_easy.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    (question,) = [question for question in prior.load_questions(data_dir) if question.benchmark == "arc_easy"]
    assert question.requests[0] == ("Question: What\u2028is hot?\nAnswer:", " fire")


def test_the_real_slices_load(real_data: Path):
    questions = prior.load_questions(real_data)
    counts = {name: sum(question.benchmark == name for question in questions) for name in prior.BENCHMARKS}
    assert counts == {"arc_easy": 500, "hellaswag": 500, "mmlu": 500, "truthfulqa_mc1": 817, "winogrande": 500}
