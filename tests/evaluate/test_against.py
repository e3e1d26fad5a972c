"""Results against earlier ones of the same test, by hand: one data set, and the correction for several."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from selfdistill.evaluate.against import against_base, read_results
from selfdistill.evaluate.jobs import Evaluated, against_bases
from selfdistill.evaluate.results import eval_record, sample_records, write_evaluation
from selfdistill.records.evaluations import AgainstBase, EvalRecord
from selfdistill.types import EvalConfig, EvalResult, Example, ScoredSample
from tests.support.mistakes import mistake
from tests.support.study_records import drift


def result(scores: Sequence[float | None], task: str = "toy", said: str = "so", asked: str = "?") -> EvalResult:
    """Rows ``0``, ``1`` ... of these scores."""
    samples = tuple(
        ScoredSample(
            example=Example(id=str(row), prompt=({"role": "user", "content": f"{row}{asked}"},)),
            completion=said,
            num_tokens=1,
            finish_reason="stop",
            scores={"m": score},
        )
        for row, score in enumerate(scores)
    )
    config = EvalConfig(task=task, revision="1", metric="m", num_rows=len(samples), prompt="chat")
    return EvalResult(samples=samples, config=config)


def evaluated(found: EvalResult) -> Evaluated:
    return Evaluated(name=found.task, record=eval_record(found), rows=sample_records(found), samples=found.samples)


def against(found: Evaluated) -> AgainstBase | None:
    assert isinstance(found.record, EvalRecord)
    return found.record.against_base


def test_both_accuracies_are_over_the_rows_that_both_scored():
    ours = result([1.0, 1.0, None, 0.0, 1.0], said="as in the example")
    base = result([0.0, 1.0, 1.0, None], said="plain")
    found = against_base(ours.config, sample_records(ours), ours.samples, eval_record(base), sample_records(base))
    assert (found.base_accuracy, found.accuracy) == (1 / 2, 1)
    assert (found.test.num_items, found.test.num_better, found.test.num_worse) == (2, 1, 0)
    assert found.test.change == 1 / 2
    # the leak check looks at all rows that the base answered, scored or not
    assert (found.leak.num_rows, found.leak.phrase_rate, found.leak.base_phrase_rate) == (4, 1, 0)


def test_no_row_in_common_is_refused():
    ours, base = result([1.0, None]), result([None, 1.0])
    rows, base_rows = sample_records(ours), sample_records(base)
    said = mistake(against_base, ours.config, rows, ours.samples, eval_record(base), base_rows)
    assert said.startswith("toy can't be compared: no row is scored in both results")


def test_what_a_folder_holds_of_a_data_set(tmp_path: Path):
    found = result([1.0, 0.0])
    write_evaluation(tmp_path, found)
    assert read_results(tmp_path, "toy") == (eval_record(found), sample_records(found))
    assert "holds no results of other. It has toy." in mistake(read_results, tmp_path, "other")
    (tmp_path / "toy.json").unlink()
    assert "Name the --output_dir of an earlier eval." in mistake(read_results, tmp_path, "toy")


def test_p_values_are_corrected_for_all_data_sets_that_are_compared():
    pairs = {
        "a": (result([1.0] * 6, "a"), result([0.0] * 6, "a")),  # p = 2 / 64
        "b": (result([1.0] * 8, "b"), result([0.0] * 8, "b")),  # p = 2 / 256
        "c": (result([1.0], "c"), result([1.0], "c")),  # p = 1
    }
    bases = {name: (eval_record(base), sample_records(base)) for name, (_, base) in pairs.items()}
    moved = Evaluated(name="drift", record=drift(0.5), rows=())
    alone = evaluated(result([1.0], "not compared"))
    found, refusals = against_bases([*(evaluated(ours) for ours, _ in pairs.values()), moved, alone], bases)
    assert refusals == []
    assert [each.name for each in found] == ["a", "b", "c", "drift", "not compared"]
    assert found[3:] == [moved, alone]
    tests = [one.test for each in found[:3] if (one := against(each))]
    assert [test.p_value for test in tests] == [2 / 64, 2 / 256, 1]
    # the smallest times 3, the next times 2, the largest times 1
    assert [test.p_value_holm for test in tests] == [4 / 64, 6 / 256, 1]


@pytest.mark.parametrize(
    ("base", "said"),
    [
        (result([0.0] * 6, asked="!"), "toy can't be compared: the prompt of row 0 differs"),
        (result([None] * 6), "toy can't be compared: no row is scored in both"),
        (
            replace(result([0.0] * 6), config=replace(result([0.0]).config, revision="2")),
            "toy can't be compared: revision is '2' in one and '1' in the other",
        ),
    ],
)
def test_a_data_set_that_can_not_be_compared_does_not_count_in_the_correction(base: EvalResult, said: str):
    other = result([0.0] * 6, "other")
    bases = {name: (eval_record(each), sample_records(each)) for name, each in (("toy", base), ("other", other))}
    found, refusals = against_bases([evaluated(result([1.0] * 6)), evaluated(result([1.0] * 6, "other"))], bases)
    (refusal,) = refusals
    assert refusal.startswith(said)
    toy, compared = map(against, found)
    assert toy is None
    assert compared is not None
    assert compared.test.p_value_holm == compared.test.p_value == 2 / 64


def test_facts_are_added_to_what_is_known():
    found = evaluated(result([1.0])).with_facts({"a": 1}).with_facts({"b": 2})
    assert isinstance(found.record, EvalRecord)
    assert found.record.config.facts == {"a": 1, "b": 2}
    moved = Evaluated(name="drift", record=drift(0.5), rows=()).with_facts({"dtype": "float32"})
    assert moved.record == replace(drift(0.5), config={"dtype": "float32"})
