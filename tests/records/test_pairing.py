"""Two evaluations of the same rows, paired by hand."""

from selfdistill.records.evaluations import SampleRecord
from selfdistill.records.pairing import paired_scores, row_test
from tests.support.mistakes import mistake


def row(id: str, score: float | None, prompt: str = "q", part: str = "") -> SampleRecord:
    return SampleRecord(
        id=id,
        part=part,
        prompt=[{"role": "user", "content": prompt}],
        reference=None,
        completion="",
        scores={"m": score},
        num_tokens=1,
        finish_reason="stop",
    )


FIRST = [row("c", 1.0), row("a", 0.0), row("b", None), row("d", 1.0)]
SECOND = [row("a", 1.0), row("b", 1.0), row("c", 0.5), row("e", 1.0)]


def test_scores_of_shared_rows_in_the_firsts_order():
    assert paired_scores(FIRST, SECOND, "m", "toy") == ([1.0, 0.0], [0.5, 1.0])
    assert paired_scores(FIRST, SECOND, "another scorer", "toy") == ([], [])


def test_rows_of_one_part():
    first = [row("a", 0.0, part="easy"), row("b", 1.0, part="hard"), row("c", 0.0, part="hard")]
    second = [row("a", 1.0, part="easy"), row("b", 0.0, part="hard"), row("c", 1.0, part="hard")]
    assert paired_scores(first, second, "m", "toy", "hard") == ([1.0, 0.0], [0.0, 1.0])
    assert paired_scores(first, second, "m", "toy") == ([0.0, 1.0, 0.0], [1.0, 0.0, 1.0])
    assert paired_scores(first, second, "m", "toy", "none such") == ([], [])


def test_another_prompt_under_the_same_id_is_refused():
    said = mistake(paired_scores, [row("a", 1.0)], [row("a", 1.0, "another")], "m", "toy")
    assert "toy can't be compared: the prompt of row a differs" in said
    assert said == mistake(row_test, [row("a", None)], [row("a", 1.0, "another")], "m", "toy")


def test_the_test_of_the_second_against_the_first():
    first = [row(str(number), 0.0) for number in range(6)] + [row("x", 1.0), row("y", None)]
    second = [row(str(number), 1.0) for number in range(6)] + [row("x", 1.0), row("y", 1.0)]
    found = row_test(first, second, "m", "toy")
    assert found is not None
    assert (found.num_items, found.num_better, found.num_worse, found.change) == (7, 6, 0, 6 / 7)
    assert found.p_value == 2 / 64
    assert found.verdict == "BETTER"
    back = row_test(second, first, "m", "toy")
    assert back is not None
    assert (back.change, back.verdict) == (-6 / 7, "WORSE")


def test_no_shared_row_is_no_test():
    assert row_test([row("a", 1.0)], [row("b", 1.0)], "m", "toy") is None
    assert row_test([row("a", 1.0)], [row("a", None)], "m", "toy") is None
    assert row_test([], [], "m", "toy") is None
