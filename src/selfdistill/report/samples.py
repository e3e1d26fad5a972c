"""Evaluation rows with their answers side by side, and which of them to show."""

import json
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any

from selfdistill.records.evaluations import SampleRecord
from selfdistill.report.contents import Answer, AnsweredRow, Evaluation
from selfdistill.report.training import spread
from selfdistill.types import Message, message_text

SAMPLES_SHOWN = 200
"""Largest number of evaluation rows on the page."""
RUNS_SHOWN = 4
"""Largest number of runs whose answers are shown side by side."""


def gather(
    before: Mapping[str, Mapping[str, Evaluation]], after: Mapping[str, Mapping[str, Evaluation]]
) -> list[AnsweredRow]:
    """Every evaluation row of every data set, with the answers of the given runs.

    Args:
        before: evaluations before training, by run and data set.
        after: evaluations after it, by run and data set.
    """
    datasets = list(dict.fromkeys(name for evaluations in after.values() for name in evaluations))
    answered: list[AnsweredRow] = []
    for dataset in datasets:
        runs = {run: evaluations[dataset] for run, evaluations in after.items() if dataset in evaluations}
        earlier = {run: before.get(run, {}).get(dataset) for run in runs}
        rows = {name: row for evaluation in runs.values() for name, row in evaluation.rows.items()}
        for name, row in rows.items():
            answers = {
                run: _answer(evaluation.rows[name], evaluation.metric, _row(earlier[run], name))
                for run, evaluation in runs.items()
                if name in evaluation.rows
            }
            first = next((r[name] for r in (e.rows for e in earlier.values() if e) if name in r), None)
            metric = next(iter(runs.values())).metric
            answered.append(
                AnsweredRow(
                    dataset=dataset,
                    id=name,
                    part=row.part,
                    prompt=prompt_text(row.prompt),
                    reference=reference_text(row.reference),
                    before=_answer(first, metric, None) if first else None,
                    after=answers,
                )
            )
    return answered


def choose(samples: Sequence[AnsweredRow], limit: int = SAMPLES_SHOWN) -> list[AnsweredRow]:
    """At most ``limit`` samples in their order; each data set and status gets an equal share, or all it has."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        groups[sample.dataset, sample.status].append(index)
    queues = [deque(spread(group, limit)) for group in groups.values()]
    chosen: list[int] = []
    while queues and len(chosen) < limit:
        for queue in queues:
            chosen.append(queue.popleft())
        queues = [queue for queue in queues if queue]
    return [samples[index] for index in sorted(chosen[:limit])]


def prompt_text(prompt: Sequence[Message]) -> str:
    """Chat turns as text, each below its role; a single turn without a role."""
    if len(prompt) == 1:
        return message_text(prompt[0])
    return "\n\n".join(f"[{message.get('role', '')}]\n{message_text(message)}" for message in prompt)


def reference_text(reference: Any) -> str:
    """The reference answer as text: JSON if it is not a string, empty if there is none."""
    if reference is None:
        return ""
    return reference if isinstance(reference, str) else json.dumps(reference, ensure_ascii=False)


def status_of(score: float | None, before: float | None) -> str:
    """``fixed``, ``broke`` or ``same`` as before; empty if there are no two scores."""
    if score is None or before is None:
        return ""
    return "fixed" if score > before else "broke" if score < before else "same"


def _row(evaluation: Evaluation | None, name: str) -> SampleRecord | None:
    return evaluation.rows.get(name) if evaluation else None


def _answer(row: SampleRecord, metric: str, earlier: SampleRecord | None) -> Answer:
    """A row's answer with its score by ``metric``, compared with an earlier answer if there is one."""
    score = row.scores.get(metric)
    before = earlier.scores.get(metric) if earlier else None
    return Answer(
        completion=row.completion,
        score=score,
        num_tokens=row.num_tokens,
        finish_reason=row.finish_reason,
        status=status_of(score, before),
    )
