"""Turns results into records, and writes them to the files of an evaluation."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from selfdistill import run_folder
from selfdistill.evaluate.attempts import majority, pass_rates
from selfdistill.records.evaluations import CompletionRecord, DriftRecord, DriftSample, EvalRecord, SampleRecord, Score
from selfdistill.stats.scores import mean, wilson_interval
from selfdistill.types import EvalResult, ScoredSample


def score_of(scores: Sequence[float]) -> Score:
    """The mean of scores, with its interval."""
    total = math.fsum(scores)
    return Score(
        accuracy=mean(scores) if scores else None,
        interval=wilson_interval(total, len(scores)),
        num_correct=int(total) if total == int(total) else total,
        num_total=len(scores),
    )


def scored(samples: Sequence[ScoredSample], metric: str, part: str | None = None) -> list[float]:
    """The scores of one scorer, without unscored samples; only those of ``part`` if it is given."""
    chosen = (sample.scores[metric] for sample in samples if part is None or sample.example.part == part)
    return [score for score in chosen if score is not None]


def eval_record(result: EvalResult) -> EvalRecord:
    """A result's record for ``<dataset>.json``."""
    samples, metric = result.samples, result.metric
    names = dict.fromkeys(sample.example.part for sample in samples if sample.example.part)
    parts = {part: score_of(scored(samples, metric, part)) for part in names}
    known = [score.accuracy for score in parts.values() if score.accuracy is not None]
    scores = [sample.scores[metric] for sample in samples]
    completions = [one for sample in samples for one in sample.attempts or (sample,)]
    votes = majority(result)
    return EvalRecord(
        **asdict(score_of(result.scores)),
        num_unscored=scores.count(None),
        truncated_share=mean([float(one.finish_reason == "length") for one in completions]),
        mean_completion_tokens=mean([one.num_tokens for one in completions]),
        metrics={name: score_of(scored(samples, name)) for name in samples[0].scores},
        parts=parts,
        mean_of_parts=mean(known) if known else None,
        per_sample_scores=scores,
        config=result.config,
        pass_at_k=pass_rates(result),
        majority_vote=score_of(votes) if votes is not None else None,
    )


def sample_records(result: EvalResult) -> list[SampleRecord]:
    """A result's records for ``<dataset>.samples.jsonl``, one per row."""
    return [
        SampleRecord(
            id=sample.example.id,
            part=sample.example.part,
            prompt=list(sample.example.prompt),
            reference=sample.example.reference,
            completion=sample.completion,
            scores=sample.scores,
            num_tokens=sample.num_tokens,
            finish_reason=sample.finish_reason,
            completions=[_completion(one) for one in sample.attempts],
        )
        for sample in result.samples
    ]


def write_evaluation(folder: Path, result: EvalResult) -> EvalRecord:
    """Writes a task's two files into an evaluation folder; returns the record with the numbers."""
    record = eval_record(result)
    write_records(folder, result.task, record, sample_records(result))
    return record


def write_records(
    folder: Path,
    dataset: str,
    record: EvalRecord | DriftRecord,
    samples: Sequence[SampleRecord] | Sequence[DriftSample],
) -> None:
    """Writes the two files of a data set. The numbers come last: once they are there, the evaluation counts as done."""
    run_folder.write_jsonl(folder / run_folder.samples_file(dataset), samples)
    run_folder.write_json(folder / run_folder.results_file(dataset), record)


def write_reference_view(folder: Path, record: EvalRecord | DriftRecord, samples: Sequence[object]) -> None:
    """Writes the same results under the reference implementation's two file names."""
    run_folder.write_json(folder / run_folder.REFERENCE_RESPONSES, list(samples))
    run_folder.write_json(folder / run_folder.REFERENCE_RESULTS, record)


def _completion(sample: ScoredSample) -> CompletionRecord:
    return CompletionRecord(
        completion=sample.completion,
        scores=sample.scores,
        num_tokens=sample.num_tokens,
        finish_reason=sample.finish_reason,
    )
