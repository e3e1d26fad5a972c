"""Warnings that a reader needs before trusting the numbers."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from selfdistill import run_folder
from selfdistill.records.ledger import Version
from selfdistill.report.contents import AnsweredRow, Evaluation, RunDrift
from selfdistill.report.evaluations import differences
from selfdistill.stats.texts import speaks_of_example

FORMAT_LEAK = 0.1
"""Smallest rise of the format leak rate, in [0, 1], that is a warning."""
PHRASE_SHARE = 0.01
"""Smallest rise of the share of completions that speak of an example, in [0, 1], that is a warning."""


def of_gate(folders: Mapping[str, Path]) -> list[str]:
    """Skills whose loss made a ledger's gate refuse a run's model. Raises UserError for a broken gate.json."""
    found: list[str] = []
    for run, folder in folders.items():
        path = folder / run_folder.GATE
        for verdict in run_folder.read_record(path, Version).verdicts if path.is_file() else ():
            if verdict.refused:
                found.append(
                    f"{run}: refused by the ledger's gate: {verdict.skill} fell from {verdict.then:.1%} to "
                    f"{verdict.now:.1%} over {verdict.num_items} items, at least {-100 * verdict.bound:.1f} "
                    "points beyond noise."
                )
    return found


def of_settings(
    before: Mapping[str, Mapping[str, Evaluation]], after: Mapping[str, Mapping[str, Evaluation]]
) -> list[str]:
    """Evaluations before and after a run that are not the same test, or share only some of their rows."""
    found: list[str] = []
    for run, evaluations in after.items():
        for dataset, evaluation in evaluations.items():
            earlier = before[run].get(dataset)
            if earlier and (names := differences(earlier, evaluation)):
                found.append(
                    f"{run}: {dataset} before and after differ in {', '.join(names)}, so they are not compared."
                )
            elif earlier and earlier.rows.keys() != evaluation.rows.keys():
                shared = len(earlier.rows.keys() & evaluation.rows.keys())
                found.append(f"{run}: only {shared} rows of {dataset} were scored both before and after.")
    return found


def of_drift(drift: Sequence[RunDrift]) -> list[str]:
    """Runs whose answers to general prompts took on the new task's format."""
    before = {one.run: one.drift.format_leak_rate for one in drift if one.when == "before"}
    after = {one.run: one.drift.format_leak_rate for one in drift if one.when == "after"}
    return [
        f"{run}: the new task's format leaks into {rate:.0%} of general answers ({before.get(run, 0.0):.0%} before)."
        for run, rate in after.items()
        if rate - before.get(run, 0.0) >= FORMAT_LEAK
    ]


def of_phrases(samples: Sequence[AnsweredRow]) -> list[str]:
    """Runs whose completions speak of an example that only the teacher was shown."""
    before = [speaks_of_example(s.before.completion) for s in samples if s.before]
    earlier = sum(before) / len(before) if before else 0.0
    after: dict[str, list[bool]] = defaultdict(list)
    for sample in samples:
        for run, answer in sample.after.items():
            after[run].append(speaks_of_example(answer.completion))
    return [
        f"{run}: {sum(hits)} of {len(hits)} completions speak of an example that only the teacher saw "
        f"({earlier:.1%} before)."
        for run, hits in after.items()
        if sum(hits) / len(hits) - earlier >= PHRASE_SHARE
    ]
