"""Evaluations in a folder, and what changed from one to another."""

from pathlib import Path

from selfdistill import run_folder
from selfdistill.records.evaluations import DriftRecord, EvalRecord, SampleRecord, Score
from selfdistill.records.pairing import row_test
from selfdistill.report.contents import Comparison, Estimate, Evaluation, RunDrift
from selfdistill.stats.same_test import differing_settings


def read_evaluations(folder: Path) -> dict[str, Evaluation]:
    """Evaluations in an evaluation folder by data set; drift is not among them. Raises UserError for a broken file."""
    found: dict[str, Evaluation] = {}
    for name in run_folder.evaluated_datasets(folder):
        record = run_folder.read_record(folder / run_folder.results_file(name), EvalRecord)
        samples = run_folder.read_records(folder / run_folder.samples_file(name), SampleRecord)
        found[name] = Evaluation(dataset=name, record=record, rows={row.id: row for row in samples})
    return found


def read_drift(folder: Path, run: str, when: str) -> list[RunDrift]:
    """The drift measured in an evaluation folder, if any."""
    path = folder / run_folder.results_file(run_folder.DRIFT)
    if not path.is_file():
        return []
    return [RunDrift(run=run, when=when, drift=run_folder.read_record(path, DriftRecord))]


def estimate(score: Score) -> Estimate:
    """A score as the report's tables take it."""
    low, high = score.interval
    return Estimate(value=score.accuracy, low=low, high=high, num_total=score.num_total)


def compare(run: str, before: Evaluation | None, after: Evaluation, *, headline: bool) -> list[Comparison]:
    """The headline scorer over all rows, then over each part, then the other scorers over all rows."""
    comparable = before is not None and not differences(before, after)
    record = after.record
    scopes = [("", after.metric, record.score)]
    scopes += [(part, after.metric, score) for part, score in record.parts.items()]
    scopes += [("", name, score) for name, score in record.metrics.items() if name != after.metric]
    found: list[Comparison] = []
    for part, metric, score in scopes:
        test = None
        if before is not None and comparable:
            test = row_test(before.rows.values(), after.rows.values(), metric, after.dataset, part)
        earlier = _earlier(before, part, metric) if before else None
        found.append(
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
    return found


def differences(before: Evaluation, after: Evaluation) -> list[str]:
    """What makes two evaluations different tests: names of settings, and ``the prompts`` of rows with the same id."""
    shared = before.rows.keys() & after.rows.keys()
    same_prompts = all(before.rows[name].prompt == after.rows[name].prompt for name in shared)
    found = differing_settings(before.record.config, after.record.config)
    return found if same_prompts else [*found, "the prompts"]


def _earlier(before: Evaluation, part: str, metric: str) -> Score | None:
    if part:
        return before.record.parts.get(part)
    return before.record.score if metric == before.metric else before.record.metrics.get(metric)
