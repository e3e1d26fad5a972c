"""HumanEval's programs: where a completion ends, what is run, and that its own solutions pass."""

import json
from pathlib import Path

import pytest

from selfdistill.evaluate.sandbox import with_sandbox
from selfdistill.tasks.humaneval import TASK, program, until_stop
from selfdistill.tasks.task import Program
from selfdistill.types import Example
from tests.support.mistakes import mistake

ROW = {
    "prompt": "def double(x):\n",
    "test": "def check(candidate):\n    assert candidate(3) == 6\n",
    "entry_point": "double",
}
DOUBLE = Example(id="0", prompt=({"role": "user", "content": ROW["prompt"]},), reference=ROW)


def test_a_completion_ends_at_the_first_stop():
    assert until_stop("    return 1\n\ndef other():\n    pass\nclass X:") == "    return 1\n"
    assert until_stop("    return 1\nprint(2)\n# note") == "    return 1"
    assert until_stop("    return 1") == "    return 1"
    assert until_stop("") == ""


def test_the_program_is_prompt_and_completion_and_is_held_to_the_tests():
    assert program("    return 2 * x\ndef junk(:", DOUBLE) == Program(
        source="def double(x):\n    return 2 * x\n",
        setup="def double(x):\n\n    pass\n",
        tests="def check(candidate):\n    assert candidate(3) == 6\n\ncheck(double)\n",
        entry_point="double",
    )


def test_prompts_are_bare_text_and_programs_wait_for_a_sandbox():
    assert TASK.prompt == "plain text"
    assert TASK.programs == {"pass@1": program}
    assert TASK.scorers["pass@1"]("    return 2 * x", DOUBLE) is None


@pytest.mark.parametrize(
    ("completion", "score"),
    [("    return 2 * x", 1.0), ("    return x", 0.0), ("    return (", 0.0), ("    exit(0)", 0.0), ("", 0.0)],
)
def test_scores_in_the_sandbox(completion: str, score: float):
    assert with_sandbox(TASK).scorers["pass@1"](completion, DOUBLE) == score


def test_its_own_solutions_pass(real_data: Path):
    examples = TASK.load_eval(real_data)
    assert len(examples) == 164
    rows = [json.loads(line) for line in (real_data / "prior" / "humaneval.jsonl").read_text().splitlines()]
    passes = with_sandbox(TASK).scorers["pass@1"]
    chosen = list(zip(examples, rows, strict=True))[::16]
    assert [passes(row["canonical_solution"], example) for example, row in chosen] == [1.0] * len(chosen)


def test_missing_and_bad_files(tmp_path: Path):
    assert "--data_dir" in mistake(TASK.load_eval, tmp_path)
    assert "--data_dir" in mistake(TASK.load_eval, None)
    (tmp_path / "prior").mkdir()
    file = tmp_path / "prior" / "humaneval.jsonl"
    file.write_text('{"task_id": "x"}\n')
    assert "row 1 is not a HumanEval problem: it has no text in prompt" in mistake(TASK.load_eval, tmp_path)
    file.write_text(json.dumps({"task_id": "x", **ROW, "test": 3}) + "\n")
    assert "row 1 is not a HumanEval problem: it has no text in test" in mistake(TASK.load_eval, tmp_path)
    file.write_bytes(b'{"task_id": "\xff"}\n')
    assert "humaneval.jsonl line 1 is not UTF-8" in mistake(TASK.load_eval, tmp_path)


def test_a_line_separator_inside_a_program_ends_no_row(tmp_path: Path):
    (tmp_path / "prior").mkdir()
    row = {"task_id": "x", **ROW, "prompt": '"""a\u2028b"""\n' + ROW["prompt"]}
    text = json.dumps(row, ensure_ascii=False) + "\n"
    (tmp_path / "prior" / "humaneval.jsonl").write_text(text, encoding="utf-8")
    (example,) = TASK.load_eval(tmp_path)
    assert example.reference == {name: row[name] for name in ("prompt", "test", "entry_point")}
