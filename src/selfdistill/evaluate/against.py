"""Compares a result with an earlier one of the same test, such as the base model's."""

from collections.abc import Sequence
from pathlib import Path

from selfdistill import run_folder
from selfdistill.errors import UserError
from selfdistill.evaluate.leak import leak_check
from selfdistill.records.evaluations import AgainstBase, EvalRecord, SampleRecord
from selfdistill.records.pairing import paired_scores
from selfdistill.stats.paired import paired_test
from selfdistill.stats.same_test import require_comparable
from selfdistill.stats.scores import mean
from selfdistill.types import EvalConfig, ScoredSample


def read_results(folder: Path, dataset: str) -> tuple[EvalRecord, list[SampleRecord]]:
    """The results and samples of a data set that ``eval`` wrote to ``folder``. Raises UserError if they are missing."""
    results, samples = folder / run_folder.results_file(dataset), folder / run_folder.samples_file(dataset)
    if not results.is_file() or not samples.is_file():
        there = ", ".join(run_folder.evaluated_datasets(folder)) if folder.is_dir() else ""
        has = f"It has {there}." if there else "Name the --output_dir of an earlier eval."
        raise UserError(f"--base_results: {folder} holds no results of {dataset}. {has}")
    return run_folder.read_record(results, EvalRecord), run_folder.read_records(samples, SampleRecord)


def against_base(
    config: EvalConfig,
    rows: Sequence[SampleRecord],
    samples: Sequence[ScoredSample],
    base: EvalRecord,
    base_rows: Sequence[SampleRecord],
) -> AgainstBase:
    """The paired comparison over the rows that both have a score for, and the leak check.

    Args:
        config: how the result was made.
        rows: the records of its samples.
        samples: its samples.
        base: the base's results.
        base_rows: the records of the base's samples.

    Raises:
        UserError: they are not results of the same test, or have no scored row in common; the message says how they
            differ.
    """
    require_comparable(base.config, config, config.task)
    base_scores, scores = paired_scores(base_rows, rows, config.metric, config.task)
    if not scores:
        raise UserError(
            f"{config.task} can't be compared: no row is scored in both results. Evaluate both on the same rows."
        )
    return AgainstBase(
        base_accuracy=mean(base_scores),
        accuracy=mean(scores),
        test=paired_test(base_scores, scores),
        leak=leak_check(samples, {row.id: row.completion for row in base_rows}),
    )
