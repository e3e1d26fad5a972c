"""Science: the reference's rule for answers, and the real rows."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfdistill.tasks import science
from selfdistill.tasks.science import extracted_answer, reference_score
from selfdistill.types import Example
from tests.support.mistakes import mistake


@pytest.mark.parametrize(
    ("completion", "extracted"),
    [
        pytest.param("<reasoning>x</reasoning>\n<answer>\nA\n</answer>", "A", id="as asked for"),
        pytest.param("<answer>A</answer>", "A", id="one line"),
        pytest.param("A", "A", id="no tags: the whole text"),
        pytest.param("  A\n", "A", id="no tags, white space"),
        pytest.param("The answer is A", "The answer is A", id="no tags: a sentence is no letter"),
        pytest.param("", "", id="empty"),
        pytest.param("<answer>A", "A", id="not closed"),
        pytest.param("A</answer>", "A", id="not opened"),
        pytest.param("A</answer> B</answer>", "A", id="not opened, closed twice: first cut"),
        pytest.param("<answer>A</answer><answer>B</answer>", "B", id="repeated: the last"),
        pytest.param("<answer><answer>A</answer></answer>", "A", id="nested"),
        pytest.param("<answer>A<answer></answer>", "", id="the last one is empty"),
        pytest.param("<answer>A</answer> so B", "A", id="text after it"),
        pytest.param("</answer><answer>A", "A", id="closing tag first"),
        pytest.param("<answer>A</answer><answer>", "", id="opened again at the end"),
        pytest.param("<answer>a</answer>", "a", id="case is kept"),
        pytest.param("<Answer>A</Answer>", "<Answer>A</Answer>", id="tags of another case"),
        pytest.param("<answer >A</answer>", "<answer >A", id="a space in the tag"),
        pytest.param("<answer>A</answer >", "A</answer >", id="a space in the closing tag"),
        pytest.param("<answer>\u00a0A\u2003</answer>", "A", id="unicode white space"),
        pytest.param("<answer>A.</answer>", "A.", id="a full stop counts"),
        pytest.param("<answer>A: 12.5</answer>", "A: 12.5", id="the option's text counts"),
        pytest.param("<answer><b>A</b></answer>", "<b>A</b>", id="other tags stay"),
        pytest.param("<answer>A B</answer>", "A B", id="two letters"),
    ],
)
def test_extracted_answer(completion: str, extracted: str):
    assert extracted_answer(completion) == extracted
    assert reference_score(completion, "A") is (extracted == "A")


def test_the_reference_itself_is_not_stripped():
    assert reference_score("<answer>A</answer>", " A") is False


TAGGED = st.lists(st.sampled_from(["<answer>", "</answer>", "A", "B", " ", "\n"])).map("".join)


@settings(deadline=None)
@given(st.text() | TAGGED, st.text())
def test_never_raises(completion: str, answer: str):
    assert reference_score(completion, answer) in (True, False)


@settings(deadline=None)
@given(TAGGED, st.sampled_from("ABCD"))
def test_only_the_last_answer_counts(before: str, letter: str):
    assert reference_score(f"{before}<answer> {letter} </answer>", letter)


def test_scorer():
    scorer = science.TASK.scorers["reference"]
    example = Example(id="x", prompt=({"role": "user", "content": "q"},), reference="C")
    assert scorer("<answer>C</answer>", example) == 1.0
    assert scorer("<answer>c</answer>", example) == 0.0
    assert scorer("C", Example(id="x", prompt=example.prompt)) is None


def test_missing_folder_names_the_flag(tmp_path: Path):
    message = mistake(science.TASK.load_eval, tmp_path)
    assert "science_data/eval_data" in message
    assert "--data_dir or SELFDISTILL_DATA" in message


def test_training_data(real_data: Path):
    examples = science.TASK.load_train(real_data)
    assert len(examples) == 1622
    assert [turn["role"] for turn in examples[0].prompt] == ["system", "user"]
    assert examples[0].reference == "A"  # read off the row by eye
    assert {example.reference for example in examples} == set("ABCD")


def test_evaluation_data(real_data: Path):
    examples = science.TASK.load_eval(real_data)
    assert len(examples) == 507
    assert examples[506].id == "science/eval/506"
    counts = Counter(example.reference for example in examples)
    assert counts == {"A": 123, "B": 127, "C": 127, "D": 130}
