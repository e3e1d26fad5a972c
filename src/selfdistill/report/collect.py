"""Reads a run's folder, or a folder with several runs, into the report's Results."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import combinations
from pathlib import Path

from selfdistill import run_folder
from selfdistill.errors import UserError
from selfdistill.records.pairing import row_test
from selfdistill.records.studies import CompareRecord, ContinualRecord, SequenceRecord
from selfdistill.report import warnings
from selfdistill.report.contents import Comparison, Evaluation, Results, Run, RunPair
from selfdistill.report.evaluations import compare, differences, read_drift, read_evaluations
from selfdistill.report.samples import RUNS_SHOWN, choose, gather
from selfdistill.report.training import read_run
from selfdistill.report.watched import watched_rows
from selfdistill.run_folder import CHECKPOINT, COMPARE, CONTINUAL, EARLIER, EVAL, EVAL_BEFORE
from selfdistill.stats.paired import BETTER, NOT_ENOUGH_DATA, WORSE

DEPTH = 3
"""Levels of subfolders that are searched for runs."""


def collect(folder: Path) -> Results:
    """Reads everything in ``folder`` that the report shows.

    A folder is a run if it holds a run_config.json, a metrics.jsonl, an eval folder or results of ``eval``. A run
    without an eval-before folder is compared with that of the nearest parent folder, up to ``folder``.

    Raises:
        UserError: there is nothing to report on, or a file is broken.
    """
    folders = run_folders(folder)
    study, sequences = _study(folder), _sequences(folder)
    if not folders and study is None and not sequences:
        raise UserError(
            f"{folder} holds no run: no {run_folder.RUN_CONFIG}, results of eval, {COMPARE} or {CONTINUAL}. "
            "Name the --output_dir of a train, eval, compare or continual."
        )
    runs = {name: replace(read_run(path, name), watched=watched_rows(path)) for name, path in folders.items()}
    before = {name: read_evaluations(_before(path, folder)) for name, path in folders.items()}
    after = {
        name: task_first(read_evaluations(path) | read_evaluations(path / EVAL), runs[name].task)
        for name, path in folders.items()
    }
    comparisons = [
        comparison
        for name, evaluations in after.items()
        for dataset, evaluation in evaluations.items()
        for comparison in compare(
            name, before[name].get(dataset), evaluation, headline=dataset == next(iter(evaluations))
        )
    ]
    drift = [
        measured
        for name, path in folders.items()
        for place, when in ((_before(path, folder), "before"), (path, "after"), (path / EVAL, "after"))
        for measured in read_drift(place, name, when)
    ]
    arms = {point.run: point.arm for point in study.checkpoints if point.chosen} if study else {}
    shown = runs_shown([run for run in runs.values() if not arms or run.name in arms], arms)
    samples = gather(before, {name: after[name] for name in shown})
    return Results(
        title=folder.resolve().name,
        written=datetime.now().astimezone().isoformat(timespec="seconds"),
        selfdistill=run_folder.versions().get("selfdistill", "unknown"),
        verdict=common_verdict([c for c in comparisons if not arms or c.run in arms]),
        warnings=[
            *warnings.of_gate(folders),
            *warnings.of_settings(before, after),
            *warnings.of_drift(drift),
            *warnings.of_phrases(samples),
        ],
        comparisons=comparisons,
        between_runs=between({name: after[name] for name in shown}),
        drift=drift,
        runs=list(runs.values()),
        shown=shown,
        samples=choose(samples),
        num_samples=len(samples),
        compare=study,
        continual=sequences,
    )


def run_folders(folder: Path) -> dict[str, Path]:
    """The run folders at and below ``folder``, by name; evaluation folders of runs are not searched.

    A run that a study without a result yet is making has the name that it will have.
    """
    concluded = any((folder / name).is_file() for name in (COMPARE, CONTINUAL))
    folders: dict[str, Path] = {}
    for top in (folder, *([] if concluded else _inside(folder / run_folder.WORK))):
        level = [top]
        for _ in range(DEPTH + 1):
            for path in filter(_is_run, level):
                name = folder.resolve().name if path == folder else path.relative_to(top).as_posix()
                folders.setdefault(name, path)
            level = [child for path in level for child in _inside(path) if _may_hold_runs(child)]
    return folders


def task_first(evaluations: Mapping[str, Evaluation], task: str) -> dict[str, Evaluation]:
    """The same evaluations with that of the run's own task first, since the verdict is about the first one."""
    return dict(sorted(evaluations.items(), key=lambda item: item[0] != task))


def common_verdict(comparisons: Sequence[Comparison]) -> str:
    """WORSE if any headline is worse, BETTER if all are better, otherwise NOT ENOUGH DATA."""
    verdicts = {c.test.verdict if c.test else NOT_ENOUGH_DATA for c in comparisons if c.headline}
    if WORSE in verdicts:
        return WORSE
    return BETTER if verdicts == {BETTER} else NOT_ENOUGH_DATA


def runs_shown(runs: Sequence[Run], arms: Mapping[str, str]) -> list[str]:
    """Names of the runs to show in full, at most RUNS_SHOWN: one of each arm (or method) first, then the others.

    ``arms``: the arm of each run of a study.
    """
    first = {arms.get(run.name, run.method): run.name for run in reversed(runs)}
    names = [run.name for run in runs]
    order = sorted(names, key=lambda name: (name not in first.values(), names.index(name)))[:RUNS_SHOWN]
    return sorted(order, key=names.index)


def between(after: Mapping[str, Mapping[str, Evaluation]]) -> list[RunPair]:
    """Tests every two runs on each data set that both were evaluated on in the same way.

    ``after``: evaluations by run and data set.
    """
    pairs: list[RunPair] = []
    for (first, ours), (second, theirs) in combinations(after.items(), 2):
        for dataset in ours:
            if dataset not in theirs or differences(ours[dataset], theirs[dataset]):
                continue
            metric = ours[dataset].metric
            if test := row_test(ours[dataset].rows.values(), theirs[dataset].rows.values(), metric, dataset):
                pairs.append(RunPair(first=first, second=second, dataset=dataset, metric=metric, test=test))
    return pairs


def _study(folder: Path) -> CompareRecord | None:
    path = folder / COMPARE
    return run_folder.read_record(path, CompareRecord) if path.is_file() else None


def _sequences(folder: Path) -> list[SequenceRecord]:
    path = folder / CONTINUAL
    return run_folder.read_record(path, ContinualRecord).runs if path.is_file() else []


def _is_run(path: Path) -> bool:
    names = (run_folder.RUN_CONFIG, run_folder.METRICS, EVAL, run_folder.results_file(run_folder.DRIFT))
    return any((path / name).exists() for name in names) or bool(run_folder.evaluated_datasets(path))


def _inside(folder: Path) -> list[Path]:
    """What is in a folder, sorted; nothing if it was moved or deleted meanwhile, or is no folder."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _before(path: Path, top: Path) -> Path:
    """The eval-before folder of a run or of its nearest parent, up to ``top``; it may not exist."""
    while path != top and not (path / EVAL_BEFORE).is_dir():
        path = path.parent
    return path / EVAL_BEFORE


def _may_hold_runs(path: Path) -> bool:
    return (
        path.is_dir() and path.name not in (EVAL, EVAL_BEFORE) and not path.name.startswith((".", CHECKPOINT, EARLIER))
    )
