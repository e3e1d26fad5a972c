"""Answers to held-out rows as a run's model learned (``train --eval_steps``)."""

from pathlib import Path

from selfdistill import run_folder
from selfdistill.records.runs import AnswerRecord
from selfdistill.report.contents import Answer, WatchedRow
from selfdistill.report.samples import prompt_text, reference_text, status_of


def watched_rows(folder: Path) -> list[WatchedRow]:
    """The rows in ``answers.jsonl``, in its order; none if there is no such file. Raises UserError if it is broken."""
    path = folder / run_folder.ANSWERS
    records = run_folder.read_records(path, AnswerRecord) if path.is_file() else []
    by_row: dict[str, list[AnswerRecord]] = {}
    for record in records:
        by_row.setdefault(record.id, []).append(record)
    return [
        WatchedRow(
            id=id,
            prompt=prompt_text(answered[0].prompt),
            reference=reference_text(answered[0].reference),
            answers={record.step: _answer(record, answered[0]) for record in answered},
        )
        for id, answered in by_row.items()
    ]


def _answer(record: AnswerRecord, first: AnswerRecord) -> Answer:
    """The answer, compared with the one before the run."""
    return Answer(
        completion=record.completion,
        score=record.score,
        num_tokens=record.num_tokens,
        finish_reason=record.finish_reason,
        status=status_of(record.score, first.score) if record.step else "",
    )
