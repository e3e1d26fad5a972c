"""Reads the evaluations in a folder, and compares two evaluations of the same data set."""

from pathlib import Path

from selfdistill import run_folder
from selfdistill.records.evaluations import DriftRecord, EvalRecord, SampleRecord, Score
from selfdistill.records.pairing import row_test
from selfdistill.report.contents import Comparison, Estimate, Evaluation, RunDrift
from selfdistill.stats.paired import PairedTest
from selfdistill.stats.same_test import differing_settings


def read_evaluations(folder: Path) -> dict[str, Evaluation]:
    """The evaluations in a folder, by data set, without drift. Raises UserError for a broken file."""
    evaluations: dict[str, Evaluation] = {}
    for name in run_folder.evaluated_datasets(folder):
        record = run_folder.read_record(folder / run_folder.results_file(name), EvalRecord)
        samples = run_folder.read_records(folder / run_folder.samples_file(name), SampleRecord)
        evaluations[name] = Evaluation(dataset=name, record=record, rows={row.id: row for row in samples})
    return evaluations


def read_drift(folder: Path, run: str, when: str) -> list[RunDrift]:
    """The drift in an evaluation folder, as a list of one, or none. Raises UserError for a broken file.

    ``run``: name of the run. ``when``: before or after training.
    """
    path = folder / run_folder.results_file(run_folder.DRIFT)
    if not path.is_file():
        return []
    return [RunDrift(run=run, when=when, drift=run_folder.read_record(path, DriftRecord))]


def estimate(score: Score) -> Estimate:
    """A score with its interval, in the form of the report's tables."""
    low, high = score.interval
    return Estimate(value=score.accuracy, low=low, high=high, num_total=score.num_total)


def change_estimate(test: PairedTest) -> Estimate:
    """A test's mean change with its interval, in the form of the report's tables."""
    return Estimate(value=test.change, low=test.low, high=test.high, num_total=test.num_items)


def compare(run: str, before: Evaluation | None, after: Evaluation, *, headline: bool) -> list[Comparison]:
    """Compares a data set before and after a run.

    Args:
        run: name of the run.
        before: the evaluation before training, if there is one.
        after: the evaluation after training.
        headline: True if the run's verdict is about this data set.

    Returns:
        One comparison for the headline scorer over all rows, then one for each part, then one for each other scorer.
        ``test`` is None where the two evaluations have no scored row in common or are not the same test.
    """
    comparable = before is not None and not differences(before, after)
    record = after.record
    scopes = [("", after.metric, record.score)]
    scopes += [(part, after.metric, score) for part, score in record.parts.items()]
    scopes += [("", name, score) for name, score in record.metrics.items() if name != after.metric]
    comparisons: list[Comparison] = []
    for part, metric, score in scopes:
        test = None
        if before is not None and comparable:
            test = row_test(before.rows.values(), after.rows.values(), metric, after.dataset, part)
        earlier = _earlier(before, part, metric) if before else None
        comparisons.append(
            Comparison(
                run=run,
                dataset=after.dataset,
                part=part,
                metric=metric,
                headline=headline and not part and metric == after.metric,
                before=estimate(earlier) if earlier else None,
                after=estimate(score),
                test=test,
            )
        )
    return comparisons


def differences(before: Evaluation, after: Evaluation) -> list[str]:
    """What makes two evaluations different tests: names of settings, and ``the prompts`` if those of a row differ."""
    shared = before.rows.keys() & after.rows.keys()
    same_prompts = all(before.rows[name].prompt == after.rows[name].prompt for name in shared)
    settings = differing_settings(before.record.config, after.record.config)
    return settings if same_prompts else [*settings, "the prompts"]


def _earlier(before: Evaluation, part: str, metric: str) -> Score | None:
    """The score of a part (empty for all rows) by a scorer, if the evaluation has it."""
    if part:
        return before.record.parts.get(part)
    return before.record.score if metric == before.metric else before.record.metrics.get(metric)
