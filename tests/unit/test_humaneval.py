"""HumanEval's programs: where a completion ends, what is run, and that its own solutions pass."""

import json
import os
from pathlib import Path

import pytest

from selfdistill.evaluate.code import TASK, PlainText, passes, program, until_stop
from selfdistill.types import Example, UserError

DATA = Path(os.environ.get("SELFDISTILL_DATA") or Path(__file__).parents[2].parent / "shared" / "data")
ROW = {
    "prompt": "def double(x):\n",
    "test": "def check(candidate):\n    assert candidate(3) == 6\n",
    "entry_point": "double",
}


def test_a_completion_ends_at_the_first_stop():
    assert until_stop("    return 1\n\ndef other():\n    pass\nclass X:") == "    return 1\n"
    assert until_stop("    return 1\nprint(2)\n# note") == "    return 1"
    assert until_stop("    return 1") == "    return 1"
    assert until_stop("") == ""


def test_the_program_is_prompt_completion_tests():
    assert program("    return 2 * x\ndef junk(:", ROW) == (
        "def double(x):\n    return 2 * x\ndef check(candidate):\n    assert candidate(3) == 6\n\ncheck(double)\n"
    )


@pytest.mark.parametrize(
    ("completion", "score"),
    [("    return 2 * x", 1.0), ("    return x", 0.0), ("    return (", 0.0), ("    exit(0)", 0.0), ("", 0.0)],
)
def test_scores(completion, score):
    example = Example(id="0", prompt=({"role": "user", "content": ROW["prompt"]},), reference=ROW)
    assert passes(completion, example) == score


def test_prompts_are_bare_text(tokenizer):
    renderer = PlainText(tokenizer)
    pair = renderer.render(Example(id="0", prompt=({"role": "user", "content": ROW["prompt"]},)))
    assert tokenizer.decode(pair.student_ids) == ROW["prompt"]
    assert renderer.completion_text([*tokenizer(" 1")["input_ids"], tokenizer.eos_token_id]) == " 1"


def test_its_own_solutions_pass():
    if not (DATA / "prior" / "humaneval.jsonl").is_file():
        pytest.skip("no benchmark data: set SELFDISTILL_DATA")
    examples = TASK.load_eval(DATA)
    assert len(examples) == 164
    rows = [json.loads(line) for line in (DATA / "prior" / "humaneval.jsonl").read_text().splitlines()]
    chosen = list(zip(examples, rows, strict=True))[::16]
    assert [passes(row["canonical_solution"], example) for example, row in chosen] == [1.0] * len(chosen)


def test_missing_and_bad_files(tmp_path):
    with pytest.raises(UserError, match="--data_dir"):
        TASK.load_eval(tmp_path)
    (tmp_path / "prior").mkdir()
    (tmp_path / "prior" / "humaneval.jsonl").write_text('{"task_id": "x"}\n')
    with pytest.raises(UserError, match="row 1"):
        TASK.load_eval(tmp_path)
