"""Checks that every figure comes from the run folders: python -m evidence.check RUNS PAGE

Scores every row's answer again and recomputes from the scores what eval/*.json, base.json, cell.json, stage.json,
compare.json and continual.json say; renders the report's tables and the page's block again and compares the text. For
docs/evidence.md it also looks which arms won.
Exits with 1 and names the first figure that differs.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.common import BEGIN, END
from evidence.page import PAGE, outcome, render, study_settings
from selfdistill import run_folder
from selfdistill.evaluate.advice import FILE, Measured
from selfdistill.evaluate.results import eval_record
from selfdistill.records.evaluations import DriftRecord, DriftSample, EvalRecord, SampleRecord
from selfdistill.records.studies import (
    BaseRecord,
    CellRecord,
    CompareRecord,
    ContinualRecord,
    Measurements,
    StageRecord,
)
from selfdistill.report.collect import collect
from selfdistill.report.render import to_markdown
from selfdistill.report.tables import all_tables, to_csv
from selfdistill.stats.scores import mean
from selfdistill.studies import compare, continual
from selfdistill.studies.budget import Spent
from selfdistill.studies.measures import task_score
from selfdistill.tasks.scorers import scorer_from
from selfdistill.types import EvalResult, Example, ScoredSample

COUNTED = ("accuracy", "interval", "num_correct", "num_total", "parts", "per_sample_scores")
"""Fields of EvalRecord that are made of the answers' scores."""


def problems(runs: Path, page: Path) -> Iterator[str]:
    """Every figure that differs from what the run folders give, with its file: none where all is well."""
    for folder in sorted(path.parent for path in runs.glob(f"*/{run_folder.COMPARE}")):
        yield from _compare(folder)
        yield from _report(folder)
    for folder in sorted(path.parent for path in runs.glob(f"*/{run_folder.CONTINUAL}")):
        yield from _continual(folder)
        yield from _report(folder)
    yield from _page(runs, page)
    if page == PAGE:
        yield from _differences(run_folder.read_record(FILE, Measured), outcome(runs), str(FILE))


def _compare(folder: Path) -> Iterator[str]:
    """compare.json against base.json and cell.json, and these against the answers."""
    found = run_folder.read_record(folder / run_folder.COMPARE, CompareRecord)
    base = run_folder.read_record(folder / run_folder.BASE, BaseRecord)
    scorer = study_settings(folder)["scorer"]
    yield from _measured(folder / run_folder.EVAL_BEFORE, base.measured, scorer, folder / run_folder.BASE)
    cells: list[CellRecord] = []
    for place in dict.fromkeys(each.run for each in found.checkpoints):
        file = folder / place / run_folder.CELL
        cells.append(run_folder.read_record(file, CellRecord))
        last = cells[-1].checkpoints[-1]
        whole = Measurements(tasks={found.dataset: last.skill}, prior=last.prior, drift=last.drift)
        yield from _measured(folder / place / run_folder.EVAL, whole, scorer, file)
    start = Spent(step=0, tokens=0, seconds=0.0)
    wanted = compare.conclude(
        folder,
        cells,
        found.arms,
        base=compare.checkpoint(base.measured, found.dataset, "", start),
        dataset=found.dataset,
        metric=found.metric,
        seeds=found.seeds,
        budget=(found.budget, found.budget_amount),
    )
    yield from _differences(found, wanted, str(folder / run_folder.COMPARE))


def _continual(folder: Path) -> Iterator[str]:
    """continual.json against base.json and stage.json, and these against the answers."""
    scorer = study_settings(folder)["scorer"]
    base = run_folder.read_record(folder / run_folder.BASE, BaseRecord)
    yield from _measured(folder / run_folder.EVAL_BEFORE, base.measured, scorer, folder / run_folder.BASE)
    for run in run_folder.read_record(folder / run_folder.CONTINUAL, ContinualRecord).runs:
        stages: list[StageRecord] = []
        for number, task in enumerate(run.tasks, start=1):
            place = folder / run.arm / f"stage-{number}-{task}"
            stages.append(run_folder.read_record(place / run_folder.STAGE, StageRecord))
            yield from _measured(place / run_folder.EVAL, stages[-1].measured, scorer, place / run_folder.STAGE)
        own = ("arm", "settings", "distils", "anchor_share", "learning_rate")
        wanted = continual.conclude(run.tasks, stages, base, **{name: getattr(run, name) for name in own})
        yield from _differences(run, wanted, f"{folder / run_folder.CONTINUAL}: {run.arm}")


def _measured(folder: Path, measured: Measurements, scorer: str, file: Path) -> Iterator[str]:
    """A model's numbers, which ``file`` holds, against the answers in an evaluation folder."""
    for task, score in measured.tasks.items():
        path = folder / run_folder.results_file(task)
        written = run_folder.read_record(path, EvalRecord)
        samples = folder / run_folder.samples_file(task)
        rows = run_folder.read_records(samples, SampleRecord)
        counted = eval_record(_scored_again(rows, written, scorer))
        kept = [row.scores.get(written.config.metric) for row in rows]
        yield from _differences(kept, counted.per_sample_scores, f"{samples}: scores")
        for name in COUNTED:
            yield from _differences(getattr(written, name), getattr(counted, name), f"{path}.{name}")
        yield from _differences(score, task_score(counted), f"{file}: {task}")
    if measured.drift:
        rows = run_folder.read_records(folder / run_folder.samples_file(run_folder.DRIFT), DriftSample)
        drift = run_folder.read_record(folder / run_folder.results_file(run_folder.DRIFT), DriftRecord)
        leaks = mean([float(row.leaks) for row in rows])
        same_drift = replace(drift, format_leak_rate=leaks, num_prompts=len(rows))
        yield from _differences(measured.drift, same_drift, f"{file}: drift")


def _scored_again(rows: Sequence[SampleRecord], written: EvalRecord, scorer: str) -> EvalResult:
    """The answers of an evaluation, scored again by the study's scorer."""
    _, score = scorer_from(scorer)
    samples: list[ScoredSample] = []
    for row in rows:
        example = Example(id=row.id, prompt=tuple(row.prompt), reference=row.reference, part=row.part)
        samples.append(
            ScoredSample(
                example=example,
                completion=row.completion,
                num_tokens=row.num_tokens,
                finish_reason=row.finish_reason,
                scores={written.config.metric: score(row.completion, example)},
            )
        )
    return EvalResult(samples=tuple(samples), config=written.config)


def _report(folder: Path) -> Iterator[str]:
    """A study's tables/*.csv and report.md against what its folder gives now."""
    results = collect(folder)
    tables = run_folder.REPORT_TABLES
    wanted = {f"{tables}/{table.name}.csv": to_csv(table) for table in all_tables(results)}
    for place in sorted({*wanted, *(path.relative_to(folder).as_posix() for path in folder.glob(f"{tables}/*.csv"))}):
        yield from _text(folder / place, wanted.get(place, ""))
    page = folder / run_folder.REPORT_TEXT
    written = page.read_text(encoding="utf-8").rpartition("Written ")[2].partition(" by ")[0]
    yield from _text(page, to_markdown(results).replace(results.written, written))


def _page(runs: Path, page: Path) -> Iterator[str]:
    text = page.read_text(encoding="utf-8")
    block = text.partition(f"{BEGIN}\n")[2].partition(f"\n{END}")[0]
    yield from _lines(str(page), block, render(runs))


def _text(path: Path, wanted: str) -> Iterator[str]:
    yield from _lines(str(path), path.read_text(encoding="utf-8") if path.is_file() else "", wanted)


def _lines(where: str, found: str, wanted: str) -> Iterator[str]:
    ours, theirs = found.splitlines(), wanted.splitlines()
    for number in range(max(len(ours), len(theirs))):
        old, new = (lines[number] if number < len(lines) else "(nothing)" for lines in (ours, theirs))
        if old != new:
            yield f"{where}, line {number + 1}: {old!r}, the run folders give {new!r}"


def _differences(found: Any, wanted: Any, where: str) -> Iterator[str]:
    """Where ``found`` is not ``wanted``."""
    if is_dataclass(wanted) and is_dataclass(found) and not isinstance(wanted, type) and not isinstance(found, type):
        yield from _differences(asdict(found), asdict(wanted), where)
    elif isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for name in dict.fromkeys([*wanted, *found]):
            yield from _differences(found.get(name), wanted.get(name), f"{where}.{name}")
    elif isinstance(wanted, list | tuple) and isinstance(found, list | tuple) and len(found) == len(wanted):
        for number, (old, new) in enumerate(zip(found, wanted, strict=True)):
            yield from _differences(old, new, f"{where}[{number}]")
    elif isinstance(wanted, float) and isinstance(found, float | int):
        if not math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-12):
            yield f"{where}: {found}, the run folders give {wanted}"
    elif found != wanted:
        yield f"{where}: {str(found)[:200]}, the run folders give {str(wanted)[:200]}"


def main() -> None:
    """Says whether all figures come from the folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("page", type=Path)
    arguments = parser.parse_args()
    if (first := next(problems(arguments.runs, arguments.page), None)) is not None:
        sys.exit(first)
    print(f"Every figure of {arguments.page} and of the reports comes from {arguments.runs}.")


if __name__ == "__main__":
    main()
