"""Results as records and files, with numbers counted by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from selfdistill.evaluate.results import (
    eval_record,
    sample_records,
    score_of,
    write_evaluation,
    write_records,
    write_reference_view,
)
from selfdistill.evaluate.run import reported_result
from selfdistill.records.evaluations import EvalRecord, SampleRecord
from selfdistill.run_folder import evaluated_datasets, read_record, read_records
from selfdistill.types import EvalResult, Example, ScoredSample
from tests.support.toy_task import toy_task

TASK = toy_task(revision="7", scorers={"equal": lambda *_: None, "short": lambda *_: None})


def sample(id: str, part: str, equal: float | None, short: float) -> ScoredSample:
    return ScoredSample(
        example=Example(id=id, prompt=({"role": "user", "content": f"{id}?"},), reference=[1], part=part),
        completion=f"{id}!",
        num_tokens=3,
        finish_reason="length" if id == "c" else "stop",
        scores={"equal": equal, "short": short},
    )


SAMPLES = (
    sample("a", "easy", 1.0, 1.0),
    sample("b", "hard", 1.0, 1.0),
    sample("c", "hard", 0.0, 0.0),
    sample("d", "hard", None, 1.0),
)


@pytest.fixture
def result() -> EvalResult:
    return reported_result(TASK, SAMPLES, "chat", {"model": "m"})


def test_unscored_rows_are_not_wrong(result: EvalResult):
    record = eval_record(result)
    assert (record.num_correct, record.num_total, record.num_unscored) == (2, 3, 1)
    assert record.accuracy == pytest.approx(2 / 3)
    assert record.per_sample_scores == [1.0, 1.0, 0.0, None]
    # Wilson's interval of 2 in 3 at 95%, worked out by hand: centre 0.5731, half width 0.3654
    assert record.interval == pytest.approx((0.2077, 0.9385), abs=1e-4)
    assert record.score == record.metrics["equal"]


def test_parts_and_further_scorers(result: EvalResult):
    record = eval_record(result)
    assert record.parts == {"easy": score_of([1.0]), "hard": score_of([1.0, 0.0])}
    assert record.mean_of_parts == pytest.approx((1 + 1 / 2) / 2)
    assert list(record.metrics) == ["equal", "short"]
    assert (record.metrics["short"].num_correct, record.metrics["short"].num_total) == (3, 4)
    assert (record.config.revision, record.config.metric, record.config.facts) == ("7", "equal", {"model": "m"})


def test_lengths_and_cuts(result: EvalResult):
    record = eval_record(result)
    assert (record.truncated_share, record.mean_completion_tokens) == (1 / 4, 3)


def test_where_nothing_was_scored_there_is_no_accuracy(result: EvalResult):
    unscored = tuple(replace(each, scores={"equal": None, "short": None}) for each in SAMPLES)
    record = eval_record(replace(result, samples=unscored))
    assert (record.accuracy, record.num_correct, record.num_total, record.num_unscored) == (None, 0, 0, 4)
    assert record.interval == (0, 1)
    assert record.mean_of_parts is None


def test_a_score_counts_whole_answers_as_whole_numbers():
    whole, partial = score_of([1.0, 1.0, 0.0]), score_of([0.5, 0.25])
    assert (whole.num_correct, type(whole.num_correct)) == (2, int)
    assert (partial.num_correct, partial.accuracy) == (0.75, 0.375)


def test_every_row_is_a_line(result: EvalResult):
    first, *_, last = sample_records(result)
    assert first == SampleRecord(
        id="a",
        part="easy",
        prompt=[{"role": "user", "content": "a?"}],
        reference=[1],
        completion="a!",
        scores={"equal": 1.0, "short": 1.0},
        num_tokens=3,
        finish_reason="stop",
    )
    assert last.scores == {"equal": None, "short": 1.0}


def test_an_evaluation_has_two_files(tmp_path: Path, result: EvalResult):
    record = write_evaluation(tmp_path, result)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy.json", "toy.samples.jsonl"]
    assert read_record(tmp_path / "toy.json", EvalRecord) == record == eval_record(result)
    assert read_records(tmp_path / "toy.samples.jsonl", SampleRecord) == sample_records(result)
    assert evaluated_datasets(tmp_path) == ["toy"]


def test_an_evaluation_that_stops_between_its_files_does_not_count(
    tmp_path: Path, result: EvalResult, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("selfdistill.run_folder.write_json", full)
    with pytest.raises(OSError, match="No space"):
        write_records(tmp_path, "toy", eval_record(result), sample_records(result))
    assert evaluated_datasets(tmp_path) == []


def test_the_references_files_show_the_same_objects(tmp_path: Path, result: EvalResult):
    record = write_evaluation(tmp_path, result)
    write_reference_view(tmp_path, record, sample_records(result))
    shown = json.loads((tmp_path / "eval_results.json").read_text())
    assert shown == json.loads((tmp_path / "toy.json").read_text())
    assert {"accuracy", "num_correct", "num_total", "per_sample_scores", "config"} < shown.keys()
    lines = (tmp_path / "toy.samples.jsonl").read_text().splitlines()
    assert json.loads((tmp_path / "eval_responses.json").read_text()) == list(map(json.loads, lines))
